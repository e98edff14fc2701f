"""Ids and labels against those of the installed TRL: SFTTrainer prepares the same rows with the same tokenizer, for every kind of row
and every option that decides what is learnt."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch  # noqa: F401  (before `prepare`, which keeps it out where it is not loaded)
import trl
from datasets import Dataset, Features, Json, List, Value, load_dataset
from jinja2 import TemplateError
from prepare_support import prepare, read_labels, read_rows, tiny_model, write_jsonl
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoTokenizer
from transformers.trainer_utils import align_special_tokens
from trl import DatasetMixtureConfig, SFTConfig, SFTTrainer, get_dataset, pack_dataset
from trl.scripts.utils import DatasetConfig

from prepare.chat import TRAINING_TEMPLATES, choose_training_template
from prepare.errors import PrepareError

EOS = "<|endoftext|>"
MISTRAL = json.loads((Path(__file__).resolve().parents[1] / "golden" / "mistral_v3.json").read_text())
TEXTS = ["On Monday the baker found a key.", "", " ", "ends already" + EOS, "middle" + EOS + "end", "Zürich, naïve café, 東京 🎉", "tab\tand\nline\r\nends  ",
         "12345 67.89", "a" * 3000, EOS]
TRL_TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SPECIAL_TOKENS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
                  "<start_of_turn>", "<end_of_turn>", "<think>", "</think>", "<|eom_id|>", "<|python_tag|>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
# As the models ship them (SmolLM2's is in the GGUF file of launch/quickstart).
SMOLLM2 = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named "
           "SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
           "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


CHATS = [
    [user("Where is the baker?"), assistant("In the market.")],
    [user("  A key \n"), assistant(" was\nfound.  \n")],
    [user("One?"), assistant("Two."), user("Three?\n\n"), assistant("Four, Zürich 🎉")],
    [user("One?"), assistant("Two."), user("And no answer?")],
    [user("Empty"), assistant("")],
]
SYSTEM_CHATS = [[system("Be brief.\n"), *chat] for chat in CHATS] + CHATS[:2]
THOUGHTS = [[user("1 + 2?"), assistant("<think>\nOne and two.\n</think>\n\n3")], [user("Hm?"), assistant("Yes", reasoning_content="Why not.\n")]]
ADD = {"type": "function", "function": {"name": "add", "description": "Adds <a> & \"b\".", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TOOL_CHATS = [
    [user("1 + 2?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "3"}, assistant("It is 3.")],
    [user("1 + 2?"), assistant("Let me see.", tool_calls=[CALL, CALL]), {"role": "tool", "content": "3"}, {"role": "tool", "content": "3"},
     assistant("3 and 3."), user("Thanks"), assistant("Bye")],
]
ID_CALL, OTHER_CALL = CALL | {"id": "a1b2c3d4e"}, {"id": "f6g7h8i9j", "type": "function", "function": {"name": "say", "arguments": {"text": "Grüße"}}}
ONE_CALL_CHATS = [
    [user("1 + 2?\n"), assistant("", tool_calls=[ID_CALL]), {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "3"}, assistant(" It is 3.")],
    [system("Use tools. "), user("1 + 2?"), assistant("Let me see.", tool_calls=[ID_CALL]), {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": {"content": 3}},
     assistant("3"), user("Say hello."), assistant("", tool_calls=[OTHER_CALL])],
]
PROMPTS = [("Where is", " the baker?"), ("Where is ", "the baker?" + EOS), ("", "no prompt"), ("no completion", ""), ("The ba", "ker found a key."),
           ("tail" + EOS, EOS)]


def messages(chats):
    return [{"messages": chat} for chat in chats]


def split(chats):
    """As prompt and completion: the last message is the completion."""
    return [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats]


@dataclass
class Case:
    name: str
    rows: list
    options: dict = field(default_factory=dict)
    template: str = CHATML
    bos: bool = False  # the tokenizer puts a token in front of every text
    trl_options: dict | None = None  # where TRL needs others


STRINGS = [{"prompt": prompt, "completion": completion} for prompt, completion in PROMPTS]
IDS = [{"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1], "assistant_masks": [1, 0, 1, 0]},
       {"input_ids": [9, 10], "completion_mask": [1, 1], "assistant_masks": [0, 1]}]
LABELS = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [-100, -100]}, {"input_ids": [7], "labels": [7]}]
CASES = [
    Case("text", [{"text": text} for text in TEXTS]),
    Case("text-bos", [{"text": text} for text in TEXTS], bos=True),
    Case("text-other-field", [{"body": text, "text": "other"} for text in TEXTS], {"dataset_text_field": "body"}),
    Case("text-eos-token", [{"text": text} for text in TEXTS], {"eos_token": "<|im_end|>", "pad_token": "<|end|>"}),
    Case("strings", STRINGS),
    Case("strings-bos", STRINGS, bos=True),
    Case("strings-all", STRINGS, {"completion_only_loss": False}),
    Case("strings-explicit", STRINGS, {"completion_only_loss": True, "eos_token": "<|im_end|>"}),
    Case("split-chats", split([chat for chat in SYSTEM_CHATS if chat[-1]["role"] == "assistant"])),
    Case("split-chats-all", split(CHATS), {"completion_only_loss": False}),
    Case("split-chats-assistant", split(CHATS[:3]), {"assistant_only_loss": True}, template=(TRAINING_TEMPLATES / "chatml.jinja").read_text()),
    Case("split-chats-assistant-all", split(CHATS[:3]), {"assistant_only_loss": True, "completion_only_loss": False}, template="qwen2_5"),
    Case("chats", messages(SYSTEM_CHATS)),
    Case("chats-smollm2", messages(SYSTEM_CHATS), template=SMOLLM2),
    Case("chats-tools", [{"messages": chat, "tools": tools} for chat in TOOL_CHATS for tools in ([ADD], [])], template="qwen3"),
    Case("chats-tools-text", [{"messages": chat, "tools": json.dumps([ADD])} for chat in TOOL_CHATS], {"assistant_only_loss": True}, template="qwen3"),
    Case("chats-arguments", [{"messages": chat[:1], "chat_template_kwargs": {"enable_thinking": flag}} for chat in CHATS for flag in (True, False)],
         template=CHATML + "{% if enable_thinking %}{{ '<think>' }}{% endif %}"),
    Case("split-chats-arguments", [row | {"chat_template_kwargs": {"enable_thinking": flag}} for row in split(THOUGHTS) for flag in (True, False)],
         template="qwen3"),
    Case("conversations", [{"conversations": [{"from": message["role"], "value": message["content"]} for message in chat]} for chat in SYSTEM_CHATS]),
    Case("conversations-null", [{"conversations": [{"from": message["role"], "value": message["content"], "role": None, "content": None} for message in chat]}
                                for chat in SYSTEM_CHATS]),
    Case("conversations-beside-messages", [{"conversations": [{"from": message["role"], "value": message["content"]} for message in chat],
                                            "messages": CHATS[0], "text": "no"} for chat in SYSTEM_CHATS]),
    Case("text-beside-conversations", [{"conversations": chat, "text": f"A text of {len(chat)}."} for chat in CHATS]),
    Case("chats-other-keys", messages([[message | {"from": "web", "value": "5"} for message in chat] for chat in CHATS] + [
        [message | {"from": None, "value": None} for message in chat] for chat in CHATS])),
    Case("chat-template-file", messages(SYSTEM_CHATS), {"chat_template_path": str(TRL_TEMPLATES / "phi3.jinja")}),
    *(Case(f"assistant-{name}", messages(chats), {"assistant_only_loss": True}, template=name) for name, chats in {
        "qwen2_5": SYSTEM_CHATS + TOOL_CHATS, "qwen3": SYSTEM_CHATS + TOOL_CHATS + THOUGHTS, "qwen3_instruct_2507": SYSTEM_CHATS + TOOL_CHATS,
        "llama3": SYSTEM_CHATS, "phi3": SYSTEM_CHATS, "phi3_5": SYSTEM_CHATS + [[system(""), *CHATS[0]]], "gemma": CHATS,
        "gemma3": SYSTEM_CHATS}.items()),
    Case("assistant-markers", messages(SYSTEM_CHATS), {"assistant_only_loss": True}, template=(TRAINING_TEMPLATES / "chatml.jinja").read_text()),
    Case("ids", [{"input_ids": row["input_ids"]} for row in IDS]),
    Case("ids-labels", LABELS),
    Case("ids-other-labels", [{"input_ids": [5, 6, 7], "labels": [-100, 9, 7]}, {"input_ids": [8], "labels": [8]}]),
    Case("ids-masks", IDS),
    Case("ids-masks-completion", IDS, {"completion_only_loss": True}),
    Case("ids-masks-of-prompts", [row | {"prompt": "a", "completion": "b"} for row in IDS]),
    Case("ids-masks-of-prompts-all", [row | {"prompt": "a", "completion": "b"} for row in IDS], {"completion_only_loss": False}),
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """(template, bos) -> model folder whose tokenizer has it, and all the special tokens of the templates."""
    folder, made = tmp_path_factory.mktemp("tokenizers"), {}

    def make(template: str, bos: bool = False):
        if (template, bos) not in made:
            made[template, bos] = model = tiny_model(folder / str(len(made)))
            tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
            if bos:
                tokenizer.post_processor = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 0)])
            tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
            tokenizer.save(str(model / "tokenizer.json"))
            text = (TRL_TEMPLATES / f"{template}.jinja").read_text() if "{" not in template else template
            config = json.loads((model / "tokenizer_config.json").read_text()) | {"bos_token": EOS, "chat_template": text}
            (model / "tokenizer_config.json").write_text(json.dumps(config))
        return made[template, bos]

    return make


def trainer_of_trl(model, rows, folder, options, formatting_func=None):
    config = SFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, **{"max_length": None} | options)
    return SFTTrainer(model=str(model), args=config, train_dataset=rows if isinstance(rows, Dataset) else Dataset.from_list(rows), formatting_func=formatting_func,
                      processing_class=AutoTokenizer.from_pretrained(model))


def prepared_by_trl(model, rows, folder, options, formatting_func=None):
    trainer = trainer_of_trl(model, rows, folder, options, formatting_func)
    return [list(ids) for ids in trainer.train_dataset["input_ids"]], [list(labels) for labels in trainer.train_dataset["labels"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ids_and_labels_are_those_of_trl(case, tokenizers, tmp_path):
    model = tokenizers(case.template, case.bos)
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", case.rows), tmp_path / "rows.h5", **case.options)
    keep = [row for row in case.rows if not case.options.get("assistant_only_loss") or any(
        message["role"] == "assistant" for message in row.get("messages") or row["completion"])]  # TRL stops at rows without
    ids, labels = prepared_by_trl(model, keep, tmp_path / "trl", case.options)
    assert read_rows(output) == ids
    assert read_labels(output) == labels
    assert len(ids) == len(keep) > 0 and any(label != -100 for row in labels for label in row)
    if case.options.get("assistant_only_loss") or case.name in ("strings", "split-chats", "ids-labels", "ids-masks"):
        assert any(label == -100 for row in labels for label in row)


def test_formatting_func(tokenizers, tmp_path):
    model, rows = tokenizers(CHATML), [{"question": text, "answer": len(text)} for text in TEXTS]
    (tmp_path / "my.py").write_text("def to_text(row):\n    return f\"Q: {row['question']} A: {row['answer']}\"\n")
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5", formatting_func=f"{tmp_path}/my.py:to_text")
    ids, _ = prepared_by_trl(model, rows, tmp_path / "trl", {}, formatting_func=lambda row: f"Q: {row['question']} A: {row['answer']}")
    assert read_rows(output) == ids
    write_jsonl(tmp_path / "rows.jsonl", [row | {"prompt": "a", "completion": "b"} for row in rows])
    output = prepare(model, tmp_path / "rows.jsonl", tmp_path / "rows.h5", formatting_func=f"{tmp_path}/my.py:to_text")
    assert read_rows(output) == read_labels(output) == ids


def test_json_in_parquet_is_decoded(tokenizers, tmp_path):
    """Columns of the feature Json, as datasets 5 writes tools and calls of many shapes."""
    def column(kind):
        return List({"role": Value("string"), "content": Value("string"), "tool_calls": kind})

    rows = [{"messages": chat, "tools": [ADD]} for chat in (*TOOL_CHATS, *CHATS)]
    for kinds in ({"messages": column(List(Json())), "tools": List(Json())}, {"messages": List(Json()), "tools": Json()}):
        Dataset.from_list([{"messages": [{"tool_calls": None} | message for message in row["messages"]], "tools": row["tools"]} for row in rows],
                          features=Features(kinds)).to_parquet(tmp_path / "rows.parquet")
        ids, _ = prepared_by_trl(tokenizers("qwen3"), load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train",
                                                                  cache_dir=str(tmp_path / "cache")), tmp_path / "trl", {})
        assert read_rows(prepare(tokenizers("qwen3"), tmp_path / "rows.parquet", tmp_path / "rows.h5")) == ids


def test_json_of_a_saved_data_set_is_decoded(tokenizers, tmp_path):
    model = tokenizers(CHATML + "{% if enable_thinking %}{{ '<think>' }}{% endif %}")
    rows = [{"messages": chat, "chat_template_kwargs": {"enable_thinking": flag}} for chat in CHATS for flag in (True, False)]
    chats = List({"role": Value("string"), "content": Value("string")})
    for number, kinds in enumerate(({"messages": chats, "chat_template_kwargs": Json()}, {"messages": Json(), "chat_template_kwargs": Json()})):
        saved = Dataset.from_list(rows, features=Features(kinds))
        saved.save_to_disk(tmp_path / f"saved{number}")
        output = prepare(model, tmp_path / f"saved{number}", tmp_path / f"rows{number}.h5")
        ids, _ = prepared_by_trl(model, saved, tmp_path / "trl", {})
        assert read_rows(output) == ids and len(ids) == len(rows) and ids[0] != ids[1]


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_rows_that_trl_has_packed_are_refused(strategy, tokenizers, tmp_path):
    packed = pack_dataset(Dataset.from_list([{"input_ids": [5, 6]}, {"input_ids": [7]}, {"input_ids": [8, 9, 10, 11, 12]}]), 4, strategy)
    with pytest.raises(PrepareError, match="several documents packed into one row .* set packing = true"):
        prepare(tokenizers(CHATML), write_jsonl(tmp_path / "rows.jsonl", list(packed)), tmp_path / "rows.h5")


def test_the_template_and_end_of_another_tokenizer(tokenizers, tmp_path):
    """chat_template_path = folder: its template and its EOS token, as TRL's clone_chat_template takes them."""
    model, source = tokenizers(CHATML), tmp_path / "source"
    AutoTokenizer.from_pretrained(tokenizers("phi3"), eos_token="<|end|>").save_pretrained(source)
    for rows in (messages(SYSTEM_CHATS), STRINGS):
        output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5", chat_template_path=str(source))
        ids, labels = prepared_by_trl(model, rows, tmp_path / "trl", {"chat_template_path": str(source)})
        assert read_rows(output) == ids and read_labels(output) == labels


