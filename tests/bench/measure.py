"""Runs a command and watches the memory of its whole process tree."""

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                pass  # ended meanwhile
    return parents


def process_tree(root: int) -> list[int]:
    """root and everything it started, directly or not."""
    parents = _parents()
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def resident_bytes(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        except (OSError, IndexError):
            pass
    return total


@dataclass
class Measured:
    returncode: int
    output: str
    seconds: float
    peak_bytes: int  # largest sum of resident memory over the tree; pages shared between ranks count once per rank


def run(command: list[str], env: dict, timeout: float, interval: float = 0.05) -> Measured:
    start, peak, done = time.perf_counter(), 0, threading.Event()
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)

    def watch():
        nonlocal peak
        while not done.wait(interval):
            peak = max(peak, resident_bytes(process_tree(process.pid)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for pid in reversed(process_tree(process.pid)):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        raise
    finally:
        done.set()
        watcher.join()
    return Measured(process.returncode, output, time.perf_counter() - start, peak)
