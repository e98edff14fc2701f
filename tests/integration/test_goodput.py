"""Where the time of a run goes: the ledger over all starts, and ranks that are behind."""

import json
import os
import re
import signal
import threading
import time

import pytest

import small_run as small
from ledger import PARTS, recomputed
from parity import ours

@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("goodput"))


def assert_ledger(run: ours.Run, starts: int) -> dict:
    log = run.log
    ledger = run.events("goodput")[-1]
    assert log[-1] == ledger
    written = json.loads((run.output_dir / "goodput.json").read_text())
    assert written == {key: value for key, value in ledger.items() if key not in ("event", "step", "time")}
    # The parts fill the wall time, by the clock, from the first process's start to the end.
    started = next(entry for entry in log if entry["event"] == "process")["process_started"]
    # It ends between the last account of time and its own line in the log, before which the whole log is read again. 10 ms are a tick of
    # the process's start.
    last = [entry for entry in log if entry["event"] == "timing"][-1]["time"] - started
    assert 0.99 * last - 0.05 <= ledger["wall_seconds"] <= 1.01 * (ledger["time"] - started) + 0.05
    assert sum(ledger[f"{part}_seconds"] for part in PARTS) == pytest.approx(ledger["wall_seconds"], rel=0.01, abs=0.05)
    assert ledger["goodput"] == pytest.approx(ledger["productive_seconds"] / ledger["wall_seconds"])
    expected = recomputed(log[:-1])
    for part in PARTS:
        assert ledger[f"{part}_seconds"] == pytest.approx(expected[part], abs=0.01), part
    assert (ledger["starts"], ledger["steps_lost"]) == (starts, expected["steps_lost"])
    assert re.search(rf"goodput {100 * ledger['goodput']:.1f} % of .* \({starts} starts?\): productive .* waiting ", run.output), run.output[-2000:]
    return ledger


def test_one_undisturbed_run(workspace):
    settings = workspace.settings("whole", eval_dataset=workspace.eval, eval_strategy="steps", eval_steps=5, save_steps=7, logging_steps=3,
                                  per_device_train_batch_size=1, mean_minutes_between_failures=600)
    run = ours.run(settings, 2)
    ledger = assert_ledger(run, starts=1)
    for part in ("productive", "evaluation", "checkpoint", "startup"):
        assert ledger[f"{part}_seconds"] > 0, part
    assert ledger["lost_seconds"] == ledger["waiting_seconds"] == ledger["steps_lost"] == 0 and ledger["steps"] == 20
    # Evaluations are counted as such, with their forward passes.
    assert ledger["evaluation_seconds"] >= 0.9 * sum(entry["eval_runtime"] for entry in run.evaluations)
    advice = re.findall(r"the save stopped training for (\S+) s; with mean_minutes_between_failures = 600 .* with (\S+) minutes of steps .* "
                        r"save_steps = (\d+) at (\S+) s a step", run.output)
    assert len(advice) == 1
    save, minutes, steps, seconds = map(float, advice[0])
    mean = 600 * 60
    assert minutes * 60 == pytest.approx((2 * save * mean) ** 0.5 - save, rel=0.02)  # Young's formula, near Daly's for so cheap a save
    assert steps == pytest.approx(minutes * 60 / seconds, rel=0.02, abs=1)