@pytest.mark.parametrize("options", [{"eos_token": "<|im_end|>"}, {"chat_template_path": "SOURCE"},
                                     {"eos_token": "<|im_end|>", "chat_template_path": "SOURCE"}], ids=str)
@pytest.mark.parametrize("own", [[0, 7], 7, None])
def test_what_ends_a_generation_is_what_trl_says(own, options, tokenizers, tmp_path):
    """A token of eos_token comes in front of the others; that of another tokenizer's template takes their place."""
    model, source = shutil.copytree(tokenizers(CHATML), tmp_path / "model"), tmp_path / "source"
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": own}))
    AutoTokenizer.from_pretrained(tokenizers("phi3"), eos_token="<|end|>").save_pretrained(source)
    options = {name: str(source) if value == "SOURCE" else value for name, value in options.items()}
    prepare(model, write_jsonl(tmp_path / "rows.jsonl", messages(CHATS)), tmp_path / "rows.h5", **options)
    trainer = trainer_of_trl(model, messages(CHATS), tmp_path / "trl", options)
    align_special_tokens(trainer.model, trainer.processing_class)  # as train() does
    expected = trainer.model.generation_config.eos_token_id
    assert json.loads((tmp_path / "rows.tokenizer" / "generation_config.json").read_text())["eos_token_id"] == expected
    assert isinstance(expected, int) == ("chat_template_path" in options)


