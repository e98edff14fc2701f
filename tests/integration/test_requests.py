"""What is asked of a run from outside: files in output_dir, and time limits."""

import pytest

import small_run as small
from parity import ours


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("requests"))


def endless(workspace, name, **more):
    return workspace.settings(name, max_steps=100000, save_steps=100000, resume_from_checkpoint=True) | more


@pytest.mark.parametrize("ranks", [1, 3])
def test_save_now_and_stop(workspace, ranks):
    settings = endless(workspace, f"files-{ranks}")
    output_dir = settings["output_dir"]
    process = small.start(settings, ranks)
    try:
        small.wait_for(lambda: small.last_step(output_dir) >= 3, "step 3", process)
        (output_dir / "save-now").touch()
        small.wait_for(lambda: small.checkpoints(output_dir), "a checkpoint", process)
        small.wait_for(lambda: not (output_dir / "save-now").exists(), "the request to be forgotten", process)
        first = small.checkpoints(output_dir)
        small.wait_for(lambda: small.last_step(output_dir) >= first[0] + 3, "the run to go on", process)
        assert small.checkpoints(output_dir) == first  # saved once

        (output_dir / "stop").touch()
        assert process.wait(60) == 0  # not to be run again by a scheduler
    finally:
        small.kill_everything(process)
    assert not (output_dir / "stop").exists()
    stopped = small.last_step(output_dir)
    assert small.checkpoints(output_dir) == [*first, stopped]

    run = ours.run(settings | {"max_steps": stopped + 2}, ranks)
    assert [entry["step"] for entry in run.steps if entry["step"] > stopped] == [stopped + 1, stopped + 2]


@pytest.mark.parametrize("ranks", [1, 2])
def test_max_run_minutes(workspace, ranks):
    settings = endless(workspace, f"limit-{ranks}", max_run_minutes=0.05)
    run = ours.run(settings, ranks, check=False)
    assert run.returncode == 85, run.output[-3000:]
    assert small.checkpoints(run.output_dir) == [small.last_step(run.output_dir)]
    # The start counts, and may take all of the limit.
    (start,) = run.events("first_forward")
    again = ours.run(settings | {"max_run_minutes": 0.05 + 3 * start["seconds_since_start"] / 60}, ranks, check=False)
    assert again.returncode == 85
    assert len(small.checkpoints(run.output_dir)) == 2  # each start comes further


def test_save_on_interval_minutes(workspace):
    settings = endless(workspace, "interval", save_on_interval_minutes=0.01, save_total_limit=20)
    process = small.start(settings, 2)
    try:
        saves = lambda: [entry for entry in ours.read_log(settings["output_dir"]) if entry["event"] == "checkpoint"]  # noqa: E731
        small.wait_for(lambda: len(saves()) >= 4, "the fourth save", process)
        (settings["output_dir"] / "stop").touch()
        assert process.wait(60) == 0
    finally:
        small.kill_everything(process)
    times = [entry["time"] for entry in saves()]
    # The last one may be that of the stop; the others keep their distance.
    assert all(later - earlier >= 0.6 for earlier, later in zip(times, times[1:-1]))
