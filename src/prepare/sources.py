"""Where rows come from: files (JSONL, JSON, CSV, Parquet, text), folders and globs of them, saved and hub data sets.

A source yields (row, place) pairs lazily, so a data set may be larger than memory; `place` names the row for people.
"""

import csv
import dataclasses
import glob
import gzip
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from itertools import accumulate, islice, zip_longest
from pathlib import Path

from .errors import CONFIG, PrepareError
from .split_names import refuse_several_splits

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".txt": "text"}
OTHER_COMPRESSIONS = (".zst", ".zstd", ".xz", ".lzma", ".bz2", ".zip", ".lz4", ".7z")
SPLIT_OPTIONS = {"train_file": "dataset_split", "eval_file": "eval_split"}
ROWS_PER_ARROW_BATCH = 1024


class FileSource:
    """One or more files, read in the order of their names."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.sizes = [file.stat().st_size for file in files]
        self.bytes_done = 0  # of the files before the current one
        self.current_fraction = 0.0
        self.current_size = 0

    def fingerprint(self) -> str:
        """Changes when a file is added, removed, renamed or written to."""
        stats = [file.stat() for file in self.files]
        text = "\n".join(f"{file.name} {stat.st_size} {stat.st_mtime_ns}" for file, stat in zip(self.files, stats))
        return hashlib.sha256(text.encode()).hexdigest()

    def fraction_done(self) -> float:
        return (self.bytes_done + self.current_fraction * self.current_size) / max(1, sum(self.sizes))

    def __iter__(self) -> Iterator[tuple[dict, str]]:
        self.bytes_done = 0
        for file, size in zip(self.files, self.sizes):
            self.current_fraction, self.current_size = 0.0, size
            reader = getattr(self, f"_read_{kind_of(file)}")
            try:
                yield from reader(file)
            except UnicodeDecodeError as error:
                raise PrepareError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start} of a block): "
                                   "convert it first.") from None
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise PrepareError(f"{file} cannot be decompressed: {error}.") from None
            self.bytes_done += size
            self.current_fraction, self.current_size = 0.0, 0

    def _lines(self, file: Path) -> Iterator[str]:
        """Lines as written, without their end; a carriage return inside a line stays."""
        with open(file, "rb") as raw:
            stream = gzip.open(raw) if is_gz(file) else raw
            for number, line in enumerate(stream):
                if number % 256 == 0:
                    self.current_fraction = raw.tell() / max(1, self.current_size)
                if number == 0:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield line.decode().removesuffix("\n").removesuffix("\r")

    def _read_jsonl(self, file: Path):
        for number, line in enumerate(self._lines(file), 1):
            if line.strip():
                yield parse_json(line, f"{file}:{number}"), f"{file.name}:{number}"

    def _read_json(self, file: Path):
        """An array of rows; {"data": [rows]}; or, as often under this name, one row a line. A single line that has "data" is the second."""
        with (gzip.open(file, "rb") if is_gz(file) else open(file, "rb")) as stream:
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not start.startswith(b"["):  # whose one line may be the whole file
                stream.seek(0)
                lines = (line.removeprefix(b"\xef\xbb\xbf") for line in stream)
                first = json_object(next((line for line in lines if line.strip()), b""))
                if first is not None and (not isinstance(first.get("data"), list) or any(line.strip() for line in stream)):
                    yield from self._read_jsonl(file)
                    return
            stream.seek(0)
            content = parse_json(stream.read().decode("utf-8-sig"), str(file), whole=True)
        if isinstance(content, dict) and isinstance(content.get("data"), list):
            content = content["data"]
        if not isinstance(content, list):
            raise PrepareError(f'{file} holds neither an array of rows, nor {{"data": [rows]}}, nor one row a line.')
        for number, row in enumerate(content, 1):
            if not isinstance(row, dict):
                raise PrepareError(f"{file}: entry {number} is not an object.")
            self.current_fraction = number / len(content)
            yield row, f"{file.name}[{number - 1}]"

    def _read_csv(self, file: Path, delimiter: str = ","):
        csv.field_size_limit(sys.maxsize)
        with (gzip.open(file, "rt", encoding="utf-8-sig", newline="") if is_gz(file)
              else open(file, encoding="utf-8-sig", newline="")) as stream:
            lines = Lines(stream)
            reader = csv.reader(lines, delimiter=delimiter)
            header = unique_names(next(reader, []))
            for number, fields in enumerate(reader, 1):
                if lines.ended:  # only within quotes does the reader look for more after the last line
                    raise PrepareError(f"{file}: row {number} has a quote that is not closed by the end of the file.")
                if not fields:
                    continue
                if len(fields) > len(header):
                    raise PrepareError(f"{file}: row {number} (ending in line {reader.line_num}) has {len(fields)} fields, "
                                       f"the header has {len(header)}.")
                if number % 256 == 0 and not is_gz(file):
                    self.current_fraction = stream.buffer.tell() / max(1, self.current_size)
                yield dict(zip_longest(header, fields)), f"{file.name}:{reader.line_num}"  # cells that are missing are null, as to pandas

    def _read_tsv(self, file: Path):
        yield from self._read_csv(file, delimiter="\t")

    def _read_parquet(self, file: Path):
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as parquet:
                total, number = max(1, parquet.metadata.num_rows), 0
                json_columns = [field for field in parquet.schema_arrow if "arrow.json" in str(field.type)]
                for batch in parquet.iter_batches(batch_size=ROWS_PER_ARROW_BATCH):
                    self.current_fraction = number / total
                    for row in batch.to_pylist():
                        yield row | {field.name: decoded(row[field.name], field.type) for field in json_columns}, f"{file.name}[{number}]"
                        number += 1
        except (pyarrow.ArrowInvalid, OSError, json.JSONDecodeError) as error:
            raise PrepareError(f"{file} is not a readable Parquet file: {error}.") from None

    def _read_text(self, file: Path):
        """One row a line; blank lines only separate."""
        for number, line in enumerate(self._lines(file), 1):
            if line.strip():
                yield {"text": line}, f"{file.name}:{number}"


class Lines:
    """A stream's lines; remembers that there were no more."""

    def __init__(self, stream):
        self.stream, self.ended = stream, False

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = next(self.stream, None)
        if line is None:
            self.ended = True
            raise StopIteration
        return line


