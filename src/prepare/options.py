"""Options come from sft-dist itself, which has the only table of names, types, defaults and checks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .errors import CONFIG, PrepareError


def find_sft_dist() -> Path:
    """The program: $SFT_DIST, else built in this clone, else installed with this package, else on PATH."""
    root = Path(__file__).resolve().parents[2]
    if os.environ.get("SFT_DIST"):
        program = Path(os.environ["SFT_DIST"])
        if not program.is_file():
            raise PrepareError(f"SFT_DIST names {program}, which is not there.", CONFIG)
        return program
    for program in (root / "build" / "release" / "sft-dist", root.parents[1] / "bin" / "sft-dist"):
        if program.is_file():
            return program
    if found := shutil.which("sft-dist"):
        return Path(found)
    raise PrepareError(
        "sft-dist, which reads the options, is not built: cmake --preset release && cmake --build --preset release "
        "(or name the program in SFT_DIST).", CONFIG)


def read_options(arguments: list[str]) -> dict:
    """{option name: value} for `--args run.ini --key value ...`, exactly as sft-dist would take them."""
    result = subprocess.run([str(find_sft_dist()), "--print-config=json", *arguments],
                            stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:  # it has said why
        sys.exit(result.returncode)
    try:
        return json.loads(result.stdout)
    except json.JSONDecodeError as error:
        raise PrepareError(f"sft-dist --print-config=json did not print JSON ({error}): "
                           f"{find_sft_dist()} is of another version; build it again.", CONFIG) from None
