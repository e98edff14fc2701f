"""Splits that the files of a folder are named after, as the `datasets` library finds them (its data_files.py)."""

import re
from pathlib import Path

from .errors import CONFIG, PrepareError

KEYWORDS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation",
            "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}


def find_split(file: Path) -> tuple[str, Path] | None:
    """(split, a pattern of such files) by the first keyword in its path: a folder's name decides before the file's own."""
    for at, part in enumerate(file.parts):
        for word in re.split(r"[\W\d_]+", part):
            if split := KEYWORDS.get(word.lower()):
                own_name = at == len(file.parts) - 1
                begin = "" if part.startswith(word) else "*"
                return split, Path(*file.parts[:at], f"{begin}{word}*{file.suffix}") if own_name else Path(*file.parts[:at + 1], "**", f"*{file.suffix}")
    return None


def refuse_several_splits(files: list[Path], folder: Path, option: str) -> None:
    """Rows to evaluate on are not trained on unawares. files: relative to the folder."""
    patterns = {}
    for file in files:
        if found := find_split(file):
            patterns.setdefault(*found)
    if len(patterns) > 1:
        wanted = "train" if option == "train_file" and "train" in patterns else next(iter(sorted(patterns)))
        raise PrepareError(f"{option} = {folder}: its files are of several splits ({', '.join(sorted(patterns))}): name those of one by a pattern such as "
                           f"{folder / patterns[wanted]}, or set dataset_name = {folder} with dataset_split and eval_split; all of them are "
                           f"{folder}/**/*{files[0].suffix}.", CONFIG)