def unique_names(header: list[str]) -> list[str]:
    """As pandas, with which the `datasets` library reads: a name's second column is NAME.1."""
    return [f"{name}.{header[:at].count(name)}" if name in header[:at] else name for at, name in enumerate(header)]


class DatasetSource:
    """A data set of the `datasets` library: read from its memory-mapped Arrow files."""

    def __init__(self, dataset, name: str):
        self.dataset, self.name, self.rows_done = dataset, name, 0

    def without_decoding(self):
        """Pictures, sounds and videos stay as they are stored: nothing here looks at them, and their libraries may not be installed."""
        from datasets import Json  # a row's own values, which do not stay text

        dataset = self.dataset
        for name, feature in (dataset.features or {}).items():
            if getattr(feature, "decode", False) and not isinstance(feature, Json):
                dataset = dataset.cast_column(name, dataclasses.replace(feature, decode=False))
        return dataset

    def fingerprint(self) -> str:
        return str(self.dataset._fingerprint)

    def fraction_done(self) -> float:
        return self.rows_done / max(1, len(self.dataset))

    def __iter__(self) -> Iterator[tuple[dict, str]]:
        self.rows_done = 0
        for row in self.without_decoding().with_format(None):
            yield row, f"{self.name}[{self.rows_done}]"
            self.rows_done += 1


class MixtureSource:
    """Sources behind one another. With fractions, the shares they are to have in the whole, as in TRL's DatasetMixtureConfig: the first rows of
    each, and as many in all as no source has too few for. max_rows of the whole have the shares of all."""

    def __init__(self, parts: list, fractions: list[float] | None, max_rows: int | None):
        self.parts, self.fractions, self.max_rows, self.rows_of_parts = parts, fractions, max_rows, None

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join([*(part.fingerprint() for part in self.parts), str(self.fractions)]).encode()).hexdigest()

    def fraction_done(self) -> float:
        return sum(part.fraction_done() for part in self.parts) / len(self.parts)

    def __iter__(self) -> Iterator[tuple[dict, str]]:
        if (self.fractions or self.max_rows) and self.rows_of_parts is None:
            counts = [sum(1 for _ in part) for part in self.parts]
            self.rows_of_parts = cut(shares(counts, self.fractions) if self.fractions else counts, self.max_rows)
        for part, rows in zip(self.parts, self.rows_of_parts or [None] * len(self.parts)):
            yield from islice(part, rows)


def shares(counts: list[int], fractions: list[float]) -> list[int]:
    """Rows to take of sources with `counts` rows, so that they have the shares `fractions` of the result."""
    weights = [fraction / sum(fractions) for fraction in fractions]
    total = min(count / weight for count, weight in zip(counts, weights))
    return [round(weight * total) for weight in weights]


def cut(rows: list[int], max_rows: int | None) -> list[int]:
    """max_rows in the proportions of `rows`; these where they are no more."""
    total = sum(rows)
    if max_rows is None or total <= max_rows:
        return rows
    ends = [round(end * max_rows / total) for end in accumulate(rows)]
    return [end - begin for begin, end in zip([0, *ends], ends)]


def is_there(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))  # false too where it is too long to be a path


def listed(text: str) -> list[str]:
    """Entries between commas; text that is a file as it stands is one entry (src/config/path_list.cpp)."""
    return [text] if "," not in text or is_there(text) else [entry.strip() for entry in text.split(",")]


def named_paths(text: str | None) -> list[tuple[str, str]]:
    """(name, path) of "path", name "", or of "name=path, name=path"."""
    result = []
    for entry in listed(text) if text else []:
        name, equals, path = entry.partition("=")
        result.append((name.strip(), path.strip()) if equals and re.fullmatch(r"[A-Za-z0-9_-]+", name.strip()) else ("", entry))
    return result


