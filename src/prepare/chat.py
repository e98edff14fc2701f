"""Chat templates: where the template comes from, and one that marks what the assistant says."""

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import CONFIG, PrepareError

MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
TRAINING_TEMPLATES = Path(__file__).parent / "chat_templates"

# Conversations that tell templates apart. The assistant speaks last only: some templates render its earlier turns in another way
# than the one to learn, which is counted row by row (encode.py).
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}
PROBES = [
    ([{"role": "user", "content": "  Hi \n there\n"}, {"role": "assistant", "content": " Yes,\n\nI do. "}], None),
    ([{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], None),
    ([{"role": "system", "content": ""}, {"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], None),
    ([{"role": "user", "content": "A"}], None),
    ([{"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": "", "tool_calls": [
        {"id": "a1b2c3d4e", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]}], [TOOL]),
]


@dataclass(frozen=True)
class TemplateChoice:
    """chat_template_path: a Jinja file, or a tokenizer whose template (and end-of-sequence token) is taken over."""

    text: str
    eos_token: str | None = None
    added_tokens: tuple[str, ...] = ()  # which the run's tokenizer must have too


def read_template_choice(path: str, load_tokenizer) -> TemplateChoice:
    """load_tokenizer: name or folder -> transformers' tokenizer."""
    file = Path(path).expanduser()
    if file.suffix in (".jinja", ".j2"):
        if not file.is_file():
            raise PrepareError(f"chat_template_path = {path}: there is no such file.", CONFIG)
        return TemplateChoice(file.read_text(encoding="utf-8"))
    source = load_tokenizer(path)
    if not source.chat_template:
        raise PrepareError(f"chat_template_path = {path}: that tokenizer has no chat template.", CONFIG)
    return TemplateChoice(source.get_chat_template(), source.eos_token, tuple(token.content for token in source.added_tokens_decoder.values()))


def default_template(tokenizer) -> str:
    template = tokenizer.chat_template
    return template["default"] if isinstance(template, dict) else template


def choose_training_template(tokenizer) -> str | None:
    """None: the tokenizer's own marks the assistant's part; else the one of ours that renders conversations as it does."""
    if MARKER.search(default_template(tokenizer)):
        return None
    own = [render(tokenizer, None, probe) for probe in PROBES]
    for template in training_templates().values():
        if any(own) and own == [render(tokenizer, template, probe) for probe in PROBES]:
            return template
    raise PrepareError("assistant_only_loss = true: the tokenizer's chat template has no {% generation %} markers around what the assistant says, "
                       f"and it is none of those known ({', '.join(training_templates())}): put the markers into a copy and name it in chat_template_path.",
                       CONFIG)


def training_templates() -> dict[str, str]:
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(TRAINING_TEMPLATES.glob("*.jinja"))}


def render(tokenizer, template: str | None, probe) -> str | None:
    """None where the template refuses the conversation."""
    messages, tools = probe
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, chat_template=template)
    except Exception:  # a template may raise anything
        return None


def learns_to_stop(tokenizer, template: str | None) -> bool:
    """Whether the marked part of an assistant's turn ends with a special token, which tells the model where to end."""
    turn = [{"role": role, "content": "word"} for role in ("user", "assistant", "user")]
    try:
        result = tokenizer.apply_chat_template(turn, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, chat_template=template)
    except Exception:  # such as a template that wants the assistant last
        return True
    marked = [token for token, mask in zip(result["input_ids"], result["assistant_masks"]) if mask]
    while marked and not tokenizer.decode([marked[-1]]).strip():
        marked.pop()
    return bool(marked) and marked[-1] in tokenizer.get_added_vocab().values()
