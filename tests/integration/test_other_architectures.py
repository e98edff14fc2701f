"""The program's own loops are written for no instruction set: they compile for AArch64 too. Syntax only: nothing is linked, nothing run."""

import shutil
import subprocess

import pytest
from parity import ours

COMPILER = "aarch64-linux-gnu-g++"
FILES = sorted((ours.SOURCE_DIR / "src" / "ops" / "cpu").glob("*.cpp"))


def includes() -> list[str]:
    import torch

    torch_headers = f"{torch.__path__[0]}/include"
    return ["-Iinclude", "-Isrc", "-idirafter", torch_headers, "-idirafter", f"{torch_headers}/torch/csrc/api/include", "-idirafter", "/usr/include"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_compiles_for_aarch64(file):
    assert shutil.which(COMPILER), f"{COMPILER} is missing: launch/setup --full installs it"
    done = subprocess.run([COMPILER, "-std=c++20", "-fopenmp", "-fsyntax-only", "-Wall", "-DAT_PER_OPERATOR_HEADERS", *includes(), file],
                          capture_output=True, text=True, timeout=600, cwd=ours.SOURCE_DIR)
    assert done.returncode == 0, done.stderr[:3000]
