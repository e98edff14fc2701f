"""Bad input: each with its exit code and a message that names the thing. On two ranks where both see it, the message comes once."""

import json
import os
import shutil
import struct
import subprocess

import numpy as np
import pytest

import small_run as small
from parity import models, ours, token_file

CONFIG, DATA, STORAGE = 92, 89, 91


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("bad"))


def refused(settings: dict, code: int, *fragments: str, ranks: int = 0) -> str:
    """Runs (without mpirun unless ranks are given), expects `code` and all `fragments` in what it says; returns that."""
    run = ours.run(settings, ranks, check=False, timeout=60)
    assert run.returncode == code, f"ended with {run.returncode}, expected {code}:\n{run.output}"
    missing = [f for f in fragments if f not in run.output]
    assert not missing, f"{missing} not in:\n{run.output}"
    return run.output


# --- options -----------------------------------------------------------------------------------------------------------------

BAD_OPTIONS = {
    "misspelt key": ({"learning_rat": 1e-3}, ["learning_rat", "learning_rate"]),
    "not a number": ({"max_steps": "many"}, ["max_steps", "many"]),
    "not whole": ({"gradient_accumulation_steps": 1.5}, ["gradient_accumulation_steps", "1.5"]),
    "out of range": ({"per_device_train_batch_size": 0}, ["per_device_train_batch_size", "0"]),
    "negative rate": ({"learning_rate": -1}, ["learning_rate"]),
    "not a flag": ({"bf16": "maybe"}, ["bf16", "maybe"]),
    "no such choice": ({"lr_scheduler_type": "cosin"}, ["lr_scheduler_type", "cosine"]),
    "no such optimizer": ({"optim": "lion_8bit"}, ["optim", "lion_8bit", "adamw_torch"]),
    "missing schedule argument": ({"lr_scheduler_type": "cosine_with_min_lr"}, ["min_lr"]),
    "unknown schedule argument": ({"lr_scheduler_kwargs": {"num_cycle": 2}, "lr_scheduler_type": "cosine"}, ["num_cycle"]),
    "evaluation without data": ({"eval_strategy": "steps", "eval_steps": 2}, ["eval_dataset"]),
    "batch that does not divide": ({"global_batch_size": 7}, ["global_batch_size", "7"]),
    "unsupported and it would matter": ({"fp16": True}, ["fp16", "bf16"]),
    "unsupported engine": ({"deepspeed": "ds.json"}, ["deepspeed"]),
    "cuda where there is none": ({"device": "cuda"}, ["cuda"]),
    "nccl on the cpu": ({"comm_backend": "nccl"}, ["nccl"]),
    "stop condition": ({"max_steps": 0, "num_train_epochs": 0}, ["num_train_epochs"]),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(workspace, name):
    more, fragments = BAD_OPTIONS[name]
    refused(workspace.settings("options", **more), CONFIG, *fragments)


@pytest.mark.parametrize("key", ["model_name_or_path", "train_dataset"])
def test_missing_key(workspace, key):
    settings = workspace.settings("missing")
    del settings[key]
    refused(settings, CONFIG, key)
    assert check_config(settings) == CONFIG


def check_config(settings) -> int:
    return subprocess.run([str(ours.program()), "--args", str(small.write_ini(settings)), "--check-config"], env=ours.environment()).returncode


def test_tasks_of_srun_that_mpi_does_not_connect(workspace):
    """Each would train alone."""
    run = ours.run(workspace.settings("not-connected"), ranks=0, check=False, env={"SLURM_STEP_NUM_TASKS": "4"})
    assert run.returncode == CONFIG and "srun --mpi=pmix" in run.output, run.output


@pytest.mark.parametrize("option, value", [("lr_scheduler_kwargs", "min_lr_ratio=0.1"), ("optim_args", "momentum=0.9")])
def test_check_config_knows_the_arguments_of_schedules_and_optimizers(workspace, option, value):
    assert check_config(workspace.settings(f"args-{option}", lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs="min_lr_rate=0.1")
                        | {option: value}) == CONFIG


def test_check_config_accepts_what_a_run_accepts(workspace):
    assert check_config(workspace.settings("checked")) == 0
    assert not (workspace.folder / "checked").exists()


def test_message_comes_once_on_two_ranks(workspace):
    output = refused(workspace.settings("once", learning_rat=1e-3), CONFIG, ranks=2)
    assert output.count("learning_rat ") + output.count("learning_rat'") + output.count("learning_rat:") <= 1, output
    output = refused(workspace.settings("once", train_dataset=workspace.folder / "nowhere.h5"), DATA, ranks=2)
    assert output.count("nowhere.h5") == 1, output


def test_max_length_beyond_learned_positions(workspace):
    model = models.write_model(workspace.folder / "opt", models.CONFIGS["opt-pre"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(workspace.model / name, model / name)
    refused(workspace.settings("positions", model_name_or_path=model, max_length=512), CONFIG, "max_length", "512", "256")
    # Packing begins each document at position 0 again, but not where it wraps them.
    packed = {"model_name_or_path": model, "max_length": 512, "packing": True, "max_steps": 1}
    refused(workspace.settings("positions", **packed, packing_strategy="wrapped"), CONFIG, "max_length", "512", "256")
    ours.run(workspace.settings("positions-packed", **packed))


def test_absent_files(workspace):
    nowhere = workspace.folder / "nowhere"
    refused(workspace.settings("absent", train_dataset=f"{nowhere}.h5"), DATA, "nowhere.h5", "sft-prepare")
    refused(workspace.settings("absent", eval_dataset=f"{nowhere}-eval.h5", eval_strategy="epoch"), DATA, "nowhere-eval.h5")
    refused(workspace.settings("absent", model_name_or_path=nowhere), DATA, "nowhere")
    refused(workspace.settings("absent", resume_from_checkpoint=nowhere / "checkpoint-3"), DATA, "checkpoint-3")
    for ranks in (0, 2):
        run = subprocess.run(ours.command(workspace.folder / "nowhere.ini", ranks), capture_output=True, text=True,
                                   env=ours.environment())
        assert run.returncode == CONFIG and "nowhere.ini" in run.stdout + run.stderr


# --- output_dir --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [0, 2])
def test_output_that_cannot_be_written(workspace, ranks):
    blocker = workspace.folder / "a-file"
    blocker.write_text("in the way")
    for output_dir in (blocker / "out", "/proc/sft-dist-output"):  # root may write anywhere but here
        ini = workspace.folder / "unwritable.ini"
        ini.write_text(ours.ini_text(workspace.settings("x") | {"output_dir": output_dir}))
        run = subprocess.run(ours.command(ini, ranks), capture_output=True, text=True, env=ours.environment(), timeout=60)
        assert run.returncode == STORAGE, run.stdout + run.stderr
        assert str(output_dir) in run.stdout + run.stderr


def test_output_that_is_not_shared(workspace):
    """/proc/self/cwd is another folder for every rank when each is started in its own."""
    settings = workspace.settings("unshared") | {"output_dir": "/proc/self/cwd/out"}
    ini = small.write_ini(settings | {"output_dir": workspace.folder / "unshared"})
    ini.write_text(ours.ini_text(settings))
    for rank in range(2):
        (workspace.folder / f"home-{rank}").mkdir()
    script = f'cd {workspace.folder}/home-$OMPI_COMM_WORLD_RANK && exec {ours.program()} --args {ini}'
    run = subprocess.run(["mpirun", "-np", "2", "sh", "-c", script], capture_output=True, text=True, env=ours.environment(), timeout=60)
    assert run.returncode == STORAGE, run.stdout + run.stderr
    assert "out" in run.stdout + run.stderr and "shared" in run.stdout + run.stderr


def test_second_run_in_the_same_place(workspace):
    settings = workspace.settings("busy", max_steps=1000000, save_steps=1000000)
    process = small.start(settings, 1)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 1, "step 1", process)
        refused(settings | {"resume_from_checkpoint": True}, STORAGE, "busy", ranks=2)
        refused(settings | {"overwrite_output_dir": True}, STORAGE, "busy")
        assert process.poll() is None, "the first run was disturbed"
    finally:
        small.kill_everything(process)


def test_results_are_not_overwritten_unasked(workspace):
    settings = workspace.settings("results", max_steps=2)
    ours.run(settings)
    before = {path: path.read_bytes() for path in settings["output_dir"].rglob("*.safetensors")}
    refused(settings, CONFIG, "results", "overwrite_output_dir", "resume_from_checkpoint")
    assert before and before == {path: path.read_bytes() for path in settings["output_dir"].rglob("*.safetensors")}
    again = ours.run(settings | {"overwrite_output_dir": True, "max_steps": 1})
    assert small.checkpoints(again.output_dir) == [entry["step"] for entry in again.steps] == [1]  # nothing of the first run is left


# --- data sets ---------------------------------------------------------------------------------------------------------------


def verify(path) -> tuple[int, str]:
    run = subprocess.run([str(ours.program()), "verify", str(path)], capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


def test_good_files_verify(workspace):
    for path in (workspace.train, workspace.model):
        code, output = verify(path)
        assert code == 0, output


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_truncated_data_set(workspace, keep):
    path = workspace.write_data("cut")
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * keep)])
    refused(workspace.settings("cut", train_dataset=path), DATA, "cut.h5")


