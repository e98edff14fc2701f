"""Tells by inotify whether anybody opens one of some files, whatever process and however."""

import ctypes
import os
from pathlib import Path

IN_ACCESS, IN_OPEN = 0x1, 0x20
_libc = ctypes.CDLL(None, use_errno=True)


class OpenedFiles:
    def __init__(self, *paths: Path):
        self.descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.descriptor >= 0, os.strerror(ctypes.get_errno())
        for path in paths:
            watch = _libc.inotify_add_watch(self.descriptor, os.fsencode(path), IN_ACCESS | IN_OPEN)
            assert watch >= 0, os.strerror(ctypes.get_errno())

    def any(self) -> bool:
        """Since the last call."""
        try:
            return bool(os.read(self.descriptor, 1 << 16))
        except BlockingIOError:
            return False
