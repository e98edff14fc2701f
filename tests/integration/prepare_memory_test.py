"""sft-prepare's memory does not grow with the data."""

import json
import os
import subprocess
import sys

from prepare_support import tiny_model

CODE = """
import resource, sys
from pathlib import Path
from prepare_support import prepare
prepare(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), dataset_num_proc=2)
# VmHWM, because ru_maxrss of a process counts what its parent had when it started it
own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
ROW_BYTES, MIB = 4096, 1 << 20


def peak_bytes(model, folder, megabytes):
    """(of the process that reads and writes, of the largest worker)"""
    line = json.dumps({"text": ("the baker found a key. " * ROW_BYTES)[:ROW_BYTES]}) + "\n"
    source = folder / f"{megabytes}.jsonl"
    with open(source, "w") as stream:
        for _ in range(megabytes * MIB // len(line)):
            stream.write(line)
    result = subprocess.run([sys.executable, "-c", CODE, model, source, folder / f"{megabytes}.h5"], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert result.returncode == 0, result.stderr
    return [1024 * int(number) for number in result.stdout.split()[-2:]]


def test_memory_is_bounded(tmp_path):
    model = tiny_model(tmp_path / "tiny")
    small, large = peak_bytes(model, tmp_path, 8), peak_bytes(model, tmp_path, 64)
    for before, after in zip(small, large):
        assert before > 16 * MIB and after - before < 24 * MIB, (small, large)
