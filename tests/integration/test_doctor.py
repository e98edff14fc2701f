"""`sft-dist doctor` and launch/sft-run --doctor on one machine. On several hosts: tests/faults/test_hosts.py."""

import os
import subprocess
import sys

import pytest

import small_run as small
from parity import ours

SFT_RUN = ours.SOURCE_DIR / "launch" / "sft-run"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("doctor"))


def examine(settings, ranks, *options, prefix=(), env=None):
    command = ours.command(small.write_ini(settings), ranks)
    at = command.index(str(ours.program()))
    return subprocess.run([*command[:at], *prefix, str(ours.program()), "doctor", *command[at + 1:], *options], capture_output=True, text=True,
                          timeout=120, env=ours.environment(env), stdin=subprocess.DEVNULL)


def rank_1(command: str) -> list[str]:
    """A prefix: rank 1 does this first."""
    return ["sh", "-c", f'[ "$OMPI_COMM_WORLD_RANK" != 1 ] || {{ {command}; }}; exec "$@"', "sh"]


def to_do(output: str, but: tuple = ("limits", "network")) -> list[str]:
    """Without `but`: what is the machine's and its load's."""
    found = [line[:16].strip() for line in output.splitlines() if line[16:23] == "TO DO  "]
    return [name for name in found if name not in but]


def verdict(output: str) -> int:
    return 92 if to_do(output, but=()) else 0


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
def test_an_allocation_without_fault(workspace, ranks):
    """But for cores, where the machine has fewer than ranks."""
    done = examine(workspace.settings(f"fine-{ranks}"), ranks)
    enough = len(os.sched_getaffinity(0)) >= ranks
    assert done.returncode == verdict(done.stdout), done.stdout + done.stderr
    assert to_do(done.stdout) == ([] if enough else ["cores"]), done.stdout
    assert ("between" in done.stdout) is False and ("within hosts:" in done.stdout) == (ranks > 1)
    assert not small.checkpoints(workspace.folder / f"fine-{ranks}")


def test_more_threads_than_cores_are_counted(workspace):
    cores = len(os.sched_getaffinity(0))
    done = examine(workspace.settings("threads"), 2, "--threads_per_rank", str(cores))
    assert done.returncode == 92 and to_do(done.stdout) == ["cores"], done.stdout
    assert f"ranks 0, 1: {2 * cores} threads on" in done.stdout


def test_inputs_are_opened_as_the_run_does(workspace):
    done = examine(workspace.settings("absent", train_dataset=workspace.folder / "absent.h5"), 2)
    assert done.returncode == 89 and to_do(done.stdout) == ["model and data"], done.stdout
    assert "absent.h5 does not exist" in done.stdout


def test_low_limits_are_named(workspace):
    done = examine(workspace.settings("limits"), 2, prefix=rank_1("ulimit -n 200"))
    assert done.returncode == 92 and to_do(done.stdout, but=("network",)) == ["limits"] and "200 open files are allowed" in done.stdout, done.stdout


def test_a_wrong_clock_is_measured(workspace):
    shim = ours.BUILD_DIR / "tests" / "faults" / "libclock_shim.so"
    done = examine(workspace.settings("clock"), 2, env={"LD_PRELOAD": str(shim), "SFT_CLOCK_RANK": "1", "SFT_CLOCK_SHIFT": "-90"})
    assert done.returncode == 92 and to_do(done.stdout) == ["clocks"], done.stdout
    assert "its clock is 90 s behind that of" in done.stdout


def test_a_folder_in_use_is_named(workspace):
    settings = workspace.settings("busy", max_steps=100000, save_strategy="no")
    process = small.start(settings, 1)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 1, "step 1", process)
        done = examine(settings, 1)
        assert done.returncode == 91 and to_do(done.stdout) == ["output_dir"], done.stdout
    finally:
        small.kill_everything(process)


def test_options_are_checked_first(workspace):
    done = examine(workspace.settings("wrong", learning_rate=-1), 2)
    assert done.returncode == 92 and "learning_rate" in done.stderr and not done.stdout, done.stdout


@pytest.mark.parametrize("options, code, fragment", [
    ([], None, "free space      ok"), (["--doctor-seconds", "x"], 92, "numbers are expected"), (["--max_steps", "none"], 92, "max_steps"),
    (["--hostfile", "absent"], 92, "cannot be listed")])
def test_sft_run_starts_it(workspace, options, code, fragment):
    command = [sys.executable, SFT_RUN, "--doctor", *options, "-n", "2", "--oversubscribe", "--args", small.write_ini(workspace.settings("run"))]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
                          env=ours.environment({"SFT_DIST": str(ours.program())}))
    expected = verdict(done.stdout) if code is None else code
    assert done.returncode == expected and fragment in done.stdout + done.stderr, done.stdout + done.stderr
