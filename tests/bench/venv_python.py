"""Importing this starts the running script again in the project's virtual environment, where it is not in it already."""

import os
import sys
from pathlib import Path

_VENV = Path(os.environ.get("SFT_VENV") or Path(__file__).resolve().parents[2] / ".venv")
if (_VENV / "bin" / "python").exists() and Path(sys.prefix).resolve() != _VENV.resolve():
    os.execv(_VENV / "bin" / "python", [str(_VENV / "bin" / "python"), *sys.argv])