def test_killed_stopped_and_resumed(workspace):
    settings = workspace.settings("killed", per_device_train_batch_size=1, max_steps=100000, save_steps=100000, resume_from_checkpoint=True)
    output_dir = settings["output_dir"]

    def timed_step() -> int:
        return max((entry["step"] for entry in ours.read_log(output_dir) if entry["event"] == "timing"), default=0)

    def start_until(step: int):
        process = small.start(settings, 2)
        small.wait_for(lambda: timed_step() >= step, f"step {step}", process)
        return process

    process = start_until(5)
    (output_dir / "save-now").touch()
    small.wait_for(lambda: small.checkpoints(output_dir), "a checkpoint", process)
    (saved,) = small.checkpoints(output_dir)
    small.wait_for(lambda: timed_step() >= saved + 5, "steps to lose", process)
    small.kill_everything(process)  # SIGKILL
    killed_at = timed_step()
    time.sleep(1)
    process = start_until(killed_at + 5)
    try:
        os.kill(small.ranks_of(process)[0], signal.SIGUSR1)
        assert process.wait(60) == 85
    finally:
        small.kill_everything(process)
    stopped = ours.Run(output_dir, 85, open(f"{output_dir}.out").read(), "")
    first, stopped_at = assert_ledger(stopped, starts=2), stopped.log[-1]["step"]
    assert first["steps_lost"] == killed_at - saved > 0 and first["lost_seconds"] > 0
    assert first["waiting_seconds"] > 0

    run = ours.run(settings | {"max_steps": stopped_at + 5}, 2)
    ledger = assert_ledger(run, starts=3)
    assert ledger["steps_lost"] == first["steps_lost"] and ledger["lost_seconds"] == pytest.approx(first["lost_seconds"])
    assert ledger["steps"] == stopped_at + 5


class Slowed:
    """Stops a process for three of every four hundredths of a second."""

    def __init__(self, pid: int):
        self.pid, self.ended = pid, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.ended.is_set():
                os.kill(self.pid, signal.SIGSTOP)
                time.sleep(0.03)
                os.kill(self.pid, signal.SIGCONT)
                time.sleep(0.01)
        except ProcessLookupError:
            pass

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def rank_number(pid: int) -> int:
    environment = open(f"/proc/{pid}/environ").read().split("\0")
    return int(next(entry for entry in environment if entry.startswith("OMPI_COMM_WORLD_RANK=")).partition("=")[2])


def judged_windows(entries: list[dict]) -> list[dict]:
    """Log entries added up until they last a second by rank 0's clock, as ranks are judged by: one entry is too short to say much."""
    windows, window = [], None
    for entry in entries:
        parts = {part: entry[part] for part in ("seconds", "work", "wait")}
        window = parts if window is None else {part: [a + b for a, b in zip(window[part], parts[part])] for part in parts}
        if window["seconds"][0] >= 1:
            windows.append(window)
            window = None
    return windows


def test_a_slowed_rank_is_named_and_no_other(workspace):
    settings = workspace.settings("slowed", max_steps=100000, save_steps=100000, logging_steps=10, threads_per_rank=1)
    output_dir = settings["output_dir"]
    process = small.start(settings, 2)
    try:
        small.wait_for(lambda: small.last_step(output_dir) >= 10, "step 10", process)
        victim = small.ranks_of(process)[1]
        rank = rank_number(victim)
        said = f"rank {rank} ({os.uname().nodename}) is behind: 3 times in a row its own work took at least 10 % longer"
        with Slowed(victim):
            found = lambda: [entry for entry in ours.read_log(output_dir) if entry["event"] == "straggler"]  # noqa: E731
            small.wait_for(lambda: found() and said in open(f"{output_dir}.out").read(), "the slow rank's name", process, timeout=180)
        event = found()[0]
    finally:
        small.kill_everything(process)
    assert event["rank"] == rank and event["host"] == os.uname().nodename and event["behind"] >= 0.1
    # By the log's own figures it was behind three times in a row, and the other rank waited for it.
    entries = [entry for entry in ours.read_log(output_dir) if entry["event"] == "rank_times" and entry["step"] <= event["step"]]
    for entry in entries:
        for part in ("work", "data", "wait"):
            assert len(entry[part]) == 2 and all(-1e-3 <= seconds <= total + 1e-3 for seconds, total in zip(entry[part], entry["seconds"]))
    windows = judged_windows(entries)
    assert len(windows) >= 3
    for window in windows[-3:]:
        assert window["work"][rank] >= 1.1 * sum(window["work"]) / 2
        assert window["wait"][1 - rank] > window["wait"][rank]
