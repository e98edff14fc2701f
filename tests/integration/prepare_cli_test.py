"""launch/sft-prepare with the real sft-dist: one run.ini for both, and sft-dist reads what sft-prepare writes."""

import json
import os
import shutil
import subprocess

import h5py
import numpy as np
import pytest
from prepare_support import tiny_model, write_jsonl
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer

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


def test_tokens_that_the_model_has_not_matter_where_they_are_used(sft_prepare, run_sft, workspace):
    """As Gemma 3's text models, whose tokenizer has a token for images."""
    tokenizer = Tokenizer.from_file(str(workspace / "tiny/model/tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<image>", special=True)])
    tokenizer.save(str(workspace / "tiny/model/tokenizer.json"))
    assert sft_prepare("--args", "run.ini").returncode == 0
    trained = run_sft(2, "--args", "run.ini", cwd=workspace)
    assert trained.returncode == 0, trained.stderr
    with open(workspace / "rows.jsonl", "a") as rows:
        rows.write('{"text": "an <image>"}\n')
    for arguments in ((), ("--max_rows", "100", "--pad_token", "<image>")):
        assert sft_prepare("--args", "run.ini", *arguments).returncode == 0
        refused = run_sft(0, "--args", "run.ini", *arguments, cwd=workspace)
        assert refused.returncode == 89 and "token ids up to 512, the model's vocabulary has 512" in refused.stdout + refused.stderr


def test_masked_files_verify(run_sft, tmp_path):
    rows = [np.arange(1, length + 1, dtype=np.int32) for length in (3, 1, 200)]
    with DatasetWriter(tmp_path / "masked.h5", labelled=True) as writer:
        writer.append(rows, [np.where(np.arange(len(row)) % 2, row, -100) for row in rows])
        writer.commit({"eos_token_id": 0, "tokenizer_sha256": "0" * 64}, {})
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


CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


