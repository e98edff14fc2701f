"""Faults of ranks on one machine: at the start, by signals, of memory, of the clock.

SFT_REPEATS sets how often what is left to chance is repeated (1; the `full` label: 20).
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

import small_run as small
from disturbed import Undisturbed, assert_like, output_of, processes_of
from parity import models, ours

REPEATS = int(os.environ.get("SFT_REPEATS", "1"))
SHIMS = ours.BUILD_DIR / "tests" / "faults"
RANKS = 2
SHORT, LONG = 120, 400  # steps; LONG: to be met in the middle


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("one-host"))


def settings_of(workspace, output, steps, **more) -> dict:
    return workspace.settings(output, per_device_train_batch_size=1, max_steps=steps, resume_from_checkpoint=True) | more


@pytest.fixture(scope="module")
def undisturbed(workspace) -> Undisturbed:
    return Undisturbed(workspace.folder)


def run_with(settings, ranks, prefix=(), more=(), env=None, timeout=90) -> subprocess.CompletedProcess:
    """The run with `prefix` in front of the program; must end by itself."""
    command = ours.command(small.write_ini(settings), ranks)
    at = command.index(str(ours.program()))
    return subprocess.run([*command[:at], *map(str, prefix), *command[at:], *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=timeout, env=ours.environment(env), stdin=subprocess.DEVNULL)


def rank_1(command: str) -> list[str]:
    """A prefix: rank 1 does this first."""
    return ["sh", "-c", f'[ "$OMPI_COMM_WORLD_RANK" != 1 ] || {{ {command}; }}; exec "$@"', "sh"]


def assert_all_ended(settings) -> None:
    """mpirun kills its ranks and does not wait for them."""
    small.wait_for(lambda: not processes_of(settings), "the end of all ranks", timeout=20)


# At the start. A rank that hangs there: tests/integration/test_hang.py.


@pytest.mark.parametrize("ranks", [2, 3] if REPEATS > 1 else [3])
def test_rank_killed_before_mpi_starts(workspace, ranks):
    settings = settings_of(workspace, f"killed-before-{ranks}", 100000)
    done = run_with(settings, ranks, rank_1("kill -9 $$"))
    assert_all_ended(settings)
    assert done.returncode == 137, done.stdout


@pytest.mark.parametrize("when", [*(f"{random.Random(seed).uniform(0, 0.3):.3f}" for seed in range(REPEATS)), "broadcast"])
def test_rank_killed_while_mpi_starts(workspace, when):
    settings = settings_of(workspace, f"killed-{when}", 100000)
    done = run_with(settings, RANKS, env={"LD_PRELOAD": str(SHIMS / "libstart_shim.so"), "SFT_FAULT": f"kill:{when}", "SFT_FAULT_RANK": "1"})
    assert_all_ended(settings)
    assert done.returncode not in (0, 86), done.stdout


def test_rank_that_leaves_with_success_before_mpi_starts(workspace):
    """The others would wait for ever: the watchdog ends them. Its limit must come from the command line: files are read later."""
    settings = settings_of(workspace, "left", 100000)
    done = run_with(settings, RANKS, rank_1("exit 0"), more=["--watchdog_start_seconds", "2"])
    assert_all_ended(settings)
    assert done.returncode == 86, done.stdout
    assert "a rank may not have started" in done.stdout


# In the middle. A rank that is stopped: tests/integration/test_hang.py.


@pytest.mark.parametrize("how", ["spin", "sleep"])
def test_rank_that_does_not_come_on_is_named_with_its_stack(workspace, how):
    settings = settings_of(workspace, f"stuck-{how}", 100000, save_steps=100000, watchdog_step_seconds=3)
    done = run_with(settings, 3, env={"LD_PRELOAD": str(SHIMS / "libstuck_shim.so"), "SFT_STUCK": how, "SFT_STUCK_AFTER": "400", "SFT_FAULT_RANK": "1"})
    assert_all_ended(settings)
    assert done.returncode == 86, done.stdout
    assert re.search(r"rank 1 \(\S+\) is behind: section step, .*outside of any collective", done.stdout), done.stdout
    reports = {path.name: path.read_text() for path in settings["output_dir"].glob("diagnostics/hang-*/rank-*.json")}
    assert set(reports) == {"rank-0.json", "rank-1.json", "rank-2.json"}
    assert "sft_test_stuck" in reports["rank-1.json"] and "sft::engine::Engine::" in reports["rank-1.json"], reports["rank-1.json"]


def test_rank_that_leaves_with_success_in_the_middle_is_missed(workspace):
    settings = settings_of(workspace, "left", 100000, save_steps=100000, watchdog_step_seconds=60)
    done = run_with(settings, 3, env={"LD_PRELOAD": str(SHIMS / "libstuck_shim.so"), "SFT_STUCK": "exit0", "SFT_STUCK_AFTER": "400", "SFT_FAULT_RANK": "1"})
    assert_all_ended(settings)
    assert done.returncode != 0, done.stdout
    assert re.search(r"error: rank 1 \(\S+\) has ended, and the others with it|process rank 1 with", done.stdout), done.stdout  # whoever is first


# Signals. One that reaches a single rank, and SIGUSR1 to mpirun: tests/integration/test_resume.py.


def test_sigterm_to_mpirun_never_tears_a_checkpoint(workspace, undisturbed):
    """mpirun gives the ranks about a second."""
    settings = settings_of(workspace, "terminated", SHORT // 2 * (REPEATS + 1), save_steps=4, save_total_limit=3)
    chance = random.Random(14)
    for repeat in range(REPEATS):
        process, began = small.start(settings, RANKS), time.time()
        try:
            small.wait_for(lambda: small.last_time(settings["output_dir"]) > began, "a step", process)
            time.sleep(chance.uniform(0, 0.2))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) != 0, "the run was over before the signal"
        finally:
            small.kill_everything(process)
        for step in small.checkpoints(settings["output_dir"]):
            verified = subprocess.run([ours.program(), "verify", settings["output_dir"] / f"checkpoint-{step}"], capture_output=True, text=True)
            assert verified.returncode == 0, verified.stderr
    ours.run(settings, RANKS)
    assert_like(undisturbed(settings, RANKS), settings)


def saving(output_dir) -> bool:
    return any(".tmp" in entry.name for entry in output_dir.iterdir())


SIGNALS = {"several signals": (signal.SIGUSR1, signal.SIGTERM), "the same signal twice": (signal.SIGUSR1, signal.SIGUSR1), "during a save": (signal.SIGUSR1,)}


@pytest.mark.parametrize("case", SIGNALS)
def test_signals_lead_to_one_checkpoint_of_the_step_that_all_agree_on(workspace, undisturbed, case):
    settings = settings_of(workspace, case.replace(" ", "-"), LONG, save_steps=5 if case == "during a save" else LONG)
    process = small.start(settings, RANKS)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 10, "step 10", process)
        if case == "during a save":
            small.wait_for(lambda: saving(settings["output_dir"]), "a save", process)
        for number in SIGNALS[case]:
            for rank in small.ranks_of(process):
                with contextlib.suppress(ProcessLookupError):  # it has heard the one before
                    os.kill(rank, number)
        assert process.wait(60) == 85, output_of(settings)
    finally:
        small.kill_everything(process)
    stopped = small.last_step(settings["output_dir"])
    assert 10 <= stopped < LONG
    expected = {stopped, *range(5, stopped + 1, 5)} if case == "during a save" else {stopped}
    assert set(small.checkpoints(settings["output_dir"])) == expected and not saving(settings["output_dir"])
    ours.run(settings, RANKS)
    assert_like(undisturbed(settings, RANKS), settings)


# Memory


ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}  # threads that wait for one another have malloc map more


@pytest.fixture(scope="module")
def peak_address_space(workspace) -> int:
    """KiB of a rank that trains the small model."""
    settings = settings_of(workspace, "small-memory", 100000, save_steps=100000)
    process = small.start(settings, RANKS, env=ONE_ARENA)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 3, "step 3", process)
        return max(int(re.search(r"VmPeak:\s*(\d+)", small.Path(f"/proc/{rank}/status").read_text())[1]) for rank in small.ranks_of(process))
    finally:
        small.kill_everything(process)


# Percent of what a small run takes, seventy of which the libraries take before main(); which library is the first to want more is left
# to chance. Open MPI either says so itself or goes on
# without what it did not get and waits for ever, which the watchdog ends.
@pytest.mark.parametrize("share", range(73, 100, 2) if REPEATS > 1 else [80])
def test_no_rank_ends_unnamed_for_want_of_memory(workspace, peak_address_space, share):
    settings = settings_of(workspace, f"memory-{share}", 6)
    done = run_with(settings, RANKS, rank_1(f"ulimit -v {peak_address_space * share // 100}"), env=ONE_ARENA, more=["--watchdog_start_seconds", "15"])
    assert_all_ended(settings)
    named = done.returncode == 90 and re.search(r"error: (\[rank 1\b|rank 1: )", done.stdout)  # by itself, or by all after they agreed
    said = " ".join(done.stdout.split())
    by_mpi = ("An error occurred in MPI_Init_thread" in said or "A system call failed during shared memory initialization" in said
              or "PML ob1 cannot be selected" in said or (done.returncode == 86 and "no progress for" in said))
    assert done.returncode == 0 or named or by_mpi, (done.returncode, done.stdout)


def test_rank_without_enough_memory_ends_all_and_says_so(workspace, peak_address_space):
    """26 M parameters want 104 MB each for weights and gradients and 207 MB for AdamW; rank 1 may have what a small run takes."""
    model = models.write_model(workspace.folder / "large", small.CONFIG | {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 4})
    for file in workspace.model.glob("*token*"):
        shutil.copy(file, model)
    settings = settings_of(workspace, "memory", 100000, model_name_or_path=model)
    done = run_with(settings, RANKS, rank_1(f"ulimit -v {peak_address_space}"), env=ONE_ARENA)
    assert_all_ended(settings)
    assert done.returncode == 90, done.stdout
    assert re.search(r"rank 1\b.*(allocate|out of|no) memory", done.stdout), done.stdout
    if "DefaultCPUAllocator" not in done.stdout:  # a tensor of the model, not one of the first step
        assert re.search(r"\d+ MB more are needed.*ulimit -v.* is \d+ MB", done.stdout), done.stdout


# A checkpoint that is not this run's


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"intermediate_size": 40}], ids=str)
def test_checkpoint_of_another_model_is_refused(workspace, undisturbed, change):
    before = settings_of(workspace, "before", 4, save_steps=4)
    model = models.write_model(workspace.folder / f"other-{'-'.join(change)}", small.CONFIG | change)
    for file in workspace.model.glob("*token*"):
        shutil.copy(file, model)
    settings = settings_of(workspace, f"after-{'-'.join(change)}", 8, model_name_or_path=model,
                           resume_from_checkpoint=undisturbed(before, RANKS).output_dir / "checkpoint-4")
    done = run_with(settings, RANKS)
    assert done.returncode == 92 and "num_parameters was" in done.stdout, done.stdout
    assert small.last_step(settings["output_dir"]) == 0


# The clock


@pytest.mark.parametrize("shift, rank", [(3600, None), (-3600, "1")])
def test_a_clock_that_jumps_ends_nothing_and_changes_nothing(workspace, undisturbed, shift, rank):
    """Limits far shorter than the jump: of a step, of a save, of the whole run."""
    settings = settings_of(workspace, f"jump-{shift}", LONG, save_steps=100, watchdog_step_seconds=60, watchdog_checkpoint_seconds=120,
                           max_run_minutes=30)
    env = {"LD_PRELOAD": str(SHIMS / "libclock_shim.so"), "SFT_CLOCK_SHIFT": str(shift),
           "SFT_CLOCK_FROM": str(settings["output_dir"] / "checkpoint-100")}
    done = run_with(settings, RANKS, env=env | ({"SFT_CLOCK_RANK": rank} if rank else {}))
    assert done.returncode == 0, done.stdout
    if rank is None:  # rank 0, which writes the log, saw the jump in the middle
        times = [entry["time"] for entry in ours.read_log(settings["output_dir"]) if entry["event"] == "train"]
        assert times[-1] - times[0] > 3000
    ledger = [entry for entry in ours.read_log(settings["output_dir"]) if entry["event"] == "goodput"][-1]
    assert ledger["wall_seconds"] < abs(shift) / 2, "the ledger took the jump for time"
    assert_like(undisturbed(settings, RANKS), settings)
