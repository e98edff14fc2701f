"""A run that hangs ends by itself and names the rank it waited for."""

import json
import os
import signal
import stat
import subprocess

import pytest

import small_run as small
from parity import ours


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("hang"))


def test_a_stopped_rank_is_named(workspace):
    settings = workspace.settings("stopped", max_steps=100000, save_steps=100000, watchdog_step_seconds=2)
    process = small.start(settings, 3)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 3, "step 3", process)
        victim = small.ranks_of(process)[1]
        rank = small.rank_of(victim)
        os.kill(victim, signal.SIGSTOP)
        assert process.wait(90) == 86
    finally:
        small.kill_everything(process)
    output = open(f"{settings['output_dir']}.out").read()
    assert output.count("no progress for") == 1, output  # one rank speaks for all
    assert f"rank {rank} (" in output and "did not report" in output
    reports = {path.name for path in settings["output_dir"].glob("diagnostics/hang-*/*")}
    expected = {f"rank-{r}.json" for r in range(3) if r != rank} | {"verdict.txt"}
    # mpirun has a stopped rank go on for a second or two before it kills it: that one may still report.
    assert expected <= reports <= expected | {f"rank-{rank}.json", f"rank-{rank}.json.tmp"}
    # Whoever waited was inside a collective, and its stacks say so.
    report = next(settings["output_dir"].glob(f"diagnostics/hang-*/rank-{(rank + 1) % 3}.json")).read_text()
    assert '"inside": true' in report and "sft::train::Trainer::run" in report


def test_the_run_goes_on_from_its_checkpoint(workspace):
    settings = workspace.settings("goes-on", resume_from_checkpoint=True, max_steps=1000, save_steps=20)
    process = small.start(settings | {"watchdog_step_seconds": 2, "watchdog_checkpoint_seconds": 5}, 2)
    try:
        small.wait_for(lambda: small.checkpoints(settings["output_dir"]), "a checkpoint", process)
        os.kill(small.ranks_of(process)[0], signal.SIGSTOP)
        assert process.wait(90) == 86
    finally:
        small.kill_everything(process)
    saved = small.checkpoints(settings["output_dir"])[-1]
    run = ours.run(settings, 2, check=False)
    assert run.returncode == 0, run.output[-3000:]
    assert f"checkpoint-{saved}" in run.output


def test_an_evaluation_has_a_limit_of_its_own(workspace):
    rows = workspace.write_data("long-eval", rows=workspace.rows * 4000, prepare={"part": "eval"})
    settings = workspace.settings("evaluating", eval_dataset=rows, eval_strategy="no", eval_on_start=True, watchdog_evaluation_seconds=3,
                                  watchdog_step_seconds=1000, watchdog_start_seconds=1000)
    run = ours.run(settings, 2, check=False)
    assert run.returncode == 86, run.output[-3000:]
    reports = [json.loads(path.read_text()) for path in run.output_dir.glob("diagnostics/hang-*/rank-*.json")]
    assert reports and all(report["section"] == "evaluation" for report in reports)
    assert "(limit 3 s)" in run.output


def test_a_rank_that_never_starts(workspace, tmp_path):
    """MPI's start waits for all ranks: the watchdog is there before it."""
    wrapper = tmp_path / "late"
    wrapper.write_text('#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && exec sleep 600\nexec "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    command = ours.command(small.write_ini(workspace.settings("never")), 2)
    at = command.index(str(ours.program()))
    command = [*command[:at], str(wrapper), *command[at:], "--watchdog_start_seconds", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ours.environment(), stdin=subprocess.DEVNULL)
    assert done.returncode == 86, done.stdout + done.stderr
    assert "a rank may not have started" in done.stdout + done.stderr


def test_switched_off_it_waits(workspace):
    settings = workspace.settings("off", max_steps=100000, save_steps=100000, watchdog=False, watchdog_step_seconds=1)
    process = small.start(settings, 2)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 3, "step 3", process)
        victim = small.ranks_of(process)[0]
        os.kill(victim, signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        before = small.last_step(settings["output_dir"])
        os.kill(victim, signal.SIGCONT)
        small.wait_for(lambda: small.last_step(settings["output_dir"]) > before, "going on", process)
    finally:
        small.kill_everything(process)
