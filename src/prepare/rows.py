"""Kinds of source rows, which of them a row is, and why a row cannot be used. Kinds are those of TRL's SFTTrainer."""

import hashlib
import importlib.util
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from .errors import CONFIG, PrepareError, printable

EXAMPLES_PER_REASON = 3
PRETOKENIZED_COLUMNS = ("labels", "completion_mask", "assistant_masks")
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")


@dataclass
class Tally:
    """Rows that something happened to: how many for each reason, and the first few by name."""

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES_PER_REASON:
            places.append(place)

    def lines(self) -> list[str]:
        return [printable(f"{count:,} {reason} ({', '.join(self.examples[reason])}{', ...' if count > len(self.examples[reason]) else ''})")
                for reason, count in self.counts.most_common()]


class FormattingFunction:
    """formatting_func = file.py:function, a function from a row (dict) to its text."""

    def __init__(self, specification: str):
        self.specification = specification
        file, separator, self.name = specification.rpartition(":")
        if not separator or not file or not self.name.isidentifier():
            raise PrepareError(f"formatting_func = {specification}: expected file.py:function.", CONFIG)
        self.file = Path(file).expanduser()
        if not self.file.is_file():
            raise PrepareError(f"formatting_func = {specification}: there is no file {self.file}.", CONFIG)
        self.function = None

    def __getstate__(self):  # a worker process loads the file itself
        return {**self.__dict__, "function": None}

    def sha256(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def load(self) -> None:
        spec = importlib.util.spec_from_file_location("sft_formatting_func", self.file)
        if spec is None:
            raise PrepareError(f"formatting_func = {self.specification}: {self.file} is not a Python file (.py).", CONFIG)
        module = importlib.util.module_from_spec(spec)
        # At the end: its neighbours take nobody's place.
        theirs = os.environ.get("SFT_PYTHONPATH", "").split(os.pathsep)  # launch/sft-prepare: the user's own PYTHONPATH
        sys.path += [folder for folder in (str(self.file.resolve().parent), os.getcwd(), *theirs) if folder and folder not in sys.path]
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's code
            raise PrepareError(f"formatting_func: {self.file} cannot be loaded: {type(error).__name__}: {error}.", CONFIG) from error
        self.function = getattr(module, self.name, None)
        if not callable(self.function):
            raise PrepareError(f"formatting_func: {self.file} has no function '{self.name}'.", CONFIG)

    def __call__(self, row: dict, place: str) -> str:
        if self.function is None:
            self.load()
        try:
            text = self.function(row)
        except Exception as error:  # the user's code
            raise PrepareError(f"formatting_func {self.name} failed on {place}: {type(error).__name__}: {error}.") from error
        if not isinstance(text, str):
            raise PrepareError(f"formatting_func {self.name} returned {type(text).__name__} for {place}: it must return the row's text.", CONFIG)
        return text


class Kind(Enum):
    TEXT = "text"
    PROMPT = "prompt/completion text"
    PROMPT_CHAT = "prompt/completion messages"
    CHAT = "messages"
    IDS = "token ids"


@dataclass(frozen=True)
class RowFormat:
    """What the rows of one source are, decided by its first row as TRL does, and which of their tokens are learnt."""

    kind: Kind
    text_field: str = "text"
    formatting: FormattingFunction | None = None
    completion_only: bool = False   # only the completion is learnt
    assistant_only: bool = False    # only what the assistant says is learnt
    label_columns: tuple[str, ...] = ()  # of token ids: ("labels",), or the masks that apply
    chat_columns: tuple[str, ...] = ()  # of chats: where a row's messages are, the first that is not null

    @property
    def labelled(self) -> bool:
        return self.completion_only or self.assistant_only or bool(self.label_columns)

    @property
    def is_chat(self) -> bool:
        return self.kind in (Kind.CHAT, Kind.PROMPT_CHAT)

    def select(self, row: dict) -> dict:
        """The columns that are needed, so that no others travel to the worker processes."""
        if self.formatting:
            return row
        columns = {Kind.TEXT: (self.text_field,), Kind.PROMPT: ("prompt", "completion"), Kind.IDS: ("input_ids", *self.label_columns),
                   Kind.CHAT: (*self.chat_columns, *TEMPLATE_COLUMNS),
                   Kind.PROMPT_CHAT: ("prompt", "completion", *TEMPLATE_COLUMNS)}[self.kind]
        return {column: row[column] for column in columns if column in row}


@dataclass(frozen=True)
class RowOptions:
    """The options that say how rows are read."""

    text_field: str = "text"
    formatting: FormattingFunction | None = None
    completion_only_loss: bool | None = None  # None: as TRL, where the first training row has prompt and completion
    assistant_only_loss: bool = False

    def format_of(self, first: tuple[dict, str], first_training: tuple[dict, str]) -> RowFormat:
        """first: first row of this source and its place; first_training: that of the training source."""
        row, place = first
        kind = self.kind_of(row, place)
        training_row, training_place = first_training
        training_kind = kind if training_row is row else self.kind_of(training_row, training_place)
        if self.assistant_only_loss and training_kind not in (Kind.CHAT, Kind.PROMPT_CHAT):
            raise PrepareError(f"assistant_only_loss = true needs chat rows (messages, or prompt and completion of messages); {training_place} "
                               f"has {training_kind.value}.", CONFIG)
        if self.completion_only_loss and training_kind in (Kind.TEXT, Kind.CHAT):
            raise PrepareError(f"completion_only_loss = true needs rows with prompt and completion; {training_place} has {training_kind.value}: "
                               "leave it out" + (", or set assistant_only_loss = true." if training_kind is Kind.CHAT else "."), CONFIG)
        wanted = self.completion_only_loss
        # formatting_func makes one text of both
        has_completion = "prompt" in training_row and "completion" in training_row and training_kind is not Kind.TEXT
        completion_only = has_completion if wanted is None else wanted
        if kind is Kind.IDS:
            return RowFormat(kind, label_columns=label_columns(row, completion_only))
        is_prompt, is_chat = kind in (Kind.PROMPT, Kind.PROMPT_CHAT), kind in (Kind.CHAT, Kind.PROMPT_CHAT)
        return RowFormat(kind, self.text_field, self.formatting, completion_only and is_prompt, self.assistant_only_loss and is_chat,
                         chat_columns=chat_columns(row, self.text_field) if kind is Kind.CHAT else ())

    def kind_of(self, row: dict, place: str) -> Kind:
        """A row that is of no kind is a mistake in the options, not a row to drop."""
        columns = ", ".join(map(str, row)) or "none"
        if "images" in row or "image" in row:
            raise PrepareError(f"{place} has images (fields: {columns}): sft-dist trains text models.", CONFIG)
        if "seq_lengths" in row:
            raise PrepareError(f"{place} is several documents packed into one row (seq_lengths), which would see one another: prepare the documents "
                               "themselves and set packing = true.", CONFIG)
        if "input_ids" in row:
            return Kind.IDS
        if self.formatting:
            return Kind.TEXT
        if "prompt" in row and "completion" in row:
            kinds = {type(row["prompt"]), type(row["completion"])}
            if kinds == {str}:
                return Kind.PROMPT
            if kinds == {list}:
                return Kind.PROMPT_CHAT
            raise PrepareError(f"{place}: prompt and completion must both be strings or both be lists of messages.", CONFIG)
        if chat_columns(row, self.text_field):
            return Kind.CHAT
        if self.text_field in row:
            return Kind.TEXT
        if "prompt" in row or "completion" in row:
            raise PrepareError(f"{place} has {'prompt' if 'prompt' in row else 'completion'} alone (fields: {columns}): a row needs both "
                               "prompt and completion, or a text.", CONFIG)
        raise PrepareError(f"{place} has no field '{self.text_field}' (fields: {columns}): set dataset_text_field or formatting_func.", CONFIG)


def chat_columns(row: dict, text_field: str) -> tuple[str, ...]:
    """Where rows like this one have their messages: the column that TRL takes, then the other. None where TRL takes the text."""
    def begins_with(column: str, *keys: str) -> bool:
        messages = row.get(column)
        return isinstance(messages, list) and bool(messages) and isinstance(messages[0], dict) and all(key in messages[0] for key in keys)

    if begins_with("conversations", "from", "value"):
        return ("conversations", "messages")
    if begins_with("messages", "role"):
        return ("messages", "conversations")
    if text_field in row:  # conversations of role and content are not chats to TRL
        return ()
    if isinstance(row.get("messages"), list):
        return ("messages", "conversations")
    return ("conversations", "messages") if isinstance(row.get("conversations"), list) else ()


def label_columns(row: dict, completion_only: bool) -> tuple[str, ...]:
    """As TRL: labels decide; else every mask that is there applies, completion_mask only when completion_only_loss is true."""
    if "labels" in row:
        return ("labels",)
    return tuple(column for column in ("completion_mask", "assistant_masks")
                 if column in row and (column == "assistant_masks" or completion_only))


def read_text(row: dict, field_name: str) -> tuple[str | None, str]:
    """(text, "") or (None, why the row is left out)."""
    if field_name not in row:
        return None, f"without field '{field_name}'"
    value = row[field_name]
    if value is None:
        return None, "null"
    if not isinstance(value, str):
        return None, f"not a string but {type(value).__name__}"
    try:
        value.encode()
    except UnicodeEncodeError:
        return None, "not valid Unicode (half a surrogate pair)"
    return value, ""


def read_messages(row: dict, field_name: str) -> tuple[list[dict] | None, str]:
    """The messages of a row with their keys named role and content (from and value where there are none), or why there are none."""
    messages = row.get(field_name)
    if not isinstance(messages, list) or not messages:
        return None, f"without a list of messages in '{field_name}'"
    result = []
    for message in messages:
        if not isinstance(message, dict):
            return None, f"with an entry of '{field_name}' that is not a message"
        message = dict(message)
        wins = field_name == "conversations" and "from" in message and "value" in message  # as in TRL's maybe_convert_to_chatml
        for name, other in (("role", "from"), ("content", "value")):
            if (wins and message[other] is not None) or (other in message and message.get(name) is None):
                message[name] = message.pop(other)
        if not isinstance(message.get("role"), str):
            return None, f"with a message in '{field_name}' that has no role"
        result.append(message)
    return result, ""
