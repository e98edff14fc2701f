"""sft-prepare inspect FILE.h5 [--row N]... [--tokens] [--max_length L]

Shows what a prepared data set holds: where it is from, lengths, what is learnt, what max_length and packing would do, what looks wrong, and
rows as text with their learnt tokens marked: in colour on a terminal, as {+learnt+} elsewhere or where NO_COLOR is set.

  --row N         this row (from 0) alone; may be repeated
  --tokens        a row as a table, one token a line
  --max_length L  as in run.ini; none: rows stay whole (default: 1024, the option's default)
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from .dataset_file import IGNORED, read_prepare_config
from .disposable import require_harmless
from .errors import CONFIG, INVALID_DATA, PrepareError, printable
from .packing import pack_bfd
from .summary import length_lines

BLOCK_TOKENS = 1 << 22
ROWS_SHOWN = 2  # where none is asked for
EXAMPLES = 5


@dataclass
class Arguments:
    file: Path
    rows: list[int]
    tokens: bool = False
    max_length: int | None = 1024


def parse(words: list[str]) -> Arguments:
    result, words = Arguments(file=None, rows=[]), list(words)

    def value(option: str, word: str) -> str:
        if "=" in word:
            return word.split("=", 1)[1]
        if not words:
            raise PrepareError(f"{option} needs a value.", CONFIG)
        return words.pop(0)

    def number(option: str, text: str) -> int:
        if not text.isdecimal():
            raise PrepareError(f"{option} = {text}: expected a whole number from 0.", CONFIG)
        return int(text)

    while words:
        word = words.pop(0)
        option = word.split("=", 1)[0]
        if option == "--row":
            result.rows.append(number("--row", value("--row", word)))
        elif option == "--max_length":
            text = value(option, word)
            result.max_length = None if text.lower() == "none" else number(option, text)
            if result.max_length == 0:
                raise PrepareError("--max_length = 0: a row keeps at least one token.", CONFIG)
        elif word == "--tokens":
            result.tokens = True
        elif word.startswith("-") or result.file is not None:
            raise PrepareError(f"inspect: {word} is not understood; sft-prepare inspect --help.", CONFIG)
        else:
            result.file = Path(word)
    if result.file is None:
        raise PrepareError("inspect needs the file to look at: sft-prepare inspect FILE.h5.", CONFIG)
    return result


class Dataset:
    """A prepared file, read block by block."""

    def __init__(self, path: Path):
        if path.is_file():
            require_harmless(path)
        self.path, self.config = path, read_prepare_config(path)
        if self.config is None:
            raise PrepareError(f"{path} is not a data set that sft-prepare wrote ({'it is another file' if path.exists() else 'it does not exist'}).",
                               INVALID_DATA)
        self.file = h5py.File(path, "r")
        self.offsets = self.file["offsets"][()]
        self.lengths = np.diff(self.offsets)
        self.special = {name: int(self.file.attrs[f"{name}_token_id"]) for name in ("bos", "eos", "pad") if f"{name}_token_id" in self.file.attrs}

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, labels)"""
        if number >= len(self.lengths):
            raise PrepareError(f"{self.path} has no row {number}: it has {len(self.lengths):,} rows, numbered from 0.", CONFIG)
        return self.tokens(self.offsets[number], self.offsets[number + 1])

    def tokens(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        ids = self.file["input_ids"][begin:end]
        if "labels" in self.file:
            return ids, self.file["labels"][begin:end]
        return ids, np.where(self.file["loss_mask"][begin:end], ids, IGNORED) if "loss_mask" in self.file else ids

    def blocks(self):
        """(first row, number of rows, ids, labels, starts of the rows within them)"""
        first = 0
        while first < len(self.lengths):
            end = int(np.searchsorted(self.offsets, self.offsets[first] + BLOCK_TOKENS, side="right")) - 1
            end = max(end, first + 1)
            ids, labels = self.tokens(self.offsets[first], self.offsets[end])
            yield first, end - first, ids, labels, self.offsets[first:end] - self.offsets[first]
            first = end


class Facts:
    """What is to be said of each row, from one pass over the file."""

    def __init__(self, dataset: Dataset, max_length: int | None):
        rows = len(dataset.lengths)
        self.learnt, self.learnt_after_cut = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.has_target_after_cut, self.ends_with_eos, self.learns_eos, self.bos_twice = (np.zeros(rows, bool) for _ in range(4))
        self.has_bos = "bos" in dataset.special
        eos, bos = (dataset.special.get(name, -1) for name in ("eos", "bos"))
        for first, count, ids, labels, starts in dataset.blocks():
            part = slice(first, first + count)
            lengths = dataset.lengths[part]
            ends = starts + lengths
            cuts = ends if max_length is None else np.minimum(ends, starts + max_length)
            sums = np.concatenate([[0], np.cumsum(labels != IGNORED)])
            self.learnt[part] = sums[ends] - sums[starts]
            self.learnt_after_cut[part] = np.where(cuts > starts + 1, sums[cuts] - sums[np.minimum(starts + 1, cuts)], 0)  # nothing predicts a first token
            self.has_target_after_cut[part] = sums[cuts] > sums[starts]
            self.ends_with_eos[part] = ids[ends - 1] == eos
            eos_sums = np.concatenate([[0], np.cumsum(labels == eos)])
            self.learns_eos[part] = eos_sums[ends] > eos_sums[starts]
            seconds = np.minimum(starts + 1, ends - 1)
            self.bos_twice[part] = (lengths > 1) & (ids[starts] == bos) & (ids[seconds] == bos) & (bos != eos)


def rows_named(which: np.ndarray) -> str:
    rows = np.flatnonzero(which)
    return f"rows {', '.join(map(str, rows[:EXAMPLES]))}{', ...' if len(rows) > EXAMPLES else ''}" if len(rows) != 1 else f"row {rows[0]}"


def origin(config: dict) -> list[str]:
    source = config.get("source_file") or f"{config.get('dataset_name')} ({config.get('dataset_split')})"
    shown = ["formatting_func", "completion_only_loss", "assistant_only_loss", "chat_template_path", "eos_token", "max_rows", "tokenizer_name_or_path"]
    options = [f"{name} = {str(config[name]).lower() if isinstance(config[name], bool) else config[name]}" for name in shown
               if config.get(name) not in (None, False)]
    return [f"from {source}, by {config.get('tool')}", *([", ".join(options)] if options else [])]


def summary(dataset: Dataset, facts: Facts, max_length: int | None) -> list[str]:
    rows, tokens, learnt = len(dataset.lengths), int(dataset.lengths.sum()), int(facts.learnt.sum())
    lengths, counts = np.unique(dataset.lengths, return_counts=True)
    lines = [*origin(dataset.config), f"{rows:,} rows, {tokens:,} tokens, {learnt:,} learnt ({learnt / tokens:.1%})",
             *length_lines(lengths, counts, max_length)]
    kept = facts.has_target_after_cut if max_length is not None else np.ones(rows, bool)
    after = "" if max_length is None else f" after the cut at {max_length:,}"
    lines.append(f"an epoch{after}: {int(kept.sum()):,} rows, {int(facts.learnt_after_cut.sum()):,} target tokens")
    if max_length is not None:
        packed = pack_bfd(dataset.lengths, max_length)
        lines.append(f"packing (bfd): {rows:,} rows go into {packed.bins:,} sequences of {max_length:,}, filled {packed.fill:.1%}; "
                     f"the mean row alone fills {np.minimum(dataset.lengths, max_length).mean() / max_length:.1%}")
    return lines


def findings(dataset: Dataset, facts: Facts, max_length: int | None) -> list[str]:
    """What may be why a loss is odd."""
    lines, rows = [], len(dataset.lengths)
    nothing = facts.learnt == 0
    if nothing.any():
        lines.append(f"{nothing.sum():,} rows have no learnt token{' and are left out' if max_length is not None else ''} ({rows_named(nothing)})")
    emptied = ~nothing & ~facts.has_target_after_cut
    if emptied.any():
        lines.append(f"{emptied.sum():,} rows lose all their learnt tokens to max_length = {max_length:,} and are left out ({rows_named(emptied)})")
    if "eos" not in dataset.special:
        lines.append("the tokenizer has no end-of-sequence token: the model does not learn to stop")
    else:
        unlearnt = ~nothing & ~facts.learns_eos
        if unlearnt.any():
            lines.append(f"{unlearnt.sum():,} of {rows:,} rows do not learn the end-of-sequence token {dataset.special['eos']} ({rows_named(unlearnt)}): "
                         "where a row should end the answer, the model does not learn to stop")
    if facts.bos_twice.any():
        lines.append(f"{facts.bos_twice.sum():,} rows begin with the token {dataset.special['bos']} (bos) twice ({rows_named(facts.bos_twice)})")
    return lines


class Painter:
    """Learnt tokens in green, what is cut off in red, where a terminal shows colours."""

    def __init__(self, in_colour: bool):
        self.in_colour = in_colour

    def learnt(self, text: str) -> str:
        text = printable(text)
        return f"\x1b[32m{text}\x1b[0m" if self.in_colour else f"{{+{text}+}}"

    def other(self, text: str) -> str:
        text = printable(text)
        return f"\x1b[2m{text}\x1b[0m" if self.in_colour else text

    def cut(self, max_length: int) -> str:
        text = f"[cut at {max_length:,}]"
        return f"\x1b[31m{text}\x1b[0m" if self.in_colour else text


def decoded_pieces(tokenizer, ids: list[int], bounds: list[int]) -> list[str]:
    """The text of ids between neighbouring bounds; together they are the text of all where the tokenizer allows."""

    def decode(tokens):
        return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    pieces, before = [], ""
    for begin, end in zip(bounds, bounds[1:]):
        whole = decode(ids[:end])
        pieces.append(whole[len(before):] if whole.startswith(before) else decode(ids[begin:end]))
        before = whole
    return pieces


def show_row(dataset: Dataset, tokenizer, number: int, max_length: int | None, painter: Painter) -> list[str]:
    ids, labels = dataset.row(number)
    learnt = labels != IGNORED
    bounds = {0, len(ids), *(np.flatnonzero(learnt[1:] != learnt[:-1]) + 1).tolist()}
    if is_cut := max_length is not None and len(ids) > max_length:
        bounds.add(max_length)
    bounds = sorted(bounds)
    text = ""
    for begin, piece in zip(bounds, decoded_pieces(tokenizer, ids.tolist(), bounds)):
        if is_cut and begin == max_length:
            text += painter.cut(max_length)
        text += painter.learnt(piece) if learnt[begin] else painter.other(piece)
    first = f", the first at {int(learnt.argmax())}" if learnt.any() else ""
    return [f"row {number}: {len(ids):,} tokens, {int(learnt.sum()):,} learnt{first}", text]


def show_tokens(dataset: Dataset, tokenizer, number: int, max_length: int | None, painter: Painter) -> list[str]:
    ids, labels = dataset.row(number)
    lines = [f"row {number}: position, id, text, label where it is another"]
    for at, (token, label) in enumerate(zip(ids.tolist(), labels.tolist())):
        if at == max_length:
            lines.append(painter.cut(max_length))
        text = repr(tokenizer.decode([token]))
        other = f"  -> {label} {tokenizer.decode([label])!r}" if label not in (token, IGNORED) else ""
        lines.append(f"{at:>6} {token:>7}  " + (painter.other(text) if label == IGNORED else painter.learnt(text)) + other)
    return lines


def main(words: list[str]) -> int:
    if "--help" in words or "-h" in words:
        print(__doc__.strip())
        return 0
    arguments = parse(words)
    dataset = Dataset(arguments.file)
    painter = Painter(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    if not arguments.rows:
        facts = Facts(dataset, arguments.max_length)
        print(dataset.path)
        for line in summary(dataset, facts, arguments.max_length):
            print(f"  {printable(line)}")
        for line in findings(dataset, facts, arguments.max_length):
            print(f"  ! {line}")

    from .tokenizer import find_tokenizer, load_tokenizer

    folder = arguments.file.with_suffix(".tokenizer")
    if not folder.is_dir():
        raise PrepareError(f"{folder} is missing: rows cannot be shown as text without the tokenizer.")
    tokenizer = load_tokenizer(find_tokenizer("", folder).path)
    show = show_tokens if arguments.tokens else show_row
    for number in arguments.rows or range(min(ROWS_SHOWN, len(dataset.lengths))):
        print("\n" * (not arguments.rows) + "\n".join(show(dataset, tokenizer, number, arguments.max_length, painter)))
    return 0