def test_every_flipped_bit_is_found_by_verify(workspace):
    """Bits of the arrays, that is: HDF5 itself leaves gaps that mean nothing."""
    path = workspace.write_data("flipped")
    data = path.read_bytes()
    chance = np.random.RandomState(3)
    arrays = [np.array([i for row in workspace.rows for i in row], "<i4").tobytes(),
              np.cumsum([0, *map(len, workspace.rows)]).astype("<i8").tobytes()]
    for array in arrays:
        begin = data.index(array)
        for _ in range(8):
            damaged = bytearray(data)
            damaged[begin + chance.randint(len(array))] ^= 1 << chance.randint(8)
            path.write_bytes(damaged)
            code, output = verify(path)
            assert code == DATA and "flipped.h5" in output, output


def bad_arrays(workspace, name, change):
    """A data set with fitting hashes whose attributes and arrays went through `change`."""
    path = workspace.write_data(name)
    import h5py

    with h5py.File(path) as file:
        attributes = {key: (value.decode() if isinstance(value, bytes) else int(value)) for key, value in file.attrs.items()}
        arrays = {key: file[key][:] for key in file if key != "prepare_config"}
        config = json.loads(file["prepare_config"][()])
    order = ["format", "version", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "num_tokens", "num_target_tokens",
             "tokenizer_sha256"]
    attributes = {key: attributes.get(key) for key in order}
    change(attributes, arrays)
    token_file.write_arrays(path, attributes, arrays, config)
    return path


