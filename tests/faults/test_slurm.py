"""Several hosts and Slurm: the same numbers whatever starts the ranks and wherever they run; nothing lost when a job is preempted, comes to
its time limit or loses a node. On the test bed of cluster/testbed: real Slurm and Open MPI on three hosts that share this machine.

SFT_REPEATS sets how often preemption is repeated (1; the `full` label: 20), and ranks are killed (2; 50); above 1 ranks are also spread over the hosts in more ways.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import small_run as small
from disturbed import Undisturbed, assert_like, output_of, ranks_of, steps_made
from parity import ours
from testbed import SRUN, Job, wait_until

REPEATS = int(os.environ.get("SFT_REPEATS", "1"))
RANKS = 4
STEPS = 12
LONG = 200  # enough to be met in the middle
TRAIN = ours.SOURCE_DIR / "cluster" / "slurm" / "train.sbatch"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("slurm"))


def settings_of(workspace, output, steps=STEPS, **more) -> dict:
    return workspace.settings(output, per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=steps,
                              save_steps=steps // 2) | more


@pytest.fixture(scope="module")
def undisturbed(workspace) -> Undisturbed:
    return Undisturbed(workspace.folder)


@pytest.mark.parametrize("hosts", [3, 2] if REPEATS > 1 else [3])
def test_srun_over_several_hosts_computes_what_mpirun_does_on_one(bed, workspace, undisturbed, hosts):
    settings = settings_of(workspace, f"srun-{hosts}")
    bed.run(*SRUN, "-N", hosts, "-n", RANKS, ours.program(), "--args", small.write_ini(settings))
    assert_like(undisturbed(settings, RANKS), settings)


# Slots per host.
@pytest.mark.parametrize("slots", [{"h1": 2, "h2": 1, "h3": 1}, {"h2": 4}, {"h1": 2, "h2": 2}, {"h3": 1, "h1": 3}][:4 if REPEATS > 1 else 1], ids=str)
def test_mpirun_over_several_hosts_computes_what_it_does_on_one(bed, workspace, undisturbed, slots):
    settings = settings_of(workspace, "mpirun-" + "-".join(f"{host}{number}" for host, number in slots.items()))
    where = ",".join(f"{host}:{number}" for host, number in slots.items())
    bed.run("mpirun", "-np", RANKS, "--host", where, ours.program(), "--args", small.write_ini(settings), on="h1")
    assert_like(undisturbed(settings, RANKS), settings)


def test_ranks_killed_under_srun_end_all_and_nothing_saved_is_lost(bed, workspace, undisturbed):
    kills = REPEATS * 5 // 2
    settings = settings_of(workspace, "killed-under-srun", 60 + 30 * kills, save_steps=3, save_total_limit=3, resume_from_checkpoint=True)
    command, chance = [*SRUN, "-N", 2, "-n", RANKS, ours.program(), "--args", small.write_ini(settings)], random.Random(1)
    for kill in range(kills):
        began = time.time()
        with open(workspace.folder / f"killed-{kill}.out", "w+") as output:
            process = bed.start(*command, output=output)
        wait_until(lambda: small.last_time(settings["output_dir"]) > began or process.poll() is not None, "a step", bed)
        time.sleep(chance.uniform(0, 0.5))
        saved = max(small.checkpoints(settings["output_dir"]), default=0)
        victim = chance.choice(ranks_of(settings))
        rank = small.rank_of(victim)
        os.kill(victim, signal.SIGKILL)
        assert process.wait(60) == 137, "the run was over before the kill"
        # Slurm asks the others to leave, as in a preemption, and kills them later: they know better.
        assert f"error: rank {rank} (" in (said := Path(output.name).read_text()) and ") has ended, and the others with it" in said, said
        wait_until(lambda: not ranks_of(settings), "the end of all ranks", bed)
        assert max(small.checkpoints(settings["output_dir"]), default=0) >= saved
    bed.run(*command, timeout=300)
    assert_like(undisturbed(settings, RANKS), settings)


# Jobs: cluster/slurm/train.sbatch on two of the three hosts, two ranks each.


def submit(bed, settings, *slurm, launcher="srun", env=None) -> Job:
    return bed.submit("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={settings['output_dir']}.out", *slurm,
                      TRAIN, "--launcher", launcher, small.write_ini(settings), env=env)


def wait_for_step(bed, job, settings, step) -> None:
    wait_until(lambda: small.last_step(settings["output_dir"]) >= step or job.ended(), f"step {step}", bed)
    assert not job.ended(), output_of(settings)


@contextlib.contextmanager
def held_still(settings):
    """The run goes no step further meanwhile, however long it takes. Gives the rank that holds it."""
    held = ranks_of(settings)[0]
    os.kill(held, signal.SIGSTOP)
    try:
        yield held
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(held, signal.SIGCONT)


def has_been_asked(held: int) -> bool:
    """SIGUSR1 waits for the stopped rank. A line in the batch script's output comes before it, and a short run may be over in between."""
    pending = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{held}/status").read_text())[1]
    return bool(int(pending, 16) & 1 << signal.SIGUSR1 - 1)


