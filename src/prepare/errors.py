"""Errors with the exit codes of sft-dist (include/sft/base/error.h), and text from files as it may be printed."""

import unicodedata

INVALID_DATA = 89
OUT_OF_MEMORY = 90
STORAGE = 91
CONFIG = 92


class PrepareError(Exception):
    """One message for the user: what, where, what to do."""

    def __init__(self, message: str, code: int = INVALID_DATA):
        super().__init__(message, code)  # both arguments: it crosses process boundaries by pickle
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


def printable(text: str) -> str:
    """Control characters, with which a file could steer the terminal, and halves of surrogate pairs, which cannot be printed, as escapes."""
    return "".join(repr(char)[1:-1] if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t" else char for char in text)
