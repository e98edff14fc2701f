"""Writes data set files as docs/data-format.md describes them, straight from token ids: an implementation of the format
that shares nothing with sft-prepare."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import xxhash


def tokenizer_sha256(folder: Path) -> str:
    """Of tokenizer.json, else of the older files that exist, one behind the other."""
    names = ["tokenizer.json"]
    if not (folder / "tokenizer.json").exists():
        names = ["vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"]
    digest = hashlib.sha256()
    for name in names:
        if (folder / name).exists():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def write_token_file(path: Path, rows: list[list[int]], tokenizer_folder: Path, *, vocab_size: int, bos=None, eos=None, pad=None,
                     labels: list[list[int]] | None = None, prepare: dict | None = None, chunk: int | None = None) -> Path:
    """labels: per row, -100 where nothing is learnt; None: every token is learnt."""
    attributes = {
        "format": "sft-dist-dataset", "version": 1, "vocab_size": vocab_size, "bos_token_id": bos, "eos_token_id": eos,
        "pad_token_id": pad, "num_tokens": sum(map(len, rows)),
        "num_target_tokens": sum(label != -100 for row in labels or rows for label in row),
        "tokenizer_sha256": tokenizer_sha256(tokenizer_folder),
    }
    datasets = {
        "input_ids": np.array([i for row in rows for i in row], "<i4"),
        "offsets": np.cumsum([0, *map(len, rows)]).astype("<i8"),
    }
    if labels is not None:
        datasets["labels"] = np.array([i for row in labels for i in row], "<i4")
        datasets["first_target"] = np.array(
            [next((at for at, label in enumerate(row) if label != -100), len(row)) for row in labels], "<i4")
    config = {"tool": "tests/parity/token_file.py", "part": "train", "source_file": None, "dataset_name": None, "dataset_split": None,
              "dataset_text_field": "text", "formatting_func": None, "max_rows": None, "tokenizer_name_or_path": tokenizer_folder.name}
    write_arrays(path, attributes, datasets, config | (prepare or {}), chunk)
    beside = path.with_suffix(".tokenizer")
    beside.mkdir(exist_ok=True)
    for file in tokenizer_folder.iterdir():
        if file.suffix in (".json", ".txt", ".model", ".jinja") and file.name not in ("config.json", "generation_config.json"):
            (beside / file.name).write_bytes(file.read_bytes())
    return path


def write_arrays(path: Path, attributes: dict, datasets: dict, config: dict, chunk: int | None = None) -> None:
    """With hashes that fit whatever is given, right or wrong."""
    config_bytes = json.dumps(config).encode()
    hashes = {name: xxhash.xxh3_128(array.tobytes()).hexdigest() for name, array in datasets.items()}
    content = "".join(f"{name}={'none' if value is None else value}\n" for name, value in attributes.items())
    content += "".join(f"{name}={hashes[name]}\n" for name in ("input_ids", "offsets", "loss_mask", "labels", "first_target")
                       if name in hashes)
    with h5py.File(path, "w") as file:
        for name, value in (attributes | {"content_xxh3": xxhash.xxh3_128(content.encode()).hexdigest()}).items():
            if value is not None:
                file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else np.int64(value)
        for name, array in datasets.items():
            layout = {"chunks": (chunk,), "shuffle": True, "compression": "gzip"} if chunk else {}
            file.create_dataset(name, data=array, **layout).attrs["xxh3"] = np.bytes_(hashes[name])
        dataset = file.create_dataset("prepare_config", data=np.bytes_(config_bytes))
        dataset.attrs["xxh3"] = np.bytes_(xxhash.xxh3_128(config_bytes).hexdigest())
