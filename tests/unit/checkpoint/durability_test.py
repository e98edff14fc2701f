"""The order of writes, syncs and renames in a save, and what is left when any single one of them fails or is the last."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path(os.environ["SFT_BUILD_DIR"]) / "tests/unit/checkpoint"
TOOL, SHIM = FOLDER / "checkpoint_tool", FOLDER / "libio_shim.so"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(vocab_size=101, hidden_size=32, intermediate_size=56, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def first(model, tmp_path_factory):
    """An output folder with checkpoint-1."""
    path = tmp_path_factory.mktemp("first")
    subprocess.run([TOOL, "save", model, path, "5GB", "1"], check=True, timeout=60)
    return path


def save_traced(model, folder, step, fail=None, command="save", exchange=True):
    """Saves under the shim; returns the exit status, the error text, and the calls as (name, path below the folder)."""
    trace = folder.parent / f"{folder.name}.trace"
    environment = {**os.environ, "LD_PRELOAD": str(SHIM), "SFT_IO_ROOT": str(folder), "SFT_IO_TRACE": str(trace)}
    if fail is not None:
        environment["SFT_IO_FAIL"] = fail
    if not exchange:
        environment["SFT_IO_NO_EXCHANGE"] = "1"
    result = subprocess.run([TOOL, command, model, folder, "5GB", str(step)], env=environment, timeout=60,
                            capture_output=True, text=True)
    lines = trace.read_text().splitlines() if trace.exists() else []
    calls = [tuple(line.split(" ", 1)) for line in lines]
    return result.returncode, result.stderr, [(call, path.removeprefix(str(folder))) for call, path in calls]


def newest_steps(folders):
    result = subprocess.run([TOOL, "newest", *folders], check=True, timeout=300, capture_output=True, text=True)
    return [int(line) for line in result.stdout.split()]


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if ".tmp-" in path.name or path.name.startswith((".trash", ".replaced")))


def test_data_is_durable_before_the_manifest_and_the_manifest_before_the_name(model, tmp_path):
    status, _, calls = save_traced(model, tmp_path / "out", 3)
    assert status == 0
    calls = [(call, path) for call, path in calls if path == "" or path.startswith("/checkpoint-3.tmp-")]
    temporary = next(path.split("/")[1] for _, path in calls if path)
    manifest = f"/{temporary}/state/MANIFEST.json"
    manifest_written = calls.index(("write", manifest))
    data = {path for call, path in calls if call == "write"} - {manifest}
    assert {Path(path).name for path in data} >= {"model.safetensors", "optimizer.safetensors", "config.json"}
    for path in data:
        last_write = max(i for i, call in enumerate(calls) if call == ("write", path))
        assert any(last_write < i < manifest_written for i, call in enumerate(calls) if call == ("fsync", path)), path
    # From here on one rank alone goes on, in exactly this order.
    assert calls[manifest_written:] == [("write", manifest), ("fsync", manifest), ("close", manifest), ("fsync", f"/{temporary}/state"),
                                        ("fsync", f"/{temporary}"), ("rename", f"/{temporary}"), ("fsync", "")]


def numbers_worth_trying(calls, step):
    """All; where a checkpoint is replaced, what differs: from the manifest on."""
    manifest = next(i for i, (_, path) in enumerate(calls) if path.endswith("MANIFEST.json"))
    return range(0 if step == 3 else manifest, len(calls))


@pytest.mark.parametrize("step", [3, 1], ids=["new step", "same step again"])
def test_an_error_at_any_call_keeps_the_old_checkpoint(model, first, tmp_path, step):
    shutil.copytree(first, tmp_path / "count")
    status, _, calls = save_traced(model, tmp_path / "count", step)
    assert status == 0 and len(calls) > 20
    folders = []
    for number in numbers_worth_trying(calls, step):
        folder = tmp_path / f"error-{number}"
        shutil.copytree(first, folder)
        code = (errno.EIO, errno.ENOSPC, errno.ESTALE)[number % 3]
        status, message, made = save_traced(model, folder, step, f"{number}+:{code}", ("save", "background")[number // 3 % 2])
        failed = made[number]
        # Emptying the lease at the end is a courtesy, and where exchanging two names fails, renaming twice does it.
        at_end = failed == ("resize", "/.lease") and number > calls.index(failed) or failed == ("close", "/.lease")
        harmless = at_end or failed[0] == "exchange"
        assert (status == 0) == harmless, (failed, message)
        assert harmless or os.strerror(code) in message, (failed, message)
        assert leftovers(folder) == [], failed
        assert (folder / "checkpoint-3").exists() == (harmless and step == 3)
        folders.append(folder)
    expected = [3 if (folder / "checkpoint-3").exists() else 1 for folder in folders]
    assert newest_steps(folders) == expected


def test_an_error_that_passes_is_overcome(model, first, tmp_path):
    shutil.copytree(first, tmp_path / "count")
    _, _, calls = save_traced(model, tmp_path / "count", 3)
    folders, sites = [], set()
    for number, (call, path) in enumerate(calls):
        site = (call, path.endswith("MANIFEST.json"), Path(path).suffix)
        if site in sites or not path.startswith("/checkpoint-3.tmp-") and (call, path) != ("fsync", ""):
            continue  # a file of the same kind; opening and leaving output_dir
        sites.add(site)
        folder = tmp_path / f"once-{number}"
        shutil.copytree(first, folder)
        status, message, made = save_traced(model, folder, 3, f"{number}:{errno.EIO}", ("save", "background")[len(sites) % 2])
        assert status == 0 and "trying again" in message, (call, path, message)
        assert len(made) > len(calls), "nothing was done again"
        assert leftovers(folder) == []
        folders.append(folder)
    assert {call for call, _, _ in sites} == {"mkdir", "create", "write", "fsync", "close", "resize", "rename"} and len(sites) > 16
    assert newest_steps(folders) == [3] * len(folders)


def test_writes_that_do_less_than_asked_are_finished(model, first, tmp_path):
    shutil.copytree(first, tmp_path / "count")
    _, _, calls = save_traced(model, tmp_path / "count", 3)
    folders = []
    for number in [number for number, (call, path) in enumerate(calls) if call == "write" and path.startswith("/checkpoint-3.tmp-")]:
        folder = tmp_path / f"short-{number}"
        shutil.copytree(first, folder)
        status, message, made = save_traced(model, folder, 3, f"{number}:short", ("save", "background")[number % 2])
        assert status == 0 and "trying again" not in message, message
        assert len(made) == len(calls) + 1, "the rest was not written"
        folders.append(folder)
    assert len(folders) > 5 and newest_steps(folders) == [3] * len(folders)


@pytest.mark.parametrize("step, exchange", [(3, True), (1, True), (1, False)], ids=["new step", "same step again", "without exchange"])
def test_death_at_any_call_leaves_a_valid_checkpoint(model, first, tmp_path, step, exchange):
    shutil.copytree(first, tmp_path / "count")
    _, _, calls = save_traced(model, tmp_path / "count", step, exchange=exchange)
    assert ("exchange" in [call for call, _ in calls]) == (step == 1 and exchange)
    folders = []
    for number in numbers_worth_trying(calls, step):
        folder = tmp_path / f"death-{number}"
        shutil.copytree(first, folder)
        status, _, _ = save_traced(model, folder, step, f"{number}:kill", ("save", "background")[number % 2], exchange)
        assert status == -9
        folders.append(folder)
    committed = [(folder / "checkpoint-3").exists() for folder in folders]
    assert newest_steps(folders) == [3 if there else 1 for there in committed]
    assert not committed[0] and committed[-1] == (step == 3)
    assert [leftovers(folder) for folder in folders] == [[]] * len(folders)  # the next run has swept them
