"""A process and all that it starts on this machine: a tag in their environment finds them, whatever session they are in."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from pathlib import Path

TAG = "SFT_RUN_ID"


class TaggedProcess(subprocess.Popen):
    def __init__(self, command: list[str], **more):
        self.tag = uuid.uuid4().hex
        super().__init__(command, env={**os.environ, TAG: self.tag}, start_new_session=True, **more)

    def kill_all(self) -> None:
        """Twice: what was being started while we looked."""
        for _ in range(2):
            for pid in self._tagged():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def _tagged(self) -> list[int]:
        wanted, found = f"{TAG}={self.tag}".encode(), []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass  # ended, or someone else's
        return found
