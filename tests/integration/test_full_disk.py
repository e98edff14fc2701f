"""A file system of its own that fills up or goes away in the middle of a run. Needs root, to mount it."""

import os
import shutil
import subprocess

import pytest

import small_run as small
from parity import ours
from storage_support import EVERY, assert_ends_like, leftovers, order_of, verify


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("full-disk"))


@pytest.fixture
def small_disk(tmp_path, workspace):
    """A file system with room for one and a half checkpoints, and a file in it that gives room for all when it is deleted."""
    checkpoint = workspace.undisturbed(2).output_dir / "checkpoint-4"
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={20 * size}", "tmpfs", str(disk)], check=True)
    try:
        (disk / "filler").write_bytes(b"x" * int(18.4 * size))
        yield disk
    finally:
        if os.path.ismount(disk):
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("async_save", [False, True])
def test_a_full_disk(workspace, small_disk, async_save):
    settings = workspace.six_rows(2, small_disk / "run", async_save=async_save)
    output_dir = settings["output_dir"]
    process = small.start(settings, 2)
    try:
        small.wait_for(lambda: any(event == "checkpoint_failed" for event, _ in order_of(output_dir)), "a failure", process)
        (small_disk / "filler").unlink()
        assert process.wait(60) == 0
    finally:
        small.kill_everything(process)
    failed = [entry for entry in ours.read_log(output_dir) if entry["event"] == "checkpoint_failed"]
    assert failed[0]["step"] == 8 and failed[0]["file"] == str(output_dir) and "free" in failed[0]["error"]
    given_up = [entry["step"] for entry in failed]
    assert_ends_like(output_dir, workspace.undisturbed(2), [step for step in EVERY if step not in given_up])


def test_a_disk_that_stays_full_ends_the_run(workspace, small_disk):
    settings = workspace.six_rows(2, small_disk / "run", storage_failures_max=2)
    run = ours.run(settings, 2, check=False)
    assert run.returncode == 91 and "2 checkpoints in a row" in run.output, run.output[-3000:]
    assert [event["step"] for event in run.events("checkpoint_failed")] == [8, 12]
    assert small.checkpoints(run.output_dir) == [4] and not leftovers(run.output_dir)
    verify(run.output_dir / "checkpoint-4")


@pytest.mark.parametrize("end", ["deleted", "unmounted"])
def test_an_output_folder_that_vanishes_ends_the_run(workspace, small_disk, end):
    """What has its name afterwards, perhaps what lay below the file system, is not the run's folder."""
    settings = workspace.six_rows(2, small_disk / "run", max_steps=100000, save_steps=200, storage_failures_max=1)
    output_dir = settings["output_dir"]
    (small_disk / "filler").unlink()
    process = small.start(settings, 2)
    said = open(f"{output_dir}.out")
    try:
        small.wait_for(lambda: ("checkpoint", 200) in order_of(output_dir), "a checkpoint", process)
        if end == "deleted":
            output_dir.rename(small_disk / "gone")  # at once
            shutil.rmtree(small_disk / "gone")
        else:
            subprocess.run(["umount", "--lazy", str(small_disk)], check=True)
            output_dir.mkdir()
        assert process.wait(60) == 91
    finally:
        small.kill_everything(process)
    output = said.read()
    assert output.count("error: ") == 1 and f"{output_dir} is no longer the folder in which the run began" in output, output
    assert end == "unmounted" or not output_dir.exists()
    assert small.checkpoints(output_dir) == [] and (end == "deleted" or not leftovers(output_dir))
