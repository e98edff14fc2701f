"""Rows to token ids and labels, as TRL's SFTTrainer makes them (docs/preparing.md)."""

import json
from dataclasses import dataclass, field

import numpy as np

from .chat import choose_training_template
from .dataset_file import IGNORED
from .errors import PrepareError
from .rows import Kind, RowFormat, read_messages, read_text
from .tokenizer import Tokenizer

NOT_A_PREFIX = "with a prompt whose tokens do not begin those of prompt + completion; what is learnt begins where they part"
OTHER_RENDERING = "that the training template renders otherwise than the tokenizer's own chat template"
NO_ASSISTANT = "without a token of the assistant"
PROMPT_END_TOKENS = 4


@dataclass
class Encoded:
    """The usable rows of a task in their order; why others are left out and what is worth knowing, with their places."""

    ids: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)  # of every row, where the format has labels
    dropped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


class Refused(Exception):
    """This row cannot be used."""


class Encoder:
    def __init__(self, tokenizer: Tokenizer, row_format: RowFormat):
        self.tokenizer, self.format = tokenizer, row_format
        if row_format.is_chat:
            tokenizer.require_chat_template()
        self.training_template = choose_training_template(tokenizer.tokenizer) if row_format.assistant_only else None

    def encode(self, task: list[tuple[dict, str]]) -> Encoded:
        if self.format.kind is Kind.TEXT:
            return self.encode_texts(task)
        encode_row = {Kind.PROMPT: self.prompt_row, Kind.PROMPT_CHAT: self.prompt_chat_row, Kind.CHAT: self.chat_row,
                      Kind.IDS: self.ids_row}[self.format.kind]
        result = Encoded()
        for row, place in task:
            try:
                ids, masks = encode_row(row, place, result.notes)
                if not ids:
                    raise Refused("without a token")
            except Refused as reason:
                result.dropped.append((str(reason), place))
                continue
            result.ids.append(np.asarray(ids, dtype=np.int32))
            if self.format.labelled:
                result.labels.append(labels_of(result.ids[-1], masks))
        return result

    def encode_texts(self, task) -> Encoded:
        texts, result = [], Encoded()
        for row, place in task:
            row_format = self.format
            text, reason = (read_text({"text": row_format.formatting(row, place)}, "text") if row_format.formatting
                            else read_text(row, row_format.text_field))
            if text is None:
                result.dropped.append((reason, place))
            else:
                texts.append(text)
        if texts:
            result.ids = self.tokenizer.encode([self.tokenizer.with_eos(text) for text in texts])
        return result

    def prompt_row(self, row, place, notes):
        prompt, completion = (checked(read_text(row, name)) for name in ("prompt", "completion"))
        ids = self.tokenizer.tokenizer(prompt + self.tokenizer.with_eos(completion))["input_ids"]
        if not self.format.completion_only:
            return ids, []
        return ids, [self.completion_mask(self.tokenizer.tokenizer(prompt)["input_ids"], ids, place, notes)]

    def prompt_chat_row(self, row, place, notes):
        prompt, completion = (checked(read_messages(row, name)) for name in ("prompt", "completion"))
        ids, masks = self.render(prompt + completion, row, place, notes)
        if self.format.completion_only:
            prompt_ids = self.template(prompt, row, add_generation_prompt=True)["input_ids"]
            masks = [self.completion_mask(prompt_ids, ids, place, notes), *masks]
        return ids, masks

    def chat_row(self, row, place, notes):
        columns = self.format.chat_columns
        column = next((column for column in columns if row.get(column) is not None), columns[0])
        return self.render(checked(read_messages(row, column)), row, place, notes)

    def render(self, messages, row, place, notes):
        """(ids, masks) of a conversation."""
        if not self.format.assistant_only:
            return self.template(messages, row)["input_ids"], []
        result = self.template(messages, row, return_assistant_tokens_mask=True)
        if 1 not in result["assistant_masks"]:
            raise Refused(f"{NO_ASSISTANT} (roles: {', '.join(dict.fromkeys(message['role'] for message in messages))})")
        if self.training_template and self.template(messages, row, use_own=True)["input_ids"] != result["input_ids"]:
            notes.append((OTHER_RENDERING, place))
        return result["input_ids"], [result["assistant_masks"]]

    def template(self, messages, row, use_own=False, **arguments) -> dict:
        """transformers' apply_chat_template, with the row's own tools and arguments."""
        try:
            tools = row.get("tools")
            tools = json.loads(tools) if isinstance(tools, str) else tools
            chosen = {"chat_template": None if use_own else self.training_template, "tools": tools, **(row.get("chat_template_kwargs") or {})}
            return self.tokenizer.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **arguments, **chosen)
        except UnicodeEncodeError:
            raise Refused("not valid Unicode (half a surrogate pair)") from None
        except Exception as error:  # a template may raise anything
            message = str(error).strip().splitlines() or [""]
            raise Refused(f"refused by the chat template: {type(error).__name__}: {message[0]}") from None

    def completion_mask(self, prompt_ids, ids, place, notes) -> list[int]:
        """1 from where the two part: not always after the prompt's last token."""
        differs = (at for at, (left, right) in enumerate(zip(prompt_ids, ids)) if left != right)
        length = next(differs, min(len(prompt_ids), len(ids)))
        if length < len(prompt_ids):
            end = self.tokenizer.tokenizer.decode(prompt_ids[length:length + PROMPT_END_TOKENS])
            notes.append((NOT_A_PREFIX, f"{place}: {end!r} is left out"))
        return [0] * length + [1] * (len(ids) - length)

    def ids_row(self, row, place, notes):
        ids = integers(row, "input_ids")
        limit = self.tokenizer.vocab_size
        if outside := [token for token in ids if not 0 <= token < limit]:
            raise PrepareError(f"{place} has the token id {outside[0]}; the tokenizer's are below {limit}: the rows were made with another tokenizer.")
        masks = []
        for column in self.format.label_columns:
            values = integers(row, column)
            if len(values) != len(ids):
                raise Refused(f"with {column} of another length than input_ids")
            if column == "labels":
                if wrong := [label for label in values if label != IGNORED and not 0 <= label < limit]:
                    raise PrepareError(f"{place} has the label {wrong[0]}: labels are token ids below {limit}, or {IGNORED}.")
            elif not set(values) <= {0, 1}:
                raise PrepareError(f"{place}: {column} holds other values than 0 and 1.")
            masks.append(values)
        return ids, masks if self.format.label_columns != ("labels",) else Labels(masks[0])


class Labels(list):
    """Labels as they are, where other rows have masks."""


def labels_of(ids: np.ndarray, masks: list) -> np.ndarray:
    if isinstance(masks, Labels):
        return np.asarray(masks, dtype=np.int32)
    learnt = np.ones(len(ids), dtype=bool)
    for mask in masks:
        learnt &= np.asarray(mask, dtype=bool)
    return np.where(learnt, ids, np.int32(IGNORED))


def checked(value_or_reason):
    value, reason = value_or_reason
    if value is None:
        raise Refused(reason)
    return value


def integers(row: dict, column: str) -> list[int]:
    values = row.get(column)
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list) or not all(type(value) is int or type(value) is bool for value in values):
        raise Refused(f"without a list of whole numbers in '{column}'")
    return [int(value) for value in values]
