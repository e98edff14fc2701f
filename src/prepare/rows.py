"""From a source row to its text, and why a row cannot be used."""

import hashlib
import importlib.util
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .errors import CONFIG, PrepareError

EXAMPLES_PER_REASON = 3


@dataclass
class Dropped:
    """Rows left out: how many for each reason, and the first few by name."""

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES_PER_REASON:
            places.append(place)

    def lines(self) -> list[str]:
        return [f"{count:,} {reason} ({', '.join(self.examples[reason])}{', ...' if count > len(self.examples[reason]) else ''})"
                for reason, count in self.counts.most_common()]


class FormattingFunction:
    """formatting_func = file.py:function, a function from a row (dict) to its text."""

    def __init__(self, specification: str):
        self.specification = specification
        file, separator, self.name = specification.rpartition(":")
        if not separator or not file or not self.name.isidentifier():
            raise PrepareError(f"formatting_func = {specification}: expected file.py:function.", CONFIG)
        self.file = Path(file).expanduser()
        if not self.file.is_file():
            raise PrepareError(f"formatting_func = {specification}: there is no file {self.file}.", CONFIG)
        self.function = None

    def __getstate__(self):  # a worker process loads the file itself
        return {**self.__dict__, "function": None}

    def sha256(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def load(self) -> None:
        spec = importlib.util.spec_from_file_location("sft_formatting_func", self.file)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's code
            raise PrepareError(f"formatting_func: {self.file} cannot be loaded: {type(error).__name__}: {error}.", CONFIG) from error
        self.function = getattr(module, self.name, None)
        if not callable(self.function):
            raise PrepareError(f"formatting_func: {self.file} has no function '{self.name}'.", CONFIG)

    def __call__(self, row: dict, place: str) -> str:
        if self.function is None:
            self.load()
        try:
            text = self.function(row)
        except Exception as error:  # the user's code
            raise PrepareError(f"formatting_func {self.name} failed on {place}: {type(error).__name__}: {error}.") from error
        if not isinstance(text, str):
            raise PrepareError(f"formatting_func {self.name} returned {type(text).__name__} for {place}: it must return the row's text.", CONFIG)
        return text


@dataclass
class RowReader:
    """Picks the text of a row: formatting_func's, else the value of text_field."""

    text_field: str
    formatting: FormattingFunction | None = None

    def check_first(self, row: dict, place: str) -> None:
        """A wrong field name is a mistake in the options, not a row to drop."""
        if self.formatting or self.text_field in row:
            return
        columns = ", ".join(map(str, row)) or "none"
        if "messages" in row or "conversations" in row or "prompt" in row:
            raise PrepareError(f"{place} is a chat or prompt/completion row (fields: {columns}) without a text field '{self.text_field}': "
                               "make text of it with formatting_func = file.py:function.", CONFIG)
        raise PrepareError(f"{place} has no field '{self.text_field}' (fields: {columns}): set dataset_text_field or formatting_func.", CONFIG)

    def text(self, row: dict, place: str) -> tuple[str | None, str]:
        """(text, "") or (None, why the row is left out)."""
        if self.formatting:
            value = self.formatting(row, place)
        elif self.text_field not in row:
            return None, f"without field '{self.text_field}'"
        else:
            value = row[self.text_field]
        if value is None:
            return None, "null"
        if not isinstance(value, str):
            return None, f"not a string but {type(value).__name__}"
        try:
            value.encode()
        except UnicodeEncodeError:
            return None, "not valid Unicode (half a surrogate pair)"
        return value, ""