def mixture_paths(text: str) -> list[tuple[str, float | None]]:
    """(path, fraction) of "path" or of "path:fraction, path:fraction"."""
    result = []
    for entry in listed(text):
        path, colon, fraction = entry.rpartition(":")
        try:
            result.append((path.strip(), float(fraction)) if colon and not is_there(entry) else (entry, None))
        except ValueError:
            result.append((entry, None))
    return result


def open_mixture(text: str, option: str, split: str, max_rows: int | None):
    """The source that train_file names."""
    entries = mixture_paths(text)
    parts = [open_files(path, option, split) for path, _ in entries]
    if len(parts) == 1:
        return parts[0]
    fractions = [fraction for _, fraction in entries]
    return MixtureSource(parts, fractions if fractions[0] is not None else None, max_rows)


def decoded(value, kind):
    """A value of an Arrow type with the JSON texts in it read, as the `datasets` library reads its feature Json."""
    import pyarrow

    if value is None:
        return None
    if isinstance(kind, pyarrow.JsonType):
        return json.loads(value)
    if isinstance(kind, pyarrow.StructType):
        return {field.name: decoded(value[field.name], field.type) for field in kind}
    if isinstance(kind, (pyarrow.ListType, pyarrow.LargeListType, pyarrow.FixedSizeListType)):
        return [decoded(item, kind.value_type) for item in value]
    return value


def is_gz(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


def kind_of(file: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def is_compressed_otherwise(file: Path) -> bool:
    return file.suffix.lower() in OTHER_COMPRESSIONS and kind_of(file.with_suffix("")) is not None


def parse_json(text: str, place: str, whole: bool = False):
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise PrepareError(f"{place}: not JSON: {error}.") from None
    if not whole and not isinstance(value, dict):
        raise PrepareError(f"{place}: a row must be a JSON object, this is a {type(value).__name__}.")
    return value


def json_object(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def open_files(pattern: str, option: str, split: str) -> FileSource | DatasetSource:
    """The source that train_file or eval_file names: a file, a folder, a glob, or a folder written by save_to_disk()."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        if is_saved(path):
            return open_saved(path, split, SPLIT_OPTIONS[option])
        found = sorted(file for file in path.rglob("*") if file.is_file() and not is_aside(file.relative_to(path)))
        if unread := [file.name for file in found if is_compressed_otherwise(file)]:
            raise PrepareError(f"{option} = {pattern}: the folder holds {', '.join(unread[:3])}{', ...' if len(unread) > 3 else ''}, and of compressed "
                               "files only .gz is read: decompress the others, or name the files to read by a pattern.", CONFIG)
        files = [file for file in found if kind_of(file)]
        refuse_several_splits([file.relative_to(path) for file in files], Path(pattern), option)
        if not files:
            raise PrepareError(f"{option} = {pattern}: the folder holds no file that ends in {', '.join(SUFFIXES)} (or .gz after it).")
        return FileSource(files)
    files = [path] if path.is_file() else sorted(file for file in map(Path, glob.glob(str(path), recursive=True))
                                                 if file.is_file() and not is_beside_result(file))
    if not files:
        raise PrepareError(f"{option} = {pattern}: there is no such file, folder or pattern (working directory: {Path.cwd()}).")
    for file in files:
        if kind_of(file) is None:
            raise PrepareError(f"{option}: the kind of {file} is not known; its name must end in {', '.join(SUFFIXES)} (or .gz after it).", CONFIG)
    return FileSource(files)


def is_aside(file: Path) -> bool:
    """Hidden, or in a tokenizer folder that we have written beside a data set."""
    return any(part.startswith(".") for part in file.parts) or any(part.endswith(".tokenizer") for part in file.parts[:-1])


def is_beside_result(file: Path) -> bool:
    """In the tokenizer folder of a data set that lies beside it."""
    return any(folder.suffix == ".tokenizer" and folder.with_suffix(".h5").exists() for folder in file.parents)


def is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def open_saved(path: Path, split: str, split_option: str) -> DatasetSource:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many types for a damaged folder
        raise PrepareError(f"{path} looks like a folder saved by the datasets library, but cannot be loaded: {error}.") from None
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise PrepareError(f"{path} has no split '{split}': it has {', '.join(loaded)}; set {split_option}.", CONFIG)
        loaded = loaded[split]
    return DatasetSource(loaded, path.name)


def open_named(name: str, split: str, split_option: str) -> DatasetSource:
    """dataset_name: a folder saved by the datasets library, or anything its load_dataset() takes (a hub id)."""
    path = Path(name).expanduser()
    if is_saved(path):
        return open_saved(path, split, split_option)
    import datasets

    try:
        return DatasetSource(datasets.load_dataset(name, split=split), name)
    except Exception as error:  # network, name, split, format: one message each from the library
        raise PrepareError(f"dataset_name = {name}, split '{split}': cannot be loaded ({type(error).__name__}: {str(error).strip()}). "
                           "Without network, give a local file or folder as train_file / eval_file.") from None