def falling(attributes, arrays):
    arrays["offsets"][5], arrays["offsets"][6] = arrays["offsets"][6], arrays["offsets"][5]


def beyond_vocabulary(attributes, arrays):
    arrays["input_ids"][arrays["offsets"][17] + 1] = models.VOCAB_SIZE + 5


def negative_id(attributes, arrays):
    arrays["input_ids"][arrays["offsets"][17] + 1] = -7


def end_elsewhere(attributes, arrays):
    arrays["offsets"][-1] += 3


def empty_row(attributes, arrays):
    arrays["offsets"][8] = arrays["offsets"][7]


def no_row(attributes, arrays):
    arrays["offsets"], arrays["input_ids"] = arrays["offsets"][:1], arrays["input_ids"][:0]
    attributes["num_tokens"] = attributes["num_target_tokens"] = 0


def wrong_count(attributes, arrays):
    attributes["num_tokens"] += 1


def other_version(attributes, arrays):
    attributes["version"] = 2


def other_format(attributes, arrays):
    attributes["format"] = "something-else"


def no_target(attributes, arrays):
    arrays["loss_mask"] = np.zeros(len(arrays["input_ids"]), "u1")
    arrays["first_target"] = np.diff(arrays["offsets"]).astype("<i4")
    attributes["num_target_tokens"] = 0


