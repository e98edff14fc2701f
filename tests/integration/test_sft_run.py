"""launch/sft-run keeps a run going: it starts it again after a crash, a kill or a hang, and knows when that is of no use."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import small_run as small
from parity import ours

SFT_RUN = Path(__file__).resolve().parents[2] / "launch" / "sft-run"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("supervised"))


def start(settings, ranks, *options) -> subprocess.Popen:
    with open(f"{settings['output_dir']}.out", "ab") as output:
        return subprocess.Popen([sys.executable, str(SFT_RUN), *options, "-n", str(ranks), "--oversubscribe", "--args", str(small.write_ini(settings))],
                                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                env=ours.environment({"SFT_DIST": str(ours.program())}))


def output_of(settings) -> str:
    return open(f"{settings['output_dir']}.out").read()


def test_killed_ranks_are_started_again_and_nothing_is_lost(workspace):
    more = {"max_steps": 200, "save_steps": 20, "save_total_limit": 2}
    settings = workspace.settings("killed", **more)
    process = start(settings, 2)
    try:
        for step in (30, 80, 130):
            small.wait_for(lambda: small.last_step(settings["output_dir"]) >= step, f"step {step}", process)
            os.kill(small.ranks_of(process)[-1], signal.SIGKILL)
            small.wait_for(lambda: len(small.ranks_of(process)) != 2, "the end of that start", process)
        assert process.wait(120) == 0, output_of(settings)
    finally:
        small.kill_everything(process)
    said = output_of(settings)
    assert said.count("starting again in") == 3, said
    assert "-> 200" in said  # the ledger
    whole = ours.run(workspace.settings("killed-whole", **more), 2)
    small.assert_same_weights(whole.output_dir, settings["output_dir"])


def test_a_hang_is_ended_and_the_run_goes_on(workspace):
    settings = workspace.settings("hang", max_steps=400, save_steps=25, save_total_limit=2, watchdog_step_seconds=2, watchdog_checkpoint_seconds=5)
    process = start(settings, 2)
    try:
        small.wait_for(lambda: small.checkpoints(settings["output_dir"]), "a checkpoint", process)
        os.kill(small.ranks_of(process)[1], signal.SIGSTOP)
        small.wait_for(lambda: "starting again in" in output_of(settings), "another start", process)
        assert process.wait(180) == 0, output_of(settings)
    finally:
        small.kill_everything(process)
    assert "did not report" in output_of(settings)  # the watchdog's verdict


def test_a_job_without_heartbeat_is_killed_from_outside(workspace):
    """What the ranks' own watchdogs cannot end: here all of them are stopped, and mpirun waits."""
    settings = workspace.settings("silent", max_steps=400, save_steps=25, save_total_limit=2)
    process = start(settings, 2, "--hang-seconds", "6")
    try:
        small.wait_for(lambda: small.checkpoints(settings["output_dir"]), "a checkpoint", process)
        for rank in small.ranks_of(process):
            os.kill(rank, signal.SIGSTOP)
        small.wait_for(lambda: "no heartbeat for 6 s: killed" in output_of(settings), "the kill", process)
        assert process.wait(180) == 0, output_of(settings)
    finally:
        small.kill_everything(process)


def test_what_repeating_cannot_mend_ends_it(workspace):
    settings = workspace.settings("hopeless", train_dataset=workspace.folder / "absent.h5")
    process = start(settings, 2)
    assert process.wait(60) == 89
    assert "starting again" not in output_of(settings)


# Codes that the starts end with, one after the other; those that count towards the limit; the last one's.
@pytest.mark.parametrize("codes, limit, last", [([91, 91], 1, 91), ([85, 91], 0, 91)], ids=str)
def test_failed_starts_without_progress_are_limited_and_requests_are_not(workspace, tmp_path, codes, limit, last):
    """A stand-in for the program, on one rank."""
    fake = tmp_path / "sft-dist"
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    fake.write_text(f'#!/bin/sh\ncase "$*" in *print-config*) exec "{ours.program()}" "$@";; esac\n'
                    f'cd {tmp_path}; code=$(sed -n 1p codes); sed -i 1d codes; exit "$code"\n')
    fake.chmod(0o755)
    ini = small.write_ini(workspace.settings(f"fruitless-{limit}"))
    done = subprocess.run([sys.executable, str(SFT_RUN), "--max-restarts", str(limit), "--args", str(ini)], capture_output=True, text=True, timeout=120,
                          env=ours.environment({"SFT_DIST": str(fake)}))
    assert done.returncode == last and not (tmp_path / "codes").read_text(), done.stderr
    assert done.stderr.count("starting again in") == len(codes) - 1, done.stderr
    assert f"{limit + 1} starts in a row failed without a new checkpoint: giving up" in done.stderr, done.stderr


def test_a_signal_saves_and_stops(workspace):
    settings = workspace.settings("asked", max_steps=100000, save_steps=100000)
    process = start(settings, 2)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 5, "step 5", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 85, output_of(settings)
    finally:
        small.kill_everything(process)
    assert small.checkpoints(settings["output_dir"]) == [small.last_step(settings["output_dir"])]
    assert "starting again" not in output_of(settings)
