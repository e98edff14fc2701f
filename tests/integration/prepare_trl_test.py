"""Token ids against those of the installed TRL: SFTTrainer prepares the same rows with the same tokenizer."""

import json

import torch  # noqa: F401  (before `prepare`, which keeps it out where it is not loaded)
from datasets import Dataset
from prepare_support import prepare, read_rows, tiny_model, write_jsonl
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

EOS = "<|endoftext|>"
TEXTS = ["On Monday the baker found a key.", "", " ", "ends already" + EOS, "middle" + EOS + "end", "Zürich, naïve café, 東京 🎉", "tab\tand\nline\r\nends  ",
         "12345 67.89", "a" * 3000, EOS]


def trl_rows(model, rows, formatting_func=None, text_field="text"):
    config = SFTConfig(output_dir=str(model.parent / "trl"), max_length=None, dataset_text_field=text_field, use_cpu=True, bf16=False,
                       report_to="none", disable_tqdm=True)
    trainer = SFTTrainer(model=str(model), args=config, train_dataset=Dataset.from_list(rows), formatting_func=formatting_func,
                         processing_class=AutoTokenizer.from_pretrained(model))
    return [list(ids) for ids in trainer.train_dataset["input_ids"]]


def with_bos(model):
    """Makes the tokenizer put a token in front of every text, as those of Llama and OPT do."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 0)])
    tokenizer.save(str(model / "tokenizer.json"))
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": EOS}))
    return model


def test_ids_are_those_of_trl(tmp_path):
    model, rows = tiny_model(tmp_path / "tiny"), [{"text": text} for text in TEXTS]
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5")
    expected = trl_rows(model, rows)
    assert read_rows(output) == expected
    assert [row[-1] for row in expected] == [0] * len(TEXTS)  # all end with EOS ...
    assert expected[3].count(0) == 1 and expected[9] == [0]  # ... once


def test_tokens_that_the_tokenizer_adds_are_kept(tmp_path):
    model, rows = with_bos(tiny_model(tmp_path / "tiny")), [{"text": text} for text in TEXTS]
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5")
    expected = trl_rows(model, rows)
    assert read_rows(output) == expected
    assert all(row[0] == 0 for row in expected)


def test_another_text_field(tmp_path):
    model, rows = tiny_model(tmp_path / "tiny"), [{"body": text, "text": "other"} for text in TEXTS]
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5", dataset_text_field="body")
    assert read_rows(output) == trl_rows(model, rows, text_field="body")


def test_formatting_func(tmp_path):
    model, rows = tiny_model(tmp_path / "tiny"), [{"question": text, "answer": len(text)} for text in TEXTS]
    (tmp_path / "my.py").write_text("def to_text(row):\n    return f\"Q: {row['question']} A: {row['answer']}\"\n")
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5", formatting_func=f"{tmp_path}/my.py:to_text")
    assert read_rows(output) == trl_rows(model, rows, formatting_func=lambda row: f"Q: {row['question']} A: {row['answer']}")
