"""launch/sft-prepare with the real sft-dist: one run.ini for both, and sft-dist reads what sft-prepare writes."""

import os
import subprocess

import h5py
import numpy as np
import pytest
from prepare_support import tiny_model, write_jsonl

from prepare.dataset_file import DatasetWriter

ROWS = [{"text": f"row {number} found a key " * (number % 9 + 1)} for number in range(100)]


@pytest.fixture
def workspace(tmp_path):
    """A folder with a tiny model, rows, and the run.ini that names them."""
    tiny_model(tmp_path / "tiny")
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "run.ini").write_text("""
model_name_or_path = tiny/model
train_file = rows.jsonl        # a comment
eval_file = rows.jsonl
train_dataset = out/train.h5
eval_dataset = out/eval.h5
max_seq_length = 32
max_steps = 2
per_device_train_batch_size = 4
output_dir = run
""")
    return tmp_path


@pytest.fixture
def sft_prepare(source_dir, sft_dist, workspace):
    def run(*arguments, **environment):
        return subprocess.run([source_dir / "launch" / "sft-prepare", *arguments], capture_output=True, text=True, cwd=workspace,
                              stdin=subprocess.DEVNULL, env={**os.environ, "SFT_DIST": str(sft_dist), **environment})

    return run


@pytest.mark.parametrize("compress", [[], ["--compress"]])
def test_from_text_to_a_model(compress, sft_prepare, run_sft, workspace):
    prepared = sft_prepare("--args", "run.ini", *compress)
    assert prepared.returncode == 0, prepared.stderr
    assert "train: " in prepared.stdout and "max_length = 32 cuts" in prepared.stdout
    verified = run_sft(0, "verify", "out/train.h5", "out/eval.h5", cwd=workspace)
    assert verified.returncode == 0, verified.stderr
    trained = run_sft(2, "--args", "run.ini", cwd=workspace)
    assert trained.returncode == 0, trained.stderr
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (workspace / "run" / name).is_file()

    again = sft_prepare("--args", "run.ini", *compress)
    assert again.returncode == 0 and again.stdout.count("up to date") == 2


def test_masked_files_verify(run_sft, tmp_path):
    rows = [np.arange(1, length + 1, dtype=np.int32) for length in (3, 1, 200)]
    with DatasetWriter(tmp_path / "masked.h5", masked=True) as writer:
        writer.append(rows, [np.arange(len(row), dtype=np.uint8) % 2 for row in rows])
        writer.commit({"vocab_size": 201, "eos_token_id": 0, "tokenizer_sha256": "0" * 64}, {})
    verified = run_sft(0, "verify", tmp_path / "masked.h5")
    assert verified.returncode == 0, verified.stderr
    with h5py.File(tmp_path / "masked.h5", "r+") as file:
        file["loss_mask"][1] ^= 1
    assert run_sft(0, "verify", tmp_path / "masked.h5").returncode == 89


def test_options_are_those_of_sft_dist(sft_prepare, workspace):
    misspelt = sft_prepare("--args", "run.ini", "--max_rws", "3")
    assert misspelt.returncode == 92 and "max_rows" in misspelt.stderr
    missing = sft_prepare("--args", "nowhere.ini")
    assert missing.returncode == 92 and "nowhere.ini" in missing.stderr
    overridden = sft_prepare("--args", "run.ini", "--max_rows", "7")
    assert overridden.returncode == 0 and "7 rows" in overridden.stdout
    absent = sft_prepare("--args", "run.ini", "--train_file=absent.jsonl")
    assert absent.returncode == 89 and "absent.jsonl" in absent.stderr
    helped = sft_prepare("--help")
    assert helped.returncode == 0 and "train_file" in helped.stdout


def test_an_unwritable_place_is_named(sft_prepare, workspace):
    (workspace / "out").write_text("a file where a folder is needed")
    result = sft_prepare("--args", "run.ini")
    assert result.returncode == 91 and "out" in result.stderr and "Traceback" not in result.stderr


def test_a_missing_program_is_named(sft_prepare):
    result = sft_prepare("--args", "run.ini", SFT_DIST="/nowhere/sft-dist")
    assert result.returncode == 92 and "/nowhere/sft-dist" in result.stderr
