"""sft-prepare inspect: what it says of a file is counted here by other means."""

import json
import pty
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch  # noqa: F401  (before `prepare`, which keeps it out where it is not loaded)
from datasets import Dataset
from prepare_support import prepare, read_labels, read_rows, tiny_model, write_jsonl
from transformers import AutoTokenizer
from trl import pack_dataset

from prepare import __main__ as sft_prepare
from prepare.packing import pack_bfd

MAX_LENGTH = 24


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prompt/completion rows: some without anything learnt, some whose prompts alone fill MAX_LENGTH, some that do not end."""
    folder = tmp_path_factory.mktemp("inspect")
    model = tiny_model(folder / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [{"prompt": "The baker found a key. " * (number % 5), "completion": "It was Zürich 🎉. " * (number % 4)} for number in range(40)]
    tokens = []
    for number, row in enumerate(rows):
        prompt, completion = (tokenizer(row[name])["input_ids"] for name in ("prompt", "completion"))
        ends = [] if number % 10 == 3 else [tokenizer.eos_token_id]
        ids = prompt + completion + ends
        tokens.append({"input_ids": ids or [5], "labels": ([-100] * len(prompt) + completion + ends) if number % 8 != 1 else [-100] * len(ids or [5])})
    return prepare(model, write_jsonl(folder / "rows.jsonl", tokens), folder / "rows.h5")


def said(*arguments, capsys) -> str:
    assert sft_prepare.main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_summary_is_right(prepared, capsys):
    text = said(prepared, "--max_length", MAX_LENGTH, capsys=capsys)
    rows, labels = read_rows(prepared), read_labels(prepared)
    learnt = [sum(label != -100 for label in row) for row in labels]
    lengths = [len(row) for row in rows]
    cut = [row[:MAX_LENGTH] for row in labels]
    kept = [row for row in cut if any(label != -100 for label in row)]
    nothing = [number for number, count in enumerate(learnt) if count == 0]
    emptied = [number for number, row in enumerate(cut) if learnt[number] and not any(label != -100 for label in row)]
    unending = [number for number, row in enumerate(labels) if learnt[number] and 0 not in row]
    assert nothing and emptied and unending
    over = [length for length in lengths if length > MAX_LENGTH]
    for line in (
        f"40 rows, {sum(lengths):,} tokens, {sum(learnt):,} learnt ({sum(learnt) / sum(lengths):.1%})",
        f"max_length = {MAX_LENGTH} cuts {len(over)} rows",
        f"an epoch after the cut at {MAX_LENGTH}: {len(kept)} rows, {sum(label != -100 for row in kept for label in row[1:])} target tokens",
        f"! {len(nothing)} rows have no learnt token and are left out (rows {', '.join(map(str, nothing[:5]))}",
        f"! {len(emptied)} rows lose all their learnt tokens to max_length = {MAX_LENGTH} and are left out (row",
        f"! {len(unending)} of 40 rows do not learn the end-of-sequence token 0 (row",
    ):
        assert line in text, line
    histogram = {int(high): int(count) for high, count in re.findall(r"- +(\d+) +(\d+)", text)}
    assert sum(histogram.values()) == 40
    assert all(count == sum(high // 2 < length <= high or (high == 16 and length <= 16) for length in lengths)
               for high, count in histogram.items() if high in (16, 64))
    whole = said(prepared, "--max_length=none", capsys=capsys)
    assert "an epoch: 40 rows" in whole and "packing" not in whole and "left out" not in whole


def test_packing_is_that_of_trl(prepared, capsys):
    generator = np.random.default_rng(1)
    for lengths in (generator.integers(1, 90, 2500), np.array([len(row) for row in read_rows(prepared)]), np.array([64]), np.array([100, 30, 34])):
        rows = Dataset.from_dict({"input_ids": [list(range(length)) for length in lengths], "labels": [[1] * length for length in lengths]})
        packed = pack_dataset(rows, 64, "bfd")
        ours = pack_bfd(lengths, 64)
        assert ours.bins == len(packed)
        assert ours.fill == pytest.approx(sum(map(len, packed["input_ids"])) / (64 * len(packed)))
    text = said(prepared, "--max_length", 64, capsys=capsys)
    assert f"packing (bfd): 40 rows go into {pack_bfd(np.array([len(row) for row in read_rows(prepared)]), 64).bins} sequences of 64" in text


def test_rows_show_what_is_learnt(prepared, capsys):
    tokenizer = AutoTokenizer.from_pretrained(prepared.with_suffix(".tokenizer"))
    rows, labels = read_rows(prepared), read_labels(prepared)
    for number in (7, 13, 22):
        text = said(prepared, "--row", number, "--max_length", "none", capsys=capsys)
        learnt = tokenizer.decode([label for label in labels[number] if label != -100])
        first = next((at for at, label in enumerate(labels[number]) if label != -100), None)
        assert text.splitlines()[0] == (f"row {number}: {len(rows[number])} tokens, {sum(label != -100 for label in labels[number])} learnt"
                                        f", the first at {first}")
        assert text.split("\n", 1)[1] == tokenizer.decode(rows[number][:first]) + "{+" + learnt + "+}\n"
    assert "[cut at 24]" in said(prepared, "--row=9", "--max_length=24", capsys=capsys)
    table = said(prepared, "--row", 7, "--tokens", capsys=capsys).splitlines()[1:]
    assert [int(line.split()[1]) for line in table] == rows[7]
    assert ["{+" in line for line in table] == [label != -100 for label in labels[7]]


def test_colour_is_for_terminals(prepared, source_dir):
    command = [sys.executable, "-m", "prepare", "inspect", str(prepared), "--row", "7"]
    for no_colour, expected in (("", "\x1b[32m"), ("1", "{+")):
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb") as reader:
            subprocess.run(command, check=True, stdout=theirs, env={**os.environ, "PYTHONPATH": str(source_dir / "src"), "NO_COLOR": no_colour})
            os.close(theirs)
            text = b""
            try:
                while block := reader.read1():
                    text += block
            except OSError:  # the other end is closed
                pass
        assert expected in text.decode() and ("\x1b" in text.decode()) == (not no_colour)


@pytest.mark.parametrize("arguments, code, message", [
    ([], 92, "needs the file"), (["{file}", "--row"], 92, "--row needs a value"), (["{file}", "--row", "-1"], 92, "expected a whole number"),
    (["{file}", "--row", "40"], 92, "has no row 40: it has 40 rows"), (["{file}", "--max_length", "0"], 92, "at least one token"),
    (["{file}", "--colour"], 92, "--colour is not understood"), (["nowhere.h5"], 89, "does not exist"), (["{tokenizer}"], 89, "it is another file"),
])
def test_mistakes_are_named(arguments, code, message, prepared, capsys):
    words = [word.format(file=prepared, tokenizer=prepared.with_suffix(".tokenizer") / "tokenizer.json") for word in arguments]
    assert sft_prepare.main(["inspect", *words]) == code
    assert message in capsys.readouterr().err


def test_rows_without_a_tokenizer_are_refused(prepared, tmp_path, capsys):
    (tmp_path / "rows.h5").write_bytes(prepared.read_bytes())
    assert sft_prepare.main(["inspect", str(tmp_path / "rows.h5")]) == 89
    captured = capsys.readouterr()
    assert "40 rows" in captured.out and "is missing" in captured.err


def test_a_doubled_bos_is_seen(prepared, tmp_path, capsys):
    model = tiny_model(tmp_path / "tiny")
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "!"}))
    bos = AutoTokenizer.from_pretrained(model).bos_token_id
    rows = [{"input_ids": ids} for ids in ([bos, bos, 5, 0], [bos, 5, 0], [bos], [5, bos, bos, 0], [bos, bos])]
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5")
    assert f"! 2 rows begin with the token {bos} (bos) twice (rows 0, 4)" in said(output, capsys=capsys)


def test_a_row_cannot_steer_the_terminal(tmp_path, capsys):
    model = tiny_model(tmp_path / "tiny")
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", [{"text": "red \x1b[31m, bell \x07\nand a tab\t"}]), tmp_path / "rows.h5")
    for options in ((), ("--tokens",)):
        text = said(output, "--row", "0", *options, capsys=capsys)
        assert "\x1b" not in text and "\x07" not in text and "\\x1b" in text


def test_hard_limits_of_a_login_node_damage_nothing(prepared, source_dir):
    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
        resource.setrlimit(resource.RLIMIT_AS, (7 << 29, 7 << 29))  # below what the process that reads the file may have otherwise

    done = subprocess.run([sys.executable, "-m", "prepare", "inspect", str(prepared)], capture_output=True, text=True, preexec_fn=limit,
                          env=os.environ | {"PYTHONPATH": str(source_dir / "src"), "OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0 and "40 rows" in done.stdout, done.stderr