@pytest.fixture
def chat_workspace(workspace):
    """The same with chat rows, a template in a file of its own, and an end-of-sequence token that the model's files do not name."""
    tokenizer = Tokenizer.from_file(str(workspace / "tiny/model/tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    tokenizer.save(str(workspace / "tiny/model/tokenizer.json"))
    config_file = workspace / "tiny/model/config.json"
    model_config = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(model_config | {"vocab_size": 514}))
    weights = load_file(workspace / "tiny/model/model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    save_file(weights | {"model.embed_tokens.weight": np.concatenate([embedding, embedding[:2]])}, workspace / "tiny/model/model.safetensors")
    write_jsonl(workspace / "rows.jsonl", [{"messages": [{"role": "user", "content": f"Where is key {number}? " * (number % 5 + 1)},
                                                        {"role": "assistant", "content": "Under the oak. " * (number % 3 + 1)}]} for number in range(40)])
    (workspace / "chat.jinja").write_text(CHATML)
    with open(workspace / "run.ini", "a") as ini:
        ini.write("assistant_only_loss = true\nchat_template_path = chat.jinja\neos_token = <|im_end|>\npad_token = <|im_start|>\n")
    return workspace


def test_from_chats_to_a_model(sft_prepare, run_sft, chat_workspace):
    prepared = sft_prepare("--args", "run.ini")
    assert prepared.returncode == 0, prepared.stderr
    assert "40 rows (messages)" in prepared.stdout and "learnt: " in prepared.stdout
    assert run_sft(0, "verify", "out/train.h5", cwd=chat_workspace).returncode == 0
    trained = run_sft(2, "--args", "run.ini", cwd=chat_workspace)
    assert trained.returncode == 0, trained.stderr
    read = lambda name: json.loads((chat_workspace / "run" / name).read_text())  # noqa: E731
    assert read("config.json")["eos_token_id"] == 513 and read("config.json")["pad_token_id"] == 512
    assert read("generation_config.json") == {"eos_token_id": [513, 0], "pad_token_id": 512}
    tokenizer = read("tokenizer_config.json")
    assert (tokenizer["eos_token"], tokenizer["pad_token"]) == ("<|im_end|>", "<|im_start|>") and "chat_template" not in tokenizer
    assert (chat_workspace / "run" / "chat_template.jinja").read_text() == CHATML
    inspected = sft_prepare("inspect", "out/train.h5", "--row", "1")
    assert inspected.returncode == 0 and inspected.stdout.endswith("<|im_start|>assistant\n{+Under the oak. Under the oak. <|im_end|>\n+}\n")

    (chat_workspace / "chat.jinja").write_text(CHATML + "{# another #}")
    refused = run_sft(0, "--args", "run.ini", cwd=chat_workspace)
    assert refused.returncode == 89 and "prepared with the chat template as it was then" in refused.stderr + refused.stdout
    again = sft_prepare("--args", "run.ini")
    assert again.returncode == 0 and again.stdout.count("prepared again (chat_template_sha256, tokenizer_folder_sha256)") == 2


@pytest.mark.parametrize("option, value, found", [
    ("assistant_only_loss", "false", "'true'"), ("completion_only_loss", "true", "unset"), ("chat_template_path", "None", "chat.jinja'"),
    ("eos_token", "None", "'<|im_end|>'"), ("dataset_text_field", "body", "'text'"),
])
def test_a_file_prepared_with_other_options_is_refused(option, value, found, sft_prepare, run_sft, chat_workspace):
    assert sft_prepare("--args", "run.ini").returncode == 0
    refused = run_sft(0, "--args", "run.ini", f"--{option}={value}", cwd=chat_workspace)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 89 and f"was prepared with {option} = " in said and found in said and "run sft-prepare again" in said
    again = sft_prepare("--args", "run.ini", f"--{option}={value}")
    assert f"prepared again ({option}" in again.stdout or again.returncode == 92  # nothing goes with every other option


def test_another_formatting_function_in_the_same_file_is_refused(sft_prepare, run_sft, workspace):
    (workspace / "my.py").write_text("def f(row):\n    return row['text']\n")
    arguments = ("--args", "run.ini", "--formatting_func", "my.py:f")
    assert sft_prepare(*arguments).returncode == 0
    (workspace / "my.py").write_text("def f(row):\n    return 'Q ' + row['text']\n")
    refused = run_sft(0, *arguments, cwd=workspace)
    assert refused.returncode == 89 and "formatting_func = my.py:f as it was then" in refused.stdout + refused.stderr


def test_another_end_of_sequence_is_refused(sft_prepare, run_sft, workspace):
    """tokenizer.json, and with it tokenizer_sha256, stays the same."""
    config = workspace / "tiny/model/tokenizer_config.json"
    assert sft_prepare("--args", "run.ini").returncode == 0
    as_it_was = json.loads(config.read_text())
    for token, code in (("a", 89), ({"content": "a"}, 89), ({"content": as_it_was["eos_token"]}, 0)):
        config.write_text(json.dumps(as_it_was | {"eos_token": token}))
        run = run_sft(0, "--args", "run.ini", "--overwrite_output_dir", cwd=workspace)
        assert run.returncode == code and ("prepared with the end-of-sequence token" in run.stdout + run.stderr) == (code == 89), run.stderr


def test_a_tokenizer_of_its_own_needs_no_model_beside_it(sft_prepare, run_sft, workspace):
    tokens = workspace / "tokens"
    tokens.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(workspace / "tiny/model" / name, tokens / name)
    assert sft_prepare("--args", "run.ini", "--tokenizer_name_or_path", "tokens").returncode == 0
    (workspace / "tiny/model/tokenizer.json").unlink()  # that of the model does not matter
    run = run_sft(0, "--args", "run.ini", "--tokenizer_name_or_path", "tokens", cwd=workspace)
    assert run.returncode == 0, run.stderr
    with open(tokens / "tokenizer.json", "a") as file:
        file.write("\n")
    refused = run_sft(0, "--args", "run.ini", "--tokenizer_name_or_path", "tokens", "--overwrite_output_dir", cwd=workspace)
    assert refused.returncode == 89 and "another tokenizer than that of tokens" in refused.stdout + refused.stderr


def test_a_folder_is_itself_however_it_is_written(sft_prepare, run_sft, workspace):
    (workspace / "corpus").mkdir()
    shutil.copy(workspace / "rows.jsonl", workspace / "corpus")
    assert sft_prepare("--args", "run.ini", "--train_file", "corpus/").returncode == 0
    for name in ("corpus/", "corpus", "./corpus/.", str(workspace / "corpus")):
        run = run_sft(0, "--args", "run.ini", "--train_file", name, "--overwrite_output_dir", cwd=workspace)
        assert run.returncode == 0, (name, run.stderr)
    refused = run_sft(0, "--args", "run.ini", "--train_file", "other/", "--overwrite_output_dir", cwd=workspace)
    assert refused.returncode == 89 and "was prepared with source_file" in refused.stdout + refused.stderr


def test_an_evaluation_file_of_another_run_is_taken(sft_prepare, run_sft, workspace):
    """It is there, and nothing is said of its source."""
    assert sft_prepare("--args", "run.ini").returncode == 0
    (workspace / "run.ini").write_text((workspace / "run.ini").read_text().replace("eval_file = rows.jsonl\n", "") + "eval_on_start = true\n")
    assert sft_prepare("--args", "run.ini", "--max_rows", "50").returncode == 0
    run = run_sft(0, "--args", "run.ini", "--max_rows", "50", cwd=workspace)
    assert run.returncode == 0 and "eval_loss" in run.stdout + run.stderr, run.stderr


def test_files_of_the_folder_it_is_called_in_do_not_take_its_place(sft_prepare, workspace):
    for name in ("prepare.py", "datasets.py", "csv.py"):
        (workspace / name).write_text("raise SystemExit('the wrong file')\n")
    (workspace / "helper.py").write_text("def text_of(row):\n    return row['text']\n")
    (workspace / "mine.py").write_text("from helper import text_of\n\n\ndef f(row):\n    return 'Q ' + text_of(row)\n")
    prepared = sft_prepare("--args", "run.ini", "--formatting_func", "mine.py:f", "--dataset_num_proc", "2")
    assert prepared.returncode == 0 and "100 rows" in prepared.stdout, prepared.stdout + prepared.stderr


def test_the_model_stops_where_its_rows_end(sft_prepare, run_sft, workspace):
    """As transformers' align_special_tokens: a tokenizer's end of sequence goes in front of the model's own."""
    config, generation = (workspace / "tiny/model" / name for name in ("config.json", "generation_config.json"))
    for own, expected in ((7, 0), ([7, 8], [0, 7, 8]), ([7, 0], [7, 0]), (None, 0)):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": own}))
        generation.write_text(json.dumps({"eos_token_id": own, "temperature": 0.5}))
        assert sft_prepare("--args", "run.ini").returncode == 0
        run = run_sft(0, "--args", "run.ini", "--overwrite_output_dir", cwd=workspace)
        assert run.returncode == 0, run.stderr
        assert json.loads((workspace / "run/config.json").read_text())["eos_token_id"] == expected
        stops = expected if isinstance(expected, list) else [0] if own is None else [0, own]
        assert json.loads((workspace / "run/generation_config.json").read_text()) == {"eos_token_id": stops, "temperature": 0.5}


def test_what_ends_another_tokenizer_s_rows_alone_ends_a_generation(sft_prepare, run_sft, workspace):
    """As TRL's clone_chat_template, where eos_token adds to what the model has."""
    config, generation = (workspace / "tiny/model" / name for name in ("config.json", "generation_config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [7, 8]}))
    generation.write_text(json.dumps({"eos_token_id": [7, 8], "temperature": 0.5}))
    source = workspace / "source"
    source.mkdir()
    shutil.copy(workspace / "tiny/model/tokenizer.json", source)
    tokens = json.loads((workspace / "tiny/model/tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(tokens | {"eos_token": "!", "chat_template": "{{ messages[0].content }}!"}))
    end = Tokenizer.from_file(str(source / "tokenizer.json")).token_to_id("!")
    chosen = ("--args", "run.ini", "--chat_template_path", "source")
    assert sft_prepare(*chosen).returncode == 0
    run = run_sft(0, *chosen, cwd=workspace)
    assert run.returncode == 0, run.stderr
    assert json.loads((workspace / "run/config.json").read_text())["eos_token_id"] == end
    assert json.loads((workspace / "run/generation_config.json").read_text()) == {"eos_token_id": end, "temperature": 0.5}


def test_another_split_of_a_saved_data_set(sft_prepare, run_sft, workspace):
    """Each split's rows go to their own file, and a file of another split is not taken for it."""
    import datasets

    datasets.DatasetDict({"a": datasets.Dataset.from_list(ROWS[:30]), "b": datasets.Dataset.from_list(ROWS[30:42])}).save_to_disk(workspace / "saved")
    ini = (workspace / "run.ini").read_text().replace("eval_file = rows.jsonl\n", "").replace("train_file = rows.jsonl ", "dataset_name = saved ")
    (workspace / "run.ini").write_text(ini)
    own = ("--args", "run.ini", "--overwrite_output_dir", "--eval_on_start")
    prepared = sft_prepare(*own[:2], "--dataset_split", "a", "--eval_split", "b")
    assert prepared.returncode == 0, prepared.stderr
    for name, rows in (("train", 30), ("eval", 12)):
        with h5py.File(workspace / "out" / f"{name}.h5") as file:
            assert len(file["offsets"]) - 1 == rows
    assert run_sft(0, *own, "--dataset_split", "a", "--eval_split", "b", cwd=workspace).returncode == 0
    for other, found in (({"--dataset_split": "c"}, "dataset_split = 'a'"), ({"--eval_split": "c"}, "eval_split = 'b'")):
        words = [word for pair in ({"--dataset_split": "a", "--eval_split": "b"} | other).items() for word in pair]
        refused = run_sft(0, *own, *words, cwd=workspace)
        said = refused.stdout + refused.stderr
        assert refused.returncode == 89 and f"was prepared with {found}, this run says 'c'" in said, said
        absent = sft_prepare(*own[:2], *words)
        assert absent.returncode == 92 and "has no split 'c'" in absent.stdout + absent.stderr, absent.stderr


def test_several_evaluation_sets_are_evaluated_and_named(sft_prepare, run_sft, workspace):
    write_jsonl(workspace / "short.jsonl", [{"text": "a key"}] * 5)
    with open(workspace / "run.ini", "a") as ini:
        ini.write("eval_on_start = true\n")
    sets = ("--eval_file", "long=rows.jsonl, short=short.jsonl", "--eval_dataset", "long=out/long.h5, short=out/short.h5")
    prepared = sft_prepare("--args", "run.ini", *sets)
    assert prepared.returncode == 0, prepared.stderr
    assert "eval long: " in prepared.stdout and "eval short: " in prepared.stdout
    trained = run_sft(2, "--args", "run.ini", *sets, cwd=workspace)
    assert trained.returncode == 0, trained.stderr
    assert "eval_dataset long" in trained.stdout
    history = json.loads((workspace / "run" / "trainer_state.json").read_text())["log_history"]
    losses = {key: entry[key] for entry in history for key in entry if key.endswith("_loss") and key.startswith("eval_")}
    assert set(losses) == {"eval_long_loss", "eval_short_loss"} and sum("eval_long_runtime" in entry for entry in history) == 1
    assert not any("eval_long_loss" in entry and "eval_short_loss" in entry for entry in history)  # an entry for each set, as in TRL
    for name in ("long", "short"):  # each is what it is alone
        alone = ("--eval_file", f"{'rows' if name == 'long' else name}.jsonl", "--eval_dataset", f"out/{name}.h5", "--output_dir", f"run-{name}")
        trained = run_sft(2, "--args", "run.ini", *alone, cwd=workspace)
        assert trained.returncode == 0, trained.stderr
        history = json.loads((workspace / f"run-{name}" / "trainer_state.json").read_text())["log_history"]
        assert next(entry["eval_loss"] for entry in history if "eval_loss" in entry) == losses[f"eval_{name}_loss"]
    swapped = run_sft(0, "--args", "run.ini", "--eval_file", "long=short.jsonl, short=rows.jsonl", *sets[2:], cwd=workspace)
    assert swapped.returncode == 89 and "out/long.h5 was prepared with source_file = " in swapped.stdout + swapped.stderr


def test_a_mixture_of_which_rows_are_set_aside(sft_prepare, run_sft, workspace):
    write_jsonl(workspace / "other.jsonl", ROWS[:30])
    (workspace / "run.ini").write_text((workspace / "run.ini").read_text().replace("eval_file = rows.jsonl\n", "").replace(
        "train_file = rows.jsonl ", "train_file = rows.jsonl:0.8, other.jsonl:0.2 ") + "test_split_size = 0.1\neval_on_start = true\n")
    prepared = sft_prepare("--args", "run.ini")
    assert prepared.returncode == 0, prepared.stderr
    assert "112 rows" in prepared.stdout and "13 rows" in prepared.stdout  # 100 and 25; a tenth, rounded up
    trained = run_sft(2, "--args", "run.ini", cwd=workspace)
    assert trained.returncode == 0, trained.stderr
    for option, value, named in (("seed", "1", "split_seed"), ("test_split_size", "0.2", "test_split_size"),
                                 ("train_file", "rows.jsonl:0.7, other.jsonl:0.3", "source_file"), ("train_dataset", "out/eval.h5", "part")):
        refused = run_sft(0, "--args", "run.ini", f"--{option}={value}", cwd=workspace)
        assert refused.returncode == 89 and f"was prepared with {named} = " in refused.stdout + refused.stderr


def test_a_saved_folder_named_from_where_the_run_stands(sft_prepare, run_sft, workspace):
    import datasets

    datasets.Dataset.from_list(ROWS[:30]).save_to_disk(workspace / "saved")
    (workspace / "run.ini").write_text((workspace / "run.ini").read_text().replace("eval_file = rows.jsonl\n", "").replace(
        "train_file = rows.jsonl ", "dataset_name = saved ") + "test_split_size = 0.2\n")
    prepared = sft_prepare("--args", "run.ini")
    assert prepared.returncode == 0, prepared.stderr
    run = run_sft(1, "--args", "run.ini", "--output_dir", "run-saved", cwd=workspace)
    assert run.returncode == 0, run.stdout + run.stderr
