"""The order of writes, syncs and renames in a save, and what is left when any single one of them fails or is the last.
SFT_FULL (the `full` label): several shards, every call of both ways to save; deaths also in a first save and while the older checkpoint
is removed."""

import errno
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path(os.environ["SFT_BUILD_DIR"]) / "tests/unit/checkpoint"
TOOL, SHIM = FOLDER / "checkpoint_tool", FOLDER / "libio_shim.so"
FULL = "SFT_FULL" in os.environ
SHARD_SIZE = "30KB" if FULL else "5GB"
WAYS = ("save", "background")
LIMIT = 1 if FULL else None  # of checkpoints
NONCE = "?" * 16


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
    subprocess.run([TOOL, "save", model, path, SHARD_SIZE, "1"], check=True, timeout=60)
    return path


def save_traced(model, folder, step, site=None, fault="", command="save", exchange=True, limit=None):
    """Saves under the shim, with the fault at that site; returns the exit status, the error text, and the calls as (name, path below
    the folder, its random part replaced by NONCE). With a limit for checkpoints, removals are calls too."""
    trace = folder.parent / f"{folder.name}.trace"
    environment = {**os.environ, "LD_PRELOAD": str(SHIM), "SFT_IO_ROOT": str(folder), "SFT_IO_TRACE": str(trace)}
    if site is not None:
        call, path, before = site
        environment |= {"SFT_IO_CALLS": f"{call} {folder}{path}", "SFT_IO_FAIL": f"{before}{fault}"}
    if not exchange:
        environment["SFT_IO_NO_EXCHANGE"] = "1"
    arguments = [TOOL, command, model, folder, SHARD_SIZE, str(step)]
    if limit:
        arguments.append(str(limit))
        environment["SFT_IO_REMOVALS"] = "1"
    result = subprocess.run(arguments, env=environment, timeout=60, capture_output=True, text=True)
    lines = trace.read_text().splitlines() if trace.exists() else []
    calls = [line.split(" ", 1) for line in lines]
    return result.returncode, result.stderr, [(call, re.sub("[0-9a-f]{16}", NONCE, path.removeprefix(str(folder)))) for call, path in calls]


def sites(calls):
    """Each call as (name, path, how many of these came before it): the calls of two ranks come in another order each time."""
    return [(*call, calls[:i].count(call)) for i, call in enumerate(calls)]


def tries(calls, step):
    """(way to save, site): in full all; else every site by one of the ways, and where a checkpoint is replaced only what differs: from
    the manifest on."""
    if FULL:
        return list(itertools.product(WAYS, sites(calls)))
    manifest = next(i for i, (_, path) in enumerate(calls) if path.endswith("MANIFEST.json"))
    return list(zip(itertools.cycle(WAYS), sites(calls)[0 if step == 3 else manifest:]))


def newest_steps(folders):
    result = subprocess.run([TOOL, "newest", *folders], check=True, timeout=300, capture_output=True, text=True)
    return [int(line) for line in result.stdout.split()]


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if ".tmp-" in path.name or path.name.startswith((".trash", ".replaced")))


def test_data_is_durable_before_the_manifest_and_the_manifest_before_the_name(model, tmp_path):
    status, _, calls = save_traced(model, tmp_path / "out", 3)
    assert status == 0
    temporary = f"/checkpoint-3.tmp-{NONCE}"
    calls = [(call, path) for call, path in calls if path == "" or path.startswith(temporary)]
    manifest = f"{temporary}/state/MANIFEST.json"
    manifest_written = calls.index(("write", manifest))
    data = {path for call, path in calls if call == "write"} - {manifest}
    assert {re.sub(r"-\d+-of-\d+", "", Path(path).name) for path in data} >= {"model.safetensors", "optimizer.safetensors", "config.json"}
    for path in data:
        last_write = max(i for i, call in enumerate(calls) if call == ("write", path))
        assert any(last_write < i < manifest_written for i, call in enumerate(calls) if call == ("fsync", path)), path
    # From here on one rank alone goes on, in exactly this order.
    assert calls[manifest_written:] == [("write", manifest), ("fsync", manifest), ("close", manifest), ("fsync", f"{temporary}/state"),
                                        ("fsync", temporary), ("rename", temporary), ("fsync", "")]


