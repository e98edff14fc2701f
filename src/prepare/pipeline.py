"""One data set: source rows through worker processes into the HDF5 file and the tokenizer folder beside it."""

import hashlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from .chat import default_template, learns_to_stop, training_templates
from .dataset_file import TOOL, DatasetWriter, Selection, StagingFolder, read_prepare_config, sync, sync_tree
from .errors import CONFIG, OUT_OF_MEMORY, PrepareError
from .encode import Encoded, Encoder
from .rows import RowFormat, Tally
from .sources import mixture_paths
from .summary import LengthCounts
from .tokenizer import Tokenizer, TokenizerFolder, folder_sha256

ROWS_PER_TASK = 256
BYTES_PER_TASK = 4 << 20  # a task ends here too, where rows are long
TASKS_PER_PROCESS = 4  # in flight: bounds memory
SECONDS_BETWEEN_LINES = 10


@dataclass(frozen=True)
class Output:
    name: str  # for people
    path: Path

    @property
    def tokenizer_folder(self) -> Path:
        return self.path.with_suffix(".tokenizer")


@dataclass(frozen=True)
class Split:
    """Rows that are set aside as the evaluation set, as train_test_split(test_size, seed) of the datasets library chooses them."""

    output: Path
    size: float  # rows, or a share of all rows below 1
    seed: int

    def rows(self, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(training rows, evaluation rows), both in the order of the permutation."""
        num_test = math.ceil(self.size * num_rows) if self.size < 1 else int(self.size)
        if num_test >= num_rows:
            raise PrepareError(f"test_split_size = {self.size:g} leaves no row to train on: there are {num_rows:,}.", CONFIG)
        order = np.random.default_rng(self.seed).permutation(num_rows)
        return order[num_test:], order[:num_test]


@dataclass
class Part:
    """Rows of one source on their way to one file, or to two where some are set aside. `record`: what prepare_config says of source and options."""

    name: str  # "train", "eval" or "eval NAME", for people
    output: Path
    source: object
    row_format: RowFormat | None  # None: the source has no rows
    tokenizer_folder: TokenizerFolder
    model_folder: Path | None = None
    max_rows: int | None = None
    num_proc: int | None = None
    max_length: int | None = None  # for the summary only: rows are stored whole
    compress: bool = False
    record: dict = field(default_factory=dict)
    split: "Split | None" = None

    def outputs(self) -> list["Output"]:
        if self.split is None:
            return [Output(self.name, self.output)]
        return [Output("train", self.output), Output("eval", self.split.output)]

    def prepare_config(self, template: str | None) -> dict:
        """template: the chat template that renders the rows; None where they are not chats."""
        rows, formatting = self.row_format, self.row_format.formatting
        return {
            "tool": TOOL, "part": self.name.split()[0], "source_file": None, "dataset_name": None, "dataset_split": None,
            "formatting_func": None, "max_rows": self.max_rows, "test_split_size": self.split.size if self.split else None,
            "split_seed": self.split.seed if self.split else None, "tokenizer_name_or_path": self.tokenizer_folder.name, **self.record,
            "formatting_func_sha256": formatting.sha256() if formatting else None,
            "chat_template_sha256": sha256(template) if template is not None else None,
            "tokenizer_eos_token": self.tokenizer_folder.configured_eos_token(),
            # ours: decide whether a file is up to date
            "source_fingerprint": self.source.fingerprint(), "tokenizer_sha256": self.tokenizer_folder.sha256(), "compressed": self.compress,
            "tokenizer_folder_sha256": self.tokenizer_folder.side_files_sha256(self.model_folder),
            "training_template_sha256": sha256("".join(training_templates().values())) if rows.assistant_only else None,
            "rows": [rows.kind.value, rows.completion_only, rows.assistant_only, *rows.label_columns],  # of evaluation sets the training rows decide
        }


def prepare(part: Part, force: bool = False, say=print) -> bool:
    """Writes part.output and its tokenizer folder; false when they are up to date."""
    if part.row_format is None:
        raise PrepareError(f"{part.name}: no row is left to write to {part.output}: the source has no rows.")
    tokenizer = Tokenizer(part.tokenizer_folder)
    encoder = Encoder(tokenizer, part.row_format)
    config = part.prepare_config(default_template(tokenizer.tokenizer) if part.row_format.is_chat else None)
    if not out_of_date(part, config, force, say):
        say(f"{part.name}: {' and '.join(str(output.path) for output in part.outputs())} {'are' if part.split else 'is'} up to date (--force prepares "
            "it again)")
        return False

    started = time.monotonic()
    dropped, notes, lengths = Tally(), Tally(), LengthCounts(part.max_length)
    with DatasetWriter(part.output, labelled=part.row_format.labelled) as writer, Progress(part) as progress:
        for encoded in tokenise(part, encoder):
            labels = encoded.labels if part.row_format.labelled else None
            writer.append(encoded.ids, labels)
            lengths.add(encoded.ids, labels)
            for tally, entries in ((dropped, encoded.dropped), (notes, encoded.notes)):
                for reason, place in entries:
                    tally.add(reason, place)
            progress.show(writer.num_rows, writer.num_tokens)
        if writer.num_target_tokens == 0:
            reasons = "; ".join(dropped.lines()) or "no token of any row is learnt"
            raise PrepareError(f"{part.name}: no row is left to write to {part.output}: {reasons}.")
        progress.close()
        attributes = {**tokenizer.special_ids(), "tokenizer_sha256": config["tokenizer_sha256"]}
        written = write_outputs(part, writer, attributes, config)

    seconds = time.monotonic() - started
    for output, rows in written:
        say(f"{output.name}: {output.path}: {rows.num_rows:,} rows ({part.row_format.kind.value}), {rows.num_tokens:,} tokens in {seconds:.1f} s")
    for line in [*(f"dropped: {line}" for line in dropped.lines()), *(f"note: {line}" for line in notes.lines()), *warnings(encoder),
                 *lengths.lines()]:
        say(f"  {line}")
    return True


def out_of_date(part: Part, config: dict, force: bool, say) -> bool:
    """Whether a file has to be written; says why where there is one already."""
    result = False
    for output in part.outputs():
        if not output.path.exists():
            result = True
            continue
        existing = read_prepare_config(output.path)
        if existing is None:
            raise PrepareError(f"{output.path} exists and is not a data set that sft-prepare wrote: choose another "
                               f"{part.name.split()[0]}_dataset, or remove it.", CONFIG)
        reasons = [*changed_keys(existing, config | {"part": output.name.split()[0]}), *(["--force"] if force else [])]
        if not reasons and not output.tokenizer_folder.is_dir():
            reasons = ["its tokenizer folder is missing"]
        if not reasons and folder_sha256(output.tokenizer_folder) != existing["tokenizer_folder_sha256"]:
            reasons = ["its tokenizer folder is not the one that was written with it"]
        if reasons:
            say(f"{output.name}: {output.path} is prepared again ({', '.join(reasons)})")
            result = True
    return result


def write_outputs(part: Part, writer: DatasetWriter, attributes: dict, config: dict) -> list[tuple[Output, Selection]]:
    """Everything is written before anything is replaced: a full disk changes nothing."""
    outputs = part.outputs()
    chosen = [None] if part.split is None else part.split.rows(writer.num_rows)
    written = []
    with ExitStack() as stack:
        folders = [stack.enter_context(StagingFolder(output.path)).folder for output in outputs]
        for output, rows, folder in zip(outputs, chosen, folders):
            selection = writer.selection(rows)
            part.tokenizer_folder.copy_side_files(folder / "tokenizer", part.model_folder)
            sync_tree(folder / "tokenizer")
            writer.write_rows(folder / "dataset.h5", selection, attributes, config | {"part": output.name.split()[0]}, part.compress)
            written.append((output, selection))
        for output, folder in zip(outputs, folders):
            if output.tokenizer_folder.exists():
                os.rename(output.tokenizer_folder, folder / "old")
            os.rename(folder / "tokenizer", output.tokenizer_folder)
            os.replace(folder / "dataset.h5", output.path)
            sync(output.path.parent)
    return written


def warnings(encoder: Encoder) -> Iterator[str]:
    if encoder.format.assistant_only and not learns_to_stop(encoder.tokenizer.tokenizer, encoder.training_template):
        yield ("warning: the chat template does not mark the token that ends the assistant's turn: the model may not learn to stop. Move it "
               "inside {% generation %} ... {% endgeneration %} in a copy of the template and name that in chat_template_path")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def changed_keys(existing: dict, config: dict) -> list[str]:
    """What differs in more than the folder it lies in: a data folder may be moved (docs/data-format.md)."""

    def essence(values: dict, key: str):
        if key == "tokenizer_name_or_path":  # tokenizer_sha256 decides
            return None
        value = values.get(key)
        return Path(value).name if value and key in ("formatting_func", "chat_template_path") else source_names(value) if value and key == "source_file" else value

    return [key for key in config if essence(existing, key) != essence(config, key)]


def source_names(text: str) -> list:
    """The last component of each path of a mixture, and its fraction."""
    return [(Path(path).name, fraction) for path, fraction in mixture_paths(text)]


def tokenise(part: Part, encoder: Encoder) -> Iterator[Encoded]:
    """Task by task, in the order of the source."""
    tasks = make_tasks(part)
    processes = part.num_proc or len(os.sched_getaffinity(0))
    first = list(islice(tasks, 2))
    if processes == 1 or len(first) < 2:
        for task in (*first, *tasks):
            yield encoder.encode(task)
        return
    with ProcessPoolExecutor(processes, initializer=initialise_worker, initargs=(part.tokenizer_folder, part.row_format)) as pool:
        pending = deque(pool.submit(run_worker_task, task) for task in first)
        try:
            for task in tasks:
                pending.append(pool.submit(run_worker_task, task))
                if len(pending) >= processes * TASKS_PER_PROCESS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise PrepareError(f"{part.name}: a process that tokenises was killed, as a rule for want of memory: set dataset_num_proc (now {processes}) "
                               "lower.", OUT_OF_MEMORY) from None
        finally:
            pool.shutdown(cancel_futures=True)


def make_tasks(part: Part) -> Iterator[list[tuple[dict, str]]]:
    """Lists of (row, place)."""
    task, size = [], 0
    for row, place in islice(iter(part.source), part.max_rows):
        task.append((part.row_format.select(row), place))
        size += size_of(task[-1][0])
        if len(task) == ROWS_PER_TASK or size >= BYTES_PER_TASK:
            yield task
            task, size = [], 0
    if task:
        yield task


def size_of(value) -> int:
    """Bytes, roughly."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list):
        return 8 * len(value) if value and isinstance(value[0], int) else sum(map(size_of, value))
    return 8


worker_encoder: Encoder | None = None


def initialise_worker(folder: TokenizerFolder, row_format: RowFormat) -> None:
    global worker_encoder
    worker_encoder = Encoder(Tokenizer(folder), row_format)


def run_worker_task(task) -> Encoded:
    return worker_encoder.encode(task)


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
