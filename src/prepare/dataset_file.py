"""Writes the HDF5 file of docs/data-format.md in one pass over the rows, with bounded memory, whole or not at all.

The number of tokens is known only at the end, while a contiguous HDF5 data set needs it at the start: rows go to plain
spool files first and are copied from there.
"""

import fcntl
import glob
import json
import os
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import xxhash

from . import __version__

BLOCK_ELEMENTS = 1 << 22
CHUNK_ELEMENTS = 1 << 18
SPOOL_TYPES = {"ids": "<i4", "lengths": "<i4", "labels": "<i4", "mask": "u1", "first_target": "<i4"}
IGNORED = -100  # label of a token that is not learnt
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class StagingFolder:
    """with StagingFolder(path) as staging: a folder beside `path` for what is on its way there. Where the process dies, the next one for the
    same path removes it."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_staging(path)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        self.lock = open(self.folder / "lock", "wb")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # while the process lives

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class DatasetWriter:
    """with DatasetWriter(path) as writer: writer.append(rows) ...; writer.commit(...)."""

    def __init__(self, path: Path, labelled: bool = False):
        """labelled: every row comes with labels; otherwise every token is learnt."""
        self.path, self.labelled = path, labelled
        self.staging = StagingFolder(path)
        self.folder = self.staging.folder
        names = ["ids", "lengths"] + (["labels", "mask", "first_target"] if labelled else [])
        self.spool = {name: open(self.folder / name, "w+b", buffering=1 << 20) for name in names}
        self.num_rows = self.num_tokens = self.num_target_tokens = 0
        self.largest_id = 0  # of rows and labels
        self.labels_are_ids = True  # where they are not -100

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in self.spool.values():
            stream.close()
        self.staging.__exit__()

    def append(self, rows: list[np.ndarray], labels: list[np.ndarray] | None = None) -> None:
        """rows: int32 ids, none of them empty; labels: int32 of the same lengths, -100 where nothing is learnt."""
        if not rows:
            return
        lengths = np.fromiter(map(len, rows), dtype="<i4", count=len(rows))
        assert lengths.min() > 0, "empty rows cannot be stored"
        self.spool["lengths"].write(lengths.tobytes())
        for ids in rows:
            self.spool["ids"].write(np.ascontiguousarray(ids, dtype="<i4").tobytes())
        self.num_rows += len(rows)
        self.num_tokens += int(lengths.sum())
        self.largest_id = max(self.largest_id, *(int(values.max()) for values in (*rows, *(labels or ()))))
        if not self.labelled:
            self.num_target_tokens = self.num_tokens
            return
        for ids, row_labels in zip(rows, labels, strict=True):
            assert len(ids) == len(row_labels), "a row has one label for each token"
            mask = row_labels != IGNORED
            self.labels_are_ids &= bool(np.all(ids[mask] == row_labels[mask]))
            self.spool["labels"].write(np.ascontiguousarray(row_labels, dtype="<i4").tobytes())
            self.spool["mask"].write(mask.astype("u1").tobytes())
            self.spool["first_target"].write(np.int32(mask.argmax() if mask.any() else len(mask)).tobytes())
            self.num_target_tokens += int(np.count_nonzero(mask))

    def commit(self, attributes: dict, prepare_config: dict, compress: bool = False) -> None:
        """attributes: tokenizer_sha256 and the special token ids that exist. Renames the finished file into place."""
        self.write_rows(self.folder / "dataset.h5", self.selection(), attributes, prepare_config, compress)
        os.replace(self.folder / "dataset.h5", self.path)
        sync(self.path.parent)

    def write_rows(self, path: Path, rows: "Selection", attributes: dict, prepare_config: dict, compress: bool = False) -> None:
        """Some rows as a data set file, on the disk when this returns."""
        with h5py.File(path, "w", libver=("earliest", "v110")) as file:
            write_contents(file, rows, attributes, prepare_config, compress)
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())

    def selection(self, rows: np.ndarray | None = None) -> "Selection":
        """rows: which ones, in the order to write; None: all in theirs."""
        for stream in self.spool.values():
            stream.flush()
        return Selection(self, rows)

    def spooled(self, name: str) -> np.ndarray:
        """Mapped, not read."""
        return np.asarray(np.memmap(self.folder / name, dtype=SPOOL_TYPES[name], mode="r"))


class Selection:
    """Rows of a writer as they go into a file. All rows are read from the spool block by block, picked ones from a map of it."""

    def __init__(self, writer: DatasetWriter, rows: np.ndarray | None):
        self.writer, self.rows = writer, rows
        self.lengths = writer.spooled("lengths") if rows is None else writer.spooled("lengths")[rows]
        self.num_rows, self.num_tokens = len(self.lengths), int(self.lengths.sum(dtype=np.int64))
        if rows is None:
            self.num_target_tokens = writer.num_target_tokens
            return
        self.begins = (np.cumsum(writer.spooled("lengths"), dtype=np.int64) - writer.spooled("lengths"))[rows]
        self.num_target_tokens = sum(int(np.count_nonzero(block)) for block in self.blocks("mask")) if writer.labelled else self.num_tokens

    def row_arrays(self, name: str):
        values = self.writer.spooled(name)
        for begin, length in zip(self.begins.tolist(), self.lengths.tolist()):
            yield values[begin:begin + length]

    def blocks(self, name: str):
        """The rows' tokens behind one another."""
        if self.rows is None:
            yield from self.spool_blocks(name)
            return
        pieces, size = [], 0
        for piece in self.row_arrays(name):
            pieces.append(piece)
            size += len(piece)
            if size >= BLOCK_ELEMENTS:
                yield np.concatenate(pieces)
                pieces, size = [], 0
        if pieces:
            yield np.concatenate(pieces)

    def spool_blocks(self, name: str):
        stream, dtype = self.writer.spool[name], np.dtype(SPOOL_TYPES[name])
        stream.seek(0)
        while block := stream.read(BLOCK_ELEMENTS * dtype.itemsize):
            yield np.frombuffer(block, dtype=dtype)

    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]).astype("<i8")

    def label_datasets(self) -> list[tuple[str, int, str, object]]:
        """(name, count, type, blocks) of what the file says about labels: nothing where they are the ids, a mask where that says all."""
        if self.writer.labels_are_ids and self.num_target_tokens == self.num_tokens:
            return []
        rows = slice(None) if self.rows is None else self.rows
        first_target = ("first_target", self.num_rows, "<i4", [self.writer.spooled("first_target")[rows]])
        if self.writer.labels_are_ids:
            return [("loss_mask", self.num_tokens, "u1", self.blocks("mask")), first_target]
        return [("labels", self.num_tokens, "<i4", self.blocks("labels")), first_target]


