"""One data set: source rows through worker processes into the HDF5 file and the tokenizer folder beside it."""

import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from .dataset_file import TOOL, DatasetWriter, fsync_folder, read_prepare_config
from .errors import CONFIG, PrepareError
from .rows import Dropped, RowReader
from .summary import LengthCounts
from .tokenizer import Tokenizer, TokenizerFolder

ROWS_PER_TASK = 256
TASKS_PER_PROCESS = 4  # in flight: bounds memory
SECONDS_BETWEEN_LINES = 10


@dataclass
class Part:
    """What to prepare: `name` is train or eval; `record` is what prepare_config says about source and options."""

    name: str
    output: Path
    source: object
    reader: RowReader
    tokenizer_folder: TokenizerFolder
    model_folder: Path | None = None
    max_rows: int | None = None
    num_proc: int | None = None
    max_length: int | None = None  # for the summary only: rows are stored whole
    compress: bool = False
    record: dict = field(default_factory=dict)

    def prepare_config(self) -> dict:
        formatting = self.reader.formatting
        return {
            "tool": TOOL, "part": self.name, "source_file": None, "dataset_name": None, "dataset_split": None,
            "dataset_text_field": self.reader.text_field, "formatting_func": formatting.specification if formatting else None,
            "max_rows": self.max_rows, "tokenizer_name_or_path": self.tokenizer_folder.name, **self.record,
            # ours: decide whether a file is up to date
            "source_fingerprint": self.source.fingerprint(), "formatting_func_sha256": formatting.sha256() if formatting else None,
            "tokenizer_sha256": self.tokenizer_folder.sha256(), "compressed": self.compress,
        }

    @property
    def tokenizer_output(self) -> Path:
        return self.output.with_suffix(".tokenizer")


def prepare(part: Part, force: bool = False, say=print) -> bool:
    """Writes part.output and its tokenizer folder; false when they are up to date."""
    config = part.prepare_config()
    if part.output.exists():
        existing = read_prepare_config(part.output)
        if existing is None:
            raise PrepareError(f"{part.output} exists and is not a data set that sft-prepare wrote: choose another "
                               f"{part.name}_dataset, or remove it.", CONFIG)
        changed = changed_keys(existing, config)
        if not changed and part.tokenizer_output.is_dir() and not force:
            say(f"{part.name}: {part.output} is up to date (--force prepares it again)")
            return False
        say(f"{part.name}: {part.output} is prepared again ({', '.join(changed) or '--force'})")

    started = time.monotonic()
    dropped, lengths = Dropped(), LengthCounts()
    tokenizer = Tokenizer(part.tokenizer_folder)
    with DatasetWriter(part.output) as writer, Progress(part) as progress:
        for rows, task_dropped in tokenise(part, tokenizer):
            writer.append(rows)
            lengths.add(rows)
            for reason, place in task_dropped:
                dropped.add(reason, place)
            progress.show(writer.num_rows, writer.num_tokens)
        if writer.num_rows == 0:
            reasons = "; ".join(dropped.lines()) or "the source has no rows"
            raise PrepareError(f"{part.name}: no row is left to write to {part.output}: {reasons}.")
        progress.close()
        write_tokenizer_folder(part)
        attributes = {"vocab_size": tokenizer.vocab_size, **tokenizer.special_ids(), "tokenizer_sha256": config["tokenizer_sha256"]}
        writer.commit(attributes, config, part.compress)

    say(f"{part.name}: {part.output}: {writer.num_rows:,} rows, {writer.num_tokens:,} tokens in {time.monotonic() - started:.1f} s")
    for line in dropped.lines():
        say(f"  dropped: {line}")
    for line in lengths.lines(part.max_length):
        say(f"  {line}")
    return True


def changed_keys(existing: dict, config: dict) -> list[str]:
    """What differs in more than the folder it lies in: a data folder may be moved (docs/data-format.md)."""

    def essence(values: dict, key: str):
        if key == "tokenizer_name_or_path":  # tokenizer_sha256 decides
            return None
        value = values.get(key)
        return Path(value).name if value and key in ("source_file", "formatting_func") else value

    return [key for key in config if essence(existing, key) != essence(config, key)]


def tokenise(part: Part, tokenizer: Tokenizer) -> Iterator[tuple[list, list]]:
    """(ids of each row, [(reason, place)] of rows left out) task by task, in the order of the source."""
    tasks = make_tasks(part)
    processes = part.num_proc or len(os.sched_getaffinity(0))
    first = list(islice(tasks, 2))
    if processes == 1 or len(first) < 2:
        for task in (*first, *tasks):
            yield run_task(task, part.reader, tokenizer)
        return
    with ProcessPoolExecutor(processes, initializer=initialise_worker, initargs=(part.reader, part.tokenizer_folder)) as pool:
        pending = deque(pool.submit(run_worker_task, task) for task in first)
        try:
            for task in tasks:
                pending.append(pool.submit(run_worker_task, task))
                if len(pending) >= processes * TASKS_PER_PROCESS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def make_tasks(part: Part) -> Iterator[list[tuple[object, str]]]:
    """Lists of (row, place); without a formatting function the row is cut down to the one field that is needed."""
    rows = islice(iter(part.source), part.max_rows)
    checked = False
    while batch := list(islice(rows, ROWS_PER_TASK)):
        if not checked:
            part.reader.check_first(*batch[0])
            checked = True
        if part.reader.formatting is None:
            field_name = part.reader.text_field
            batch = [({field_name: row[field_name]} if field_name in row else {}, place) for row, place in batch]
        yield batch


def run_task(task: list[tuple[dict, str]], reader: RowReader, tokenizer: Tokenizer) -> tuple[list, list]:
    texts, dropped = [], []
    for row, place in task:
        text, reason = reader.text(row, place)
        if text is None:
            dropped.append((reason, place))
        else:
            texts.append(text)
    return tokenizer.encode(texts) if texts else [], dropped


worker_state: tuple[RowReader, Tokenizer] | None = None


def initialise_worker(reader: RowReader, folder: TokenizerFolder) -> None:
    global worker_state
    worker_state = (reader, Tokenizer(folder))


def run_worker_task(task):
    return run_task(task, *worker_state)


def write_tokenizer_folder(part: Part) -> None:
    """Replaces the folder beside the data set."""
    target = part.tokenizer_output
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        part.tokenizer_folder.copy_side_files(temporary / "new", part.model_folder)
        if target.exists():
            os.rename(target, temporary / "old")
        os.rename(temporary / "new", target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class Progress:
    """A bar on a terminal, now and then a line elsewhere."""

    def __init__(self, part: Part):
        self.part, self.bar, self.last_line = part, None, time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=100, desc=f"{part.name}: tokenising", leave=False,
                            bar_format="{desc} {percentage:3.0f}% |{bar}| {postfix} [{elapsed}<{remaining}]")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, num_rows: int, num_tokens: int) -> None:
        share = max(self.part.source.fraction_done(), num_rows / self.part.max_rows if self.part.max_rows else 0)
        percent = 100 * min(1, share)
        if self.bar is not None:
            self.bar.n = percent
            self.bar.set_postfix_str(f"{num_rows:,} rows, {num_tokens:,} tokens")
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            print(f"{self.part.name}: {percent:.0f} %, {num_rows:,} rows, {num_tokens:,} tokens", file=sys.stderr, flush=True)
            self.last_line = time.monotonic()