def test_what_is_left_after_max_length_is_what_trl_keeps(tokenizers, tmp_path):
    """The rule that sft-dist applies when it reads: first_target[r] < min(length, max_length)."""
    import h5py

    model = tokenizers(CHATML)
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", STRINGS), tmp_path / "rows.h5")
    with h5py.File(output) as file:
        first_target = file["first_target"][()].tolist()
    for max_length in (1, 2, 3, 5, 8):
        ids, labels = prepared_by_trl(model, STRINGS, tmp_path / "trl", {"max_length": max_length})
        kept = [row for row, ids in enumerate(read_rows(output)) if first_target[row] < min(len(ids), max_length)]
        assert [read_rows(output)[row][:max_length] for row in kept] == ids
        assert [read_labels(output)[row][:max_length] for row in kept] == labels


def said_in_chatml(message, arguments):
    return message["content"] + "<|im_end|>\n"


def said_in_llama(message, arguments):
    builtin = arguments.get("builtin_tools")
    if not message.get("tool_calls"):
        return message["content"].strip() + "<|eot_id|>"
    (call,) = (call["function"] for call in message["tool_calls"])
    if builtin and call["name"] in builtin:
        return f"<|python_tag|>{call['name']}.call(" + ", ".join(f'{name}="{value}"' for name, value in call["arguments"].items()) + ")<|eom_id|>"
    return f'{{"name": "{call["name"]}", "parameters": {json.dumps(call["arguments"], ensure_ascii=False)}}}' + ("<|eom_id|>" if builtin else "<|eot_id|>")