@pytest.mark.parametrize("step", [3, 1], ids=["new step", "same step again"])
def test_an_error_at_any_call_keeps_the_old_checkpoint(model, first, tmp_path, step):
    shutil.copytree(first, tmp_path / "count")
    status, _, calls = save_traced(model, tmp_path / "count", step)
    assert status == 0 and len(calls) > 20
    folders = []
    for number, (way, site) in enumerate(tries(calls, step)):
        folder = tmp_path / f"error-{number}"
        shutil.copytree(first, folder)
        code = (errno.EIO, errno.ENOSPC, errno.ESTALE)[number % 3]
        status, message, _ = save_traced(model, folder, step, site, f"+:{code}", way)
        # Emptying the lease at the end is a courtesy, and where exchanging two names fails, renaming twice does it.
        harmless = site in [("resize", "/.lease", 1), ("close", "/.lease", 0)] or site[0] == "exchange"
        assert (status == 0) == harmless, (site, message)
        assert harmless or os.strerror(code) in message, (site, message)
        assert leftovers(folder) == [], site
        assert (folder / "checkpoint-3").exists() == (harmless and step == 3)
        folders.append(folder)
    expected = [3 if (folder / "checkpoint-3").exists() else 1 for folder in folders]
    assert newest_steps(folders) == expected


def test_an_error_that_passes_is_overcome(model, first, tmp_path):
    shutil.copytree(first, tmp_path / "count")
    _, _, calls = save_traced(model, tmp_path / "count", 3)
    folders, kinds = [], set()
    for site in sites(calls):
        call, path, _ = site
        kind = (call, path.endswith("MANIFEST.json"), Path(path).suffix)
        if kind in kinds or not path.startswith("/checkpoint-3.tmp-") and (call, path) != ("fsync", ""):
            continue  # a file of the same kind; opening and leaving output_dir
        kinds.add(kind)
        folder = tmp_path / f"once-{len(kinds)}"
        shutil.copytree(first, folder)
        status, message, made = save_traced(model, folder, 3, site, f":{errno.EIO}", WAYS[len(kinds) % 2])
        assert status == 0 and "trying again" in message, (site, message)
        assert len(made) > len(calls), "nothing was done again"
        assert leftovers(folder) == []
        folders.append(folder)
    assert {call for call, _, _ in kinds} == {"mkdir", "create", "write", "fsync", "close", "resize", "rename"} and len(kinds) > 16
    assert newest_steps(folders) == [3] * len(folders)


def test_writes_that_do_less_than_asked_are_finished(model, first, tmp_path):
    shutil.copytree(first, tmp_path / "count")
    _, _, calls = save_traced(model, tmp_path / "count", 3)
    folders = []
    for site in sites(calls):
        call, path, _ = site
        if call != "write" or not path.startswith("/checkpoint-3.tmp-"):
            continue
        folder = tmp_path / f"short-{len(folders)}"
        shutil.copytree(first, folder)
        status, message, made = save_traced(model, folder, 3, site, ":short", WAYS[len(folders) % 2])
        assert status == 0 and "trying again" not in message, message
        assert sorted(made) == sorted([*calls, (call, path)]), "the rest was not written"
        folders.append(folder)
    assert len(folders) > 5 and newest_steps(folders) == [3] * len(folders)


@pytest.mark.parametrize("before, step, exchange", [
    pytest.param(1, 3, True, id="new step"), pytest.param(1, 1, True, id="same step again"),
    pytest.param(1, 1, False, id="without exchange"), *([pytest.param(-1, 3, True, id="first save")] if FULL else [])])
def test_death_at_any_call_leaves_a_valid_checkpoint(model, first, tmp_path, before, step, exchange):
    empty = tmp_path / "empty"
    empty.mkdir()
    start = first if before == 1 else empty
    shutil.copytree(start, tmp_path / "count")
    _, _, calls = save_traced(model, tmp_path / "count", step, exchange=exchange, limit=LIMIT)
    assert ("exchange" in [call for call, _ in calls]) == (step == 1 and exchange)
    folders = []
    for way, site in tries(calls, step):
        folder = tmp_path / f"death-{len(folders)}"
        shutil.copytree(start, folder)
        status, _, _ = save_traced(model, folder, step, site, ":kill", way, exchange, limit=LIMIT)
        assert status == -9, site
        folders.append(folder)
    committed = [(folder / "checkpoint-3").exists() for folder in folders]
    assert newest_steps(folders) == [3 if there else before for there in committed]
    assert not committed[0] and committed[-1] == (step == 3)
    assert [leftovers(folder) for folder in folders] == [[]] * len(folders)  # the next run has swept them
    assert not FULL or len(folders) > 200