def sweep_staging(path: Path) -> None:
    """Removes the staging folders of this path whose lock nobody holds: their processes were killed."""
    for lock in path.parent.glob(f".{glob.escape(path.name)}.*/lock"):
        try:
            with open(lock) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, or gone meanwhile
            continue


def write_contents(file: h5py.File, rows: Selection, attributes: dict, prepare_config: dict, compress: bool) -> None:
    layout = dict(shuffle=True, compression="gzip", compression_opts=4) if compress else {}
    hashes = {}

    def write(name: str, count: int, dtype: str, blocks) -> None:
        chunks = dict(layout, chunks=(min(count, CHUNK_ELEMENTS),)) if compress else {}
        dataset = file.create_dataset(name, shape=(count,), dtype=dtype, **chunks)
        digest, position = xxhash.xxh3_128(), 0
        for block in blocks:
            digest.update(block.tobytes())
            dataset[position:position + len(block)] = block
            position += len(block)
        hashes[name] = digest.hexdigest()
        dataset.attrs["xxh3"] = np.bytes_(hashes[name])

    write("input_ids", rows.num_tokens, "<i4", rows.blocks("ids"))
    write("offsets", rows.num_rows + 1, "<i8", [rows.offsets()])
    for name, count, dtype, blocks in rows.label_datasets():
        write(name, count, dtype, blocks)

    config = json.dumps(prepare_config, sort_keys=True).encode()
    dataset = file.create_dataset("prepare_config", data=np.bytes_(config))
    dataset.attrs["xxh3"] = np.bytes_(xxhash.xxh3_128(config).hexdigest())

    special_ids = [attributes[name] for name in SPECIAL_IDS if name in attributes]
    values = {"format": "sft-dist-dataset", "version": 1, "vocab_size": 1 + max([rows.writer.largest_id, *special_ids]), **attributes,
              "num_tokens": rows.num_tokens, "num_target_tokens": rows.num_target_tokens}
    for name, value in values.items():
        file.attrs[name] = np.bytes_(value) if isinstance(value, str) else np.int64(value)
    file.attrs["content_xxh3"] = np.bytes_(content_hash(values, hashes))


def content_hash(values: dict, hashes: dict) -> str:
    """docs/data-format.md, "Hashes"."""
    names = ["format", "version", "vocab_size", *SPECIAL_IDS, "num_tokens", "num_target_tokens", "tokenizer_sha256"]
    lines = [f"{name}={values.get(name, 'none')}\n" for name in names]
    lines += [f"{name}={hashes[name]}\n" for name in ("input_ids", "offsets", "loss_mask", "labels", "first_target") if name in hashes]
    return xxhash.xxh3_128("".join(lines).encode()).hexdigest()


def read_prepare_config(path: Path) -> dict | None:
    """The prepare_config of an existing data set file; None when the file is something else."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != b"sft-dist-dataset" or file.attrs.get("version") != 1:
                return None
            return json.loads(file["prepare_config"][()])
    except (OSError, KeyError, ValueError):
        return None


def sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


TOOL = f"sft-prepare {__version__}"