def step_of_stop(settings) -> int:
    """Of its first start."""
    return next(entry["step"] for entry in ours.read_log(settings["output_dir"]) if entry["event"] == "stopped")


def assert_nothing_lost(settings, undisturbed) -> None:
    """Every step was made once, and it all came out as if nothing had been."""
    assert steps_made(settings) == list(range(1, settings["max_steps"] + 1)), output_of(settings)
    assert_like(undisturbed(settings, RANKS), settings)


@pytest.mark.parametrize("repeat", range(REPEATS))
def test_preempted_job_saves_waits_and_goes_on(bed, workspace, undisturbed, repeat):
    bed.wait_idle()
    settings = settings_of(workspace, f"preempted-{repeat}", LONG, save_steps=LONG, watchdog_step_seconds=600)
    job = submit(bed, settings)
    wait_for_step(bed, job, settings, 5 + repeat)
    with held_still(settings):
        urgent = bed.submit("--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
        wait_until(lambda: "CANCELLED" in output_of(settings) or job.ended(), "the preemption", bed)
    job.wait_requeued()
    stopped = step_of_stop(settings)
    assert 5 <= stopped < LONG and small.checkpoints(settings["output_dir"]) == [stopped]
    assert f"exit code 85 (stopped on request, state saved, at checkpoint-{stopped}): back to the queue" in output_of(settings)
    urgent.wait("COMPLETED")
    job.wait("COMPLETED")
    assert_nothing_lost(settings, undisturbed)
    assert "start 1, " in output_of(settings) and "start 2, " in output_of(settings), "one log for both starts"


def test_cancelled_job_stays_cancelled(bed, workspace):
    bed.wait_idle()
    settings = settings_of(workspace, "cancelled", LONG, save_steps=LONG)
    job = submit(bed, settings)
    wait_for_step(bed, job, settings, 5)
    bed.run("scancel", job.number)
    job.wait("CANCELLED")
    wait_until(lambda: "the job was cancelled" in output_of(settings), "the end of the batch script", bed)
    bed.wait_idle()
    assert "back to the queue" not in output_of(settings) and "start 2, " not in output_of(settings)


def test_job_at_its_time_limit_saves_and_goes_on(bed, workspace, undisturbed):
    """Slurm looks at time limits, of whole minutes, every 30 s and signals up to 30 s early: here 10 s after the start, when the ranks listen,
    or later; the run is held still in the meantime."""
    bed.wait_idle()
    settings = settings_of(workspace, "limited", LONG, save_steps=LONG, watchdog_step_seconds=600)
    job = submit(bed, settings, "--time=1", "--signal=B:USR1@20")
    wait_for_step(bed, job, settings, 5)
    with held_still(settings) as held:
        wait_until(lambda: job.ended() or has_been_asked(held), "the signal before the time limit", bed)
    assert "asking the run to save and stop" in output_of(settings)
    job.wait_requeued()
    stopped = step_of_stop(settings)
    assert small.checkpoints(settings["output_dir"]) == [stopped]
    job.wait("COMPLETED")
    assert_nothing_lost(settings, undisturbed)


def test_mpirun_in_a_job_is_asked_in_the_same_way(bed, workspace, undisturbed):
    bed.wait_idle()
    settings = settings_of(workspace, "by-mpirun", LONG, save_steps=LONG, watchdog_step_seconds=600)
    job = submit(bed, settings, launcher="mpirun")
    wait_for_step(bed, job, settings, 5)
    with held_still(settings) as held:
        bed.run("scancel", "--batch", "--signal=USR1", job.number)
        wait_until(lambda: job.ended() or has_been_asked(held), "the request", bed)
    job.wait_requeued()
    assert small.checkpoints(settings["output_dir"]) == [step_of_stop(settings)]
    job.wait("COMPLETED")
    assert_nothing_lost(settings, undisturbed)


@pytest.mark.parametrize("which", [1, 0] if REPEATS > 1 else [1], ids=lambda which: "batch-host" if which == 0 else "other-host")
def test_job_that_loses_a_host_goes_on_from_its_last_checkpoint_on_others(bed, workspace, undisturbed, which):
    bed.wait_idle()
    settings = settings_of(workspace, f"host-lost-{which}", LONG, save_steps=50, watchdog_step_seconds=600)  # Slurm shall notice
    job = submit(bed, settings)
    wait_for_step(bed, job, settings, 60)
    with held_still(settings):
        lost = job.hosts()[which]
        bed.host("lose", lost)
    try:
        job.wait_requeued(timeout=180)  # until Slurm notices
        saved, reached = small.checkpoints(settings["output_dir"])[-1], small.last_step(settings["output_dir"])
        assert 50 <= saved <= reached <= saved + 50, "more than the steps since the last checkpoint are lost"
        job.wait("RUNNING", "COMPLETED")
        assert lost not in job.hosts()
        job.wait("COMPLETED")
    finally:
        bed.host("start", lost)
    assert steps_made(settings) == [*range(1, reached + 1), *range(saved + 1, LONG + 1)]
    assert_like(undisturbed(settings, RANKS), settings)


def test_failed_starts_are_limited_and_requests_are_not(bed, workspace):
    """Asked to stop, then killed twice without a new checkpoint."""
    bed.wait_idle()
    settings = settings_of(workspace, "rank-killed", LONG, save_steps=LONG, watchdog_step_seconds=600)
    job = submit(bed, settings, env={"SFT_MAX_RESTARTS": "1"})
    for restarts in (1, 2, 3):
        wait_for_step(bed, job, settings, small.last_step(settings["output_dir"]) + 5)
        if restarts == 1:
            with held_still(settings) as held:
                bed.run("scancel", "--batch", "--signal=USR1", job.number)
                wait_until(lambda: job.ended() or has_been_asked(held), "the request", bed)
        else:
            os.kill(ranks_of(settings)[-1], signal.SIGKILL)
        if restarts < 3:
            job.wait_requeued(restarts)
    facts = job.wait("FAILED")
    assert facts["Restarts"] == "2" and facts["ExitCode"] == "137:0", facts
    assert "2 starts in a row failed without a new checkpoint: giving up" in output_of(settings)
    small.by_step(ours.read_log(settings["output_dir"]))


def test_job_with_a_wrong_option_is_not_started_again(bed, workspace):
    bed.wait_idle()
    settings = settings_of(workspace, "wrong", learning_rate=-1)
    job = submit(bed, settings)
    facts = job.wait("FAILED")
    assert facts["ExitCode"] == "92:0" and facts["Restarts"] == "0", facts
    assert "learning_rate" in output_of(settings)


def test_sweep_makes_a_run_of_each_line(bed, workspace, undisturbed, tmp_path):
    bed.wait_idle()
    settings = settings_of(workspace, "sweep")
    ini = small.write_ini(settings)
    (tmp_path / "sweep.txt").write_text("--learning_rate 0.001 --seed 42\n--learning_rate 0.01 --seed 7\n")
    job = bed.submit("--array=1-2", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={tmp_path}/%a.out",
                     TRAIN.with_name("sweep.sbatch"), ini, tmp_path / "sweep.txt", tmp_path / "runs")
    wait_until(lambda: not bed.run("squeue", "-h", "-j", job.number, check=False).stdout.strip(), "the end of the sweep", bed)
    logs = [ours.read_log(tmp_path / "runs" / line) for line in ("1", "2")]
    assert all("summary" in [entry["event"] for entry in log] for log in logs), [(tmp_path / f"{n}.out").read_text() for n in (1, 2)]
    assert small.by_step(logs[0]) == small.by_step(undisturbed(settings, 2).log)
    assert small.by_step(logs[0]) != small.by_step(logs[1])


def test_training_waits_for_the_job_that_prepares_its_data(bed, workspace, tmp_path):
    bed.wait_idle()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in workspace.texts))
    settings = settings_of(workspace, "prepared", train_file=tmp_path / "rows.jsonl", train_dataset=tmp_path / "train.h5")
    ini = small.write_ini(settings)
    prepare = bed.submit("--cpus-per-task=1", f"--output={tmp_path}/prepare.out", TRAIN.with_name("prepare.sbatch"), ini)
    train = submit(bed, settings, f"--dependency=afterok:{prepare.number}")
    assert train.state() == "PENDING"
    wait_until(prepare.ended, "the prepared data", bed)
    assert prepare.state() == "COMPLETED", (tmp_path / "prepare.out").read_text()
    train.wait("COMPLETED")
    assert small.last_step(settings["output_dir"]) == STEPS