def all_targets_cut_off(attributes, arrays):
    """Only the last token of long rows is learnt: none is left at max_length."""
    lengths = np.diff(arrays["offsets"])
    arrays["loss_mask"] = np.zeros(len(arrays["input_ids"]), "u1")
    arrays["loss_mask"][arrays["offsets"][1:][lengths > 10] - 1] = 1
    arrays["first_target"] = np.where(lengths > 10, lengths - 1, lengths).astype("<i4")
    attributes["num_target_tokens"] = int((lengths > 10).sum())


def vocabulary_of_another_model(attributes, arrays):
    attributes["vocab_size"] = models.VOCAB_SIZE + 64


def other_tokenizer(attributes, arrays):
    attributes["tokenizer_sha256"] = "0" * 64


def wide_ids(attributes, arrays):
    arrays["input_ids"] = arrays["input_ids"].astype("<i8")


BAD_DATA = {
    falling: ["offsets", "5"], beyond_vocabulary: ["17", str(models.VOCAB_SIZE + 5)], negative_id: ["17", "-7"], end_elsewhere: ["offsets"],
    empty_row: ["offsets"], no_row: ["row"], wrong_count: ["num_tokens"], other_version: ["version", "2"], other_format: ["something-else"],
    no_target: [], vocabulary_of_another_model: ["vocab"], other_tokenizer: ["tokenizer"], wide_ids: ["input_ids"],
}


@pytest.mark.parametrize("change", BAD_DATA, ids=lambda f: f.__name__)
def test_bad_data(workspace, change):
    path = bad_arrays(workspace, change.__name__, change)
    refused(workspace.settings("data", train_dataset=path, overwrite_output_dir=True), DATA, path.name, *BAD_DATA[change])


def test_no_target_left_after_the_cut(workspace):
    path = bad_arrays(workspace, "cut_off", all_targets_cut_off)
    refused(workspace.settings("cut-off", train_dataset=path, max_length=8), DATA, "cut_off.h5", "max_length")


def test_evaluation_data_is_checked_too(workspace):
    path = bad_arrays(workspace, "bad_eval", falling)
    refused(workspace.settings("eval", eval_dataset=path, eval_strategy="epoch"), DATA, "bad_eval.h5", "offsets")


def test_prepared_otherwise(workspace):
    refused(workspace.settings("field", dataset_text_field="review"), DATA, "dataset_text_field", "review", "sft-prepare")


# --- models ------------------------------------------------------------------------------------------------------------------


def model_with(workspace, name, header_change=None, raw=None, index=None):
    """A copy of the model whose safetensors header went through header_change (a function), or with other bytes."""
    folder = workspace.folder / f"model-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(workspace.model, folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8:8 + length]), data[8 + length:]
    if header_change:
        header_change(header)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(struct.pack("<Q", len(text)) + text + body)
    if raw:
        file.write_bytes(raw(data))
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        file.rename(folder / "model-00001-of-00001.safetensors")
    return folder


NORM = "model.norm.weight"
FIRST = "model.layers.0.input_layernorm.weight"


def overlap(header):
    header[NORM]["data_offsets"] = header[FIRST]["data_offsets"]


def beyond_end(header):
    begin, end = header[NORM]["data_offsets"]
    header[NORM]["data_offsets"] = [begin + (1 << 40), end + (1 << 40)]


def size_lies(header):
    header[NORM]["shape"] = [1000]


def shape_overflows(header):
    header[NORM]["shape"] = [1 << 62, 8]


def negative_shape(header):
    header[NORM]["shape"] = [-64]


def wrong_shape(header):
    header["model.layers.0.self_attn.q_proj.weight"]["shape"].reverse()


def missing_tensor(header):
    header["something.else"] = header.pop(FIRST)


def strange_type(header):
    header[NORM]["dtype"] = "F8_X"


