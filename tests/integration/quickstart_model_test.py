"""The models and texts that launch/quickstart makes ready."""

import json
from pathlib import Path

import torch
from prepare_support import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from prepare import fetch_imdb, fetch_smollm2


def test_the_dequantised_smollm2_is_what_transformers_makes_of_the_gguf_file(tmp_path):
    assert fetch_smollm2.main([str(tmp_path)]) == 0
    gguf = fetch_smollm2.find_gguf()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    assert ours.dtype == torch.float32
    for (name, mine), (other_name, other) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(mine, other), name

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    other_tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        logits = ours(**ids).logits
        assert torch.equal(logits, theirs(**ids).logits)
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == ("<|im_end|>", "<|im_end|>", 49152)
    text = "In 1984, 3.14 isn't <|im_end|> naïve\n\n  东京 🎉"
    assert tokenizer(text)["input_ids"] == other_tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    assert fetch_imdb.main([str(tmp_path / "imdb")]) == 0
    reviews = [json.loads(line) for line in open(tmp_path / "imdb" / "train.jsonl")][:300]
    for review in reviews:
        assert tokenizer(review["text"])["input_ids"] == other_tokenizer(review["text"])["input_ids"]


def test_imdb_is_shuffled_alike_every_time_and_held_out_rows_are_held_out(tmp_path):
    for folder in ("a", "b"):
        assert fetch_imdb.main([str(tmp_path / folder)]) == 0
    rows = {}
    for name, count in (("train", 24000), ("test", 1000), ("test-96", 96)):
        assert (tmp_path / "a" / f"{name}.jsonl").read_bytes() == (tmp_path / "b" / f"{name}.jsonl").read_bytes()
        rows[name] = [json.loads(line) for line in open(tmp_path / "a" / f"{name}.jsonl")]
        assert len(rows[name]) == count
        assert 0.4 < sum(row["label"] for row in rows[name]) / count < 0.6
    assert rows["test"][:96] == rows["test-96"]
    assert sum(row["label"] for row in rows["train"] + rows["test"]) == 12500
    # the data set itself holds a few reviews twice
    assert len({row["text"] for row in rows["train"]} & {row["text"] for row in rows["test"]}) < 20


def test_the_tiny_model_is_a_llama(tmp_path):
    folder = tiny_model(Path(tmp_path))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM" and model.config.num_key_value_heads < model.config.num_attention_heads
    text = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])["text"]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    assert abs(loss.item() - torch.log(torch.tensor(512.0)).item()) < 0.2  # knows nothing yet