def said_in_mistral(message, arguments):
    if not message.get("tool_calls"):
        return " " + message["content"].strip() + EOS
    calls = [call["function"] | {"id": call["id"]} for call in message["tool_calls"]]
    return "[TOOL_CALLS] " + json.dumps(calls, ensure_ascii=False) + EOS


@dataclass
class Family:
    """A template for which TRL has no training template; `variants`: tools and arguments that it takes; `rendered`: what the model's own
    template makes of them where it is not in this repository."""

    own: str
    said: Callable[[dict, dict], str]
    chats: list
    variants: list = field(default_factory=lambda: [(None, {})])
    rendered: list | None = None

    def conversations(self):
        return itertools.product(self.chats, self.variants, (False, True))


def training_template(name):
    return (TRAINING_TEMPLATES / f"{name}.jinja").read_text()


LLAMA_VARIANTS = [(None, {}), ([ADD], {"date_string": "1 May 2025"}), ([ADD, ADD], {"tools_in_user_message": False}), ([], {}), (None, {"custom_tools": [ADD]})]
FAMILIES = {
    "smollm2": Family(SMOLLM2, said_in_chatml, SYSTEM_CHATS),
    "chatml": Family(CHATML, said_in_chatml, SYSTEM_CHATS),
    "llama3_1": Family("llama3_1", said_in_llama, SYSTEM_CHATS + ONE_CALL_CHATS,
                       [*LLAMA_VARIANTS, ([ADD], {"builtin_tools": ["code_interpreter", "say"]}), (None, {"builtin_tools": ["web"]})]),
    "llama3_2": Family("llama3_2", said_in_llama, SYSTEM_CHATS + ONE_CALL_CHATS, LLAMA_VARIANTS),
    "mistral_v3": Family(re.sub(r"\{%- (end)?generation -%\}", "", training_template("mistral_v3")), said_in_mistral,
                         SYSTEM_CHATS + ONE_CALL_CHATS + [[user("Both"), assistant("", tool_calls=[ID_CALL, OTHER_CALL]), assistant("Done")]],
                         [(None, {}), ([ADD, {"function": {"name": "none", "strict": True, "return": "left out"}}], {}), ([], {})], MISTRAL["rendered"]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_template_renders_as_the_model_s_own(name, tokenizers):
    """Where TRL has none: the same ids, and what is marked is what the assistant says with the token that ends it."""
    family = FAMILIES[name]
    tokenizer = AutoTokenizer.from_pretrained(tokenizers(family.own))
    training = training_template(name)
    assert choose_training_template(tokenizer) == training
    assert family.rendered is None or len(family.rendered) == len(list(family.conversations()))
    for index, (chat, (tools, arguments), prompt) in enumerate(family.conversations()):
        shared = {"tools": tools, "tokenize": True, "return_dict": True, "add_generation_prompt": prompt, **arguments}
        if family.rendered:
            plain = tokenizer(family.rendered[index], add_special_tokens=False)["input_ids"]
        else:
            plain = tokenizer.apply_chat_template(chat, **shared)["input_ids"]
        marked = tokenizer.apply_chat_template(chat, chat_template=training, return_assistant_tokens_mask=True, **shared)
        assert marked["input_ids"] == plain
        learnt = tokenizer.decode([token for token, mask in zip(plain, marked["assistant_masks"]) if mask])
        assert learnt == "".join(family.said(message, arguments) for message in chat if message["role"] == "assistant")


REFUSED = {
    "llama3_1": [([user("Twice"), assistant("", tool_calls=[CALL, CALL])], None)],
    "llama3_2": [([system("Nobody asks.")], [ADD])],
    "mistral_v3": [([user("No id"), assistant("", tool_calls=[CALL])], None), ([user("One"), user("Two")], None),
                   ([user("One"), {"role": "tool", "content": "3"}], None), ([user("One"), {"role": "critic", "content": "3"}], None)],
}


def refusal_of(tokenizer, chat, tools, template=None) -> str:
    with pytest.raises(TemplateError) as refusal:
        tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, chat_template=template)
    return str(refusal.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_training_template_refuses_what_the_model_s_own_refuses(name, tokenizers):
    tokenizer = AutoTokenizer.from_pretrained(tokenizers(FAMILIES[name].own))
    expected = MISTRAL["refusals"] if name == "mistral_v3" else [refusal_of(tokenizer, *case) for case in REFUSED[name]]
    assert [refusal_of(tokenizer, *case, training_template(name)) for case in REFUSED[name]] == expected


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (1, 1, 2), (None, None)])
def test_mixtures_are_those_of_trl(fractions, tokenizers, tmp_path):
    """DatasetMixtureConfig's fractions, then train_test_split, which TRL leaves unseeded."""
    sets = [write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {number}"} for number in range(rows)])
            for name, rows, _ in zip("abc", (37, 20, 61), fractions)]
    text = ", ".join(f"{file}:{fraction}" if fraction else str(file) for file, fraction in zip(sets, fractions))
    config = DatasetMixtureConfig(datasets=[DatasetConfig(path="json", data_files=str(file), fraction=fraction) for file, fraction in zip(sets, fractions)])
    mixed = get_dataset(config)["train"]
    model = tokenizers(CHATML)
    ids, _ = prepared_by_trl(model, mixed, tmp_path / "trl", {})
    assert read_rows(prepare(model, text, tmp_path / "rows.h5")) == ids and len(ids) > 20

    for size in (0.1, 7) if fractions == (0.7, 0.3) else ():
        parts = mixed.train_test_split(test_size=size, seed=11)
        prepare(model, text, tmp_path / "train.h5", eval_dataset=str(tmp_path / "test.h5"), test_split_size=size, seed=11)
        assert read_rows(tmp_path / "train.h5") == prepared_by_trl(model, parts["train"], tmp_path / "trl", {})[0]
        assert read_rows(tmp_path / "test.h5") == prepared_by_trl(model, parts["test"], tmp_path / "trl", {})[0]
