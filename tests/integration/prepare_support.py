"""Small models and sft-prepare calls for the tests of sft-prepare."""

import json
from pathlib import Path

import h5py
import numpy as np

from prepare import make_tiny
from prepare.__main__ import run

DEFAULTS = {
    "model_name_or_path": "", "tokenizer_name_or_path": "", "train_file": "", "eval_file": "", "dataset_name": "", "dataset_split": "train",
    "eval_split": "", "train_dataset": "", "eval_dataset": "", "dataset_text_field": "text", "formatting_func": "", "max_rows": None,
    "dataset_num_proc": 1, "max_length": 1024, "completion_only_loss": None, "assistant_only_loss": False, "chat_template_path": "", "eos_token": "",
    "pad_token": "", "test_split_size": None, "seed": 42,
}


def tiny_model(folder: Path) -> Path:
    """A model folder with the tokenizer of make_tiny."""
    assert make_tiny.main([str(folder)]) == 0
    return folder / "model"


def prepare(model: Path, train_file, output: Path, force=False, compress=False, **options) -> Path:
    run({**DEFAULTS, "model_name_or_path": str(model), "train_file": str(train_file), "train_dataset": str(output), **options},
        force=force, compress=compress)
    return output


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[list[int]]:
    with h5py.File(path) as file:
        ids, offsets = file["input_ids"][()], file["offsets"][()]
    assert ids.dtype == np.int32 and offsets.dtype == np.int64
    return [ids[begin:end].tolist() for begin, end in zip(offsets, offsets[1:])]


def read_labels(path: Path) -> list[list[int]]:
    """-100 where nothing is learnt, from whichever of the file's two forms is there."""
    with h5py.File(path) as file:
        ids, offsets = file["input_ids"][()], file["offsets"][()]
        labels = file["labels"][()] if "labels" in file else np.where(file["loss_mask"][()], ids, -100) if "loss_mask" in file else ids
    return [labels[begin:end].tolist() for begin, end in zip(offsets, offsets[1:])]


def learnt_text(path: Path, row: int, tokenizer) -> str:
    return tokenizer.decode([label for label in read_labels(path)[row] if label != -100])


def content_hash(path: Path) -> str:
    with h5py.File(path) as file:
        return file.attrs["content_xxh3"].decode()
