"""Checkpoints in the background, and storage that is slow or broken: the run goes on and ends with the bits of an undisturbed one.
A disk that is full: test_full_disk.py."""

import errno
import json
import os
import signal

import pytest

import small_run as small
from parity import ours
from storage_support import EVERY, assert_ends_like, leftovers, order_of, verify

SHIM = ours.BUILD_DIR / "tests/unit/checkpoint/libio_shim.so"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("storage"))


def shim(path, **settings) -> dict:
    """Calls on paths that begin with `path` are held up (hold=file) or fail (fail=always:<errno>), perhaps on one rank only."""
    assert SHIM.is_file(), f"{SHIM} is not built"
    return {"LD_PRELOAD": str(SHIM), "SFT_IO_ROOT": str(path)} | {f"SFT_IO_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_same_bits_as_without(workspace, ranks):
    whole = workspace.undisturbed(ranks)
    run = ours.run(workspace.six_rows(ranks, f"async-{ranks}", async_save=True), ranks)
    assert_ends_like(run.output_dir, whole, EVERY)
    events = run.events("checkpoint")
    assert [event["step"] for event in events] == EVERY
    assert [event["in_background"] for event in events] == [True] * 4 + [False]  # nothing is left to overlap with the last
    for event in events:
        assert event["seconds"] >= event["write_seconds"] > 0 and event["stall_seconds"] > 0
    said = [" ".join(output.split()) for output in (run.stdout, whole.stdout)]  # the table is cut into lines
    assert "copy for checkpoints" in said[0] and "copy for checkpoints" not in said[1]


def test_best_model_and_limit(workspace):
    more = {"eval_dataset": workspace.eval, "eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True, "save_total_limit": 1,
            "greater_is_better": True}  # the first is best: it must outlive the others
    whole = ours.run(workspace.six_rows(2, "best", **more), 2)
    run = ours.run(workspace.six_rows(2, "best-async", async_save=True, **more), 2)
    (event,) = run.events("best_model")
    assert event["checkpoint_step"] < 20
    assert_ends_like(run.output_dir, whole, small.checkpoints(whole.output_dir))


def test_steps_go_on_while_storage_is_slow_and_the_next_save_waits(workspace, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    settings = workspace.six_rows(2, "slow", async_save=True)
    output_dir = settings["output_dir"]
    process = small.start(settings, 2, shim(output_dir / "checkpoint-4.tmp", hold=hold))
    try:
        small.wait_for(lambda: small.last_step(output_dir) >= 8 and leftovers(output_dir), "step 8, and a save", process)
        assert small.checkpoints(output_dir) == []
        hold.unlink()
        assert process.wait(60) == 0
    finally:
        small.kill_everything(process)
    order = order_of(output_dir)
    committed = order.index(("checkpoint", 4))
    assert order.index(("train", 8)) < committed < order.index(("train", 9))
    assert_ends_like(output_dir, workspace.undisturbed(2), EVERY)


@pytest.mark.parametrize("path, section", [("checkpoint-4.tmp", "checkpoint"), (".final.tmp", "finish")])
def test_storage_that_does_not_answer_ends_the_run(workspace, tmp_path, path, section):
    """In the middle of a run, and where the final model is all that is left."""
    hold = tmp_path / "hold"
    hold.touch()
    settings = workspace.six_rows(2, f"silent-{section}", watchdog_step_seconds=1000, **{f"watchdog_{section}_seconds": 3})
    run = ours.run(settings, 2, check=False, env=shim(settings["output_dir"] / path, hold=hold))
    assert run.returncode == 86 and "(limit 3 s)" in run.output, run.output[-3000:]
    reports = [json.loads(file.read_text()) for file in run.output_dir.glob("diagnostics/hang-*/rank-*.json")]
    assert reports and all(report["section"] == section for report in reports)


@pytest.mark.parametrize("async_save, error, rank", [(False, errno.ENOSPC, 1), (True, errno.EIO, 1), (True, errno.ESTALE, 0)])
def test_one_checkpoint_is_given_up(workspace, async_save, error, rank):
    settings = workspace.six_rows(2, f"given-up-{async_save}-{error}", async_save=async_save)
    output_dir = settings["output_dir"]
    run = ours.run(settings, 2, env=shim(output_dir / "checkpoint-8.tmp", fail=f"always:{error}", rank=rank))
    assert_ends_like(output_dir, workspace.undisturbed(2), [4, 12, 16, 20])
    (event,) = run.events("checkpoint_failed")
    assert (event["step"], event["rank"], event["error"], event["failures_in_row"]) == (8, rank, os.strerror(error), 1)
    assert event["host"] == os.uname().nodename and "/checkpoint-8.tmp-" in event["file"]
    assert run.output.count("checkpoint-8 could not be saved") == 1 and "storage_failures_max = 3" in run.output


def test_several_in_a_row_end_the_run(workspace):
    """A quota: the file system says that there is room, and refuses what is written."""
    settings = workspace.six_rows(2, "broken", async_save=True, storage_failures_max=2)
    run = ours.run(settings, 2, check=False, env=shim(settings["output_dir"] / "checkpoint-1", fail=f"always:{errno.EDQUOT}"))
    assert run.returncode == 91, run.output[-3000:]
    assert run.output.count("error: ") == 1 and "2 checkpoints in a row" in run.output and os.strerror(errno.EDQUOT) in run.output
    assert [event["step"] for event in run.events("checkpoint_failed")] == [12, 16]
    assert small.checkpoints(run.output_dir) == [4, 8] and not leftovers(run.output_dir)
    verify(run.output_dir / "checkpoint-8")


def test_a_stop_that_cannot_be_saved_is_an_error(workspace):
    settings = workspace.six_rows(2, "unsaved", max_steps=100000, save_steps=100000, async_save=True)
    process = small.start(settings, 2, shim(settings["output_dir"] / "checkpoint-", fail=f"always:{errno.ENOSPC}"))
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 2, "step 2", process)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 91
    finally:
        small.kill_everything(process)
    output = open(f"{settings['output_dir']}.out").read()
    assert output.count("error: ") == 1 and "the run stops without it" in output and os.strerror(errno.ENOSPC) in output


def test_a_final_model_that_cannot_be_written_is_an_error(workspace):
    settings = workspace.six_rows(2, "no-final", max_steps=4)
    run = ours.run(settings, 2, check=False, env=shim(settings["output_dir"] / ".final", fail=f"always:{errno.EIO}"))
    assert run.returncode == 91 and "the final model could not be saved" in run.output
    assert small.checkpoints(run.output_dir) == [4] and not leftovers(run.output_dir)


def test_killed_while_writing_in_the_background(workspace, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    settings = workspace.six_rows(2, "killed", async_save=True, resume_from_checkpoint=True)
    output_dir = settings["output_dir"]
    process = small.start(settings, 2, shim(output_dir / "checkpoint-8.tmp", hold=hold))
    try:
        small.wait_for(lambda: small.last_step(output_dir) >= 10 and leftovers(output_dir), "step 10, and a save", process)
    finally:
        small.kill_everything(process)
    assert small.checkpoints(output_dir) == [4] and leftovers(output_dir)
    verify(output_dir / "checkpoint-4")
    run = ours.run(settings, 2)
    assert "resuming from" in run.output and "checkpoint-4" in run.output
    assert_ends_like(output_dir, workspace.undisturbed(2), EVERY)


def test_a_stop_waits_for_the_save_under_way(workspace, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    settings = workspace.six_rows(2, "stopped", async_save=True, resume_from_checkpoint=True)
    output_dir = settings["output_dir"]
    process = small.start(settings, 2, shim(output_dir / "checkpoint-4.tmp", hold=hold))
    try:
        small.wait_for(lambda: small.last_step(output_dir) >= 8, "step 8", process)  # and waits there to save again
        for rank in small.ranks_of(process):
            os.kill(rank, signal.SIGUSR1)
        hold.unlink()
        assert process.wait(60) == 85
    finally:
        small.kill_everything(process)
    assert small.checkpoints(output_dir) == [4, 8] and not leftovers(output_dir)
    assert order_of(output_dir)[-2:] == [("checkpoint", 8), ("stopped", 8)]
    ours.run(settings, 2)
    assert_ends_like(output_dir, workspace.undisturbed(2), EVERY)


def test_save_now(workspace):
    settings = workspace.six_rows(2, "now", max_steps=100000, save_steps=100000, async_save=True)
    output_dir = settings["output_dir"]
    process = small.start(settings, 2)
    try:
        small.wait_for(lambda: small.last_step(output_dir) >= 3, "step 3", process)
        (output_dir / "save-now").touch()
        small.wait_for(lambda: small.checkpoints(output_dir), "a checkpoint", process)
        assert not (output_dir / "save-now").exists()  # forgotten when the state was copied
        first = small.checkpoints(output_dir)
        small.wait_for(lambda: small.last_step(output_dir) >= first[0] + 5, "the run to go on", process)
        assert small.checkpoints(output_dir) == first  # saved once
        (output_dir / "stop").touch()
        assert process.wait(60) == 0
    finally:
        small.kill_everything(process)