@pytest.mark.parametrize("change", [overlap, beyond_end, size_lies, shape_overflows, negative_shape, wrong_shape, missing_tensor, strange_type],
                         ids=lambda f: f.__name__)
def test_lying_safetensors_header(workspace, change):
    folder = model_with(workspace, change.__name__, change)
    names = {wrong_shape: "q_proj", missing_tensor: FIRST, overlap: "model.safetensors"}
    refused(workspace.settings("header", model_name_or_path=folder, overwrite_output_dir=True), DATA, names.get(change, NORM))


def test_unreadable_safetensors(workspace):
    cases = {
        "empty": lambda data: b"",
        "header longer than the file": lambda data: struct.pack("<Q", 1 << 40) + data[8:],
        "header length overflows": lambda data: struct.pack("<Q", (1 << 64) - 4) + data[8:],
        "not json": lambda data: data[:8] + b"}" + data[9:],
        "truncated": lambda data: data[:-100],
    }
    for name, raw in cases.items():
        folder = model_with(workspace, "raw", raw=raw)
        refused(workspace.settings("raw", model_name_or_path=folder, overwrite_output_dir=True), DATA, "model.safetensors")


@pytest.mark.parametrize("target", ["../model/model.safetensors", "/etc/passwd", "sub/../../model/model.safetensors", "absent.safetensors"])
def test_index_that_points_elsewhere(workspace, target):
    names = models.tensor_shapes(small.CONFIG)
    index = {"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(names, target)}
    folder = model_with(workspace, "index", index=index)
    named = target if target == "absent.safetensors" else "model.safetensors.index.json"
    refused(workspace.settings("index", model_name_or_path=folder, overwrite_output_dir=True), DATA, named)


def test_index_whose_shard_is_a_link_out_of_the_folder(workspace):
    index = {"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(models.tensor_shapes(small.CONFIG), "model-00001-of-00001.safetensors")}
    folder = model_with(workspace, "linked", index=index)
    shard = folder / "model-00001-of-00001.safetensors"
    outside = shard.rename(workspace.folder / "shard.safetensors")
    shard.symlink_to(outside)
    refused(workspace.settings("linked", model_name_or_path=folder), DATA, f"{shard} is a link to {outside}")


def test_bad_config_json(workspace):
    for change, fragments in (({"model_type": "mamba"}, ["mamba"]), ({"num_attention_heads": 7}, ["num_attention_heads"]),
                              ({"hidden_size": 1 << 40}, ["hidden_size"]), ({"hidden_act": "softsign"}, ["softsign"])):
        folder = model_with(workspace, "config")
        (folder / "config.json").write_text(json.dumps(small.CONFIG | change))
        refused(workspace.settings("config", model_name_or_path=folder, overwrite_output_dir=True), DATA, *fragments)
    folder = model_with(workspace, "config")
    (folder / "config.json").write_text("{ not json")
    refused(workspace.settings("config", model_name_or_path=folder, overwrite_output_dir=True), DATA, "config.json")


def test_weights_that_are_not_numbers_stop_the_run(workspace):
    """A NaN in the weights makes every step non-finite: no update, and the end after max_non_finite_steps."""
    folder = workspace.folder / "model-nan"
    shutil.copytree(workspace.model, folder)
    weights = models.random_weights(small.CONFIG)
    weights[NORM] = weights[NORM].copy()
    weights[NORM][3] = np.nan
    from safetensors.numpy import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = workspace.settings("nan", model_name_or_path=folder, max_non_finite_steps=3)
    run = ours.run(settings, 2, check=False)
    assert run.returncode == 87, run.output
    assert [e["step"] for e in run.events("non_finite_step")] == [1, 2, 3]
    assert all(sorted(e["rows"]) == sorted(set(e["rows"])) and len(e["rows"]) == 12 for e in run.events("non_finite_step"))


def test_nothing_half_written_is_left(workspace):
    left = [str(path) for path in workspace.folder.rglob("*") if ".tmp" in path.name]
    assert left == [], os.linesep.join(left)
