"""Several hosts without a scheduler, on the test bed of cluster/testbed: launch/sft-run --doctor finds what is wrong with an allocation;
a run survives what happens to the network.

SFT_REPEATS above 1 (the `full` label) adds the loss of a whole host.
"""

import os
import time

import pytest

import small_run as small
from disturbed import Undisturbed, assert_like, output_of, ranks_of, steps_made
from parity import ours
from testbed import SRUN, wait_until

REPEATS = int(os.environ.get("SFT_REPEATS", "1"))
SFT_RUN = ours.SOURCE_DIR / "launch" / "sft-run"
LONG = 200  # steps: enough to be met in the middle


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def undisturbed(workspace) -> Undisturbed:
    return Undisturbed(workspace.folder)


# launch/sft-run --doctor


class Mounted:
    """Something else than on the other hosts, for one host."""

    def __init__(self, bed, host: str, place, *options):
        self.bed, self.host, self.place, self.options = bed, host, place, options

    def __enter__(self):
        self.bed.run("mount", *self.options, self.place, on=self.host)

    def __exit__(self, *_):
        self.bed.run("umount", self.place, on=self.host)


def examine(bed, settings, *options, hosts=("h1", "h2", "h3"), check=False):
    where = ",".join(f"{host}:1" for host in hosts)
    return bed.run(SFT_RUN, "--doctor", *options, "-n", len(hosts), "-H", where, "--args", small.write_ini(settings), on="h1", check=check)


def table(output: str) -> dict[str, str]:
    """Check -> "ok" or "TO DO"."""
    lines = [(line[:16].strip(), line[16:23].strip()) for line in output.splitlines()]
    return {check: verdict for check, verdict in lines if verdict in ("ok", "TO DO")}


def rows(output: str) -> dict[str, str]:
    """Without the network: how fast it is the load of this machine decides."""
    return {check: verdict for check, verdict in table(output).items() if check != "network"}


def code(output: str, otherwise: int = 0) -> int:
    """What the doctor ends with: the code of the first check that is not ok; the network's is before most."""
    return 92 if table(output).get("network") == "TO DO" else otherwise


CHECKS = {"hosts", "program", "model and data", "device", "cores", "memory", "limits", "clocks", "output_dir", "free space"}


def test_nothing_is_wrong(bed, workspace):
    done = examine(bed, workspace.settings("fine"))
    assert done.returncode == code(done.stdout), done.stdout
    assert rows(done.stdout) == dict.fromkeys(CHECKS | {"reachable"}, "ok"), done.stdout
    assert "3 ranks on h1 (1), h2 (1), h3 (1)" in done.stdout and "between hosts: 3 pairs" in done.stdout


def test_the_same_under_srun(bed, workspace):
    ini = small.write_ini(workspace.settings("fine-srun"))
    done = bed.run(*SRUN, "-N3", "-n3", ours.program(), "doctor", "--args", ini, check=False)
    assert done.returncode == code(done.stdout), done.stdout
    assert rows(done.stdout) == dict.fromkeys(CHECKS, "ok"), done.stdout


def test_a_host_with_another_data_set_is_named(bed, workspace):
    other = workspace.write_data("other", rows=workspace.rows[:-1])
    with Mounted(bed, "h2", workspace.train, "--bind", other):
        done = examine(bed, workspace.settings("other-data"))
    assert done.returncode == 88, done.stdout
    assert rows(done.stdout) == dict.fromkeys(CHECKS | {"reachable"}, "ok") | {"model and data": "TO DO"}, done.stdout
    assert f"h2: {workspace.train} differs from that of h1" in done.stdout


def test_a_host_without_the_shared_folder_is_named(bed, workspace):
    settings = workspace.settings("unshared")
    settings["output_dir"].mkdir()
    with Mounted(bed, "h3", settings["output_dir"], "-t", "tmpfs", "tmpfs"):
        done = examine(bed, settings)
    assert done.returncode == code(done.stdout, otherwise=91), done.stdout
    assert rows(done.stdout)["output_dir"] == "TO DO" and "h3 does not see what h1 wrote there" in done.stdout


def test_too_little_space_is_seen(bed, workspace):
    settings = workspace.settings("small-disk")
    settings["output_dir"].mkdir()
    with Mounted(bed, "h1", settings["output_dir"], "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        done = examine(bed, settings, hosts=["h1"])
    assert done.returncode == 91 and rows(done.stdout)["free space"] == "TO DO", done.stdout


def test_a_host_that_cannot_be_reached_is_named(bed, workspace):
    bed.host("cut", "h3")
    try:
        done = examine(bed, workspace.settings("cut"), "--doctor-seconds", "20")
    finally:
        bed.host("mend", "h3")
    assert done.returncode == 86, done.stdout
    assert rows(done.stdout) == {"reachable": "TO DO"} and "TO DO  h3: " in done.stdout, done.stdout
    assert "h2: " not in done.stdout


@pytest.mark.parametrize("on_h3, seconds, expected, named", [
    ("exec sleep 100", 3, {"reachable": "TO DO"}, "h3: no answer within 3 s"),
    ('[ "$1" = --version ] || exit 86', 40, {"reachable": "ok", "together": "TO DO"}, "h1 and h3 do not come up within 40 s")],
                         ids=["silent", "mute"])
def test_a_host_that_does_not_answer_is_named(bed, workspace, tmp_path, on_h3, seconds, expected, named):
    """A stand-in for the program, which starts nowhere by itself, or not together with other ranks, on h3."""
    program = tmp_path / "sft-dist"
    program.write_text(f'#!/bin/sh\nif [ "$(hostname)" = h3 ]; then {on_h3}; fi\nsleep 0.2\n')
    program.chmod(0o755)
    ini = small.write_ini(workspace.settings("no-answer"))
    done = bed.run(SFT_RUN, "--doctor", "--doctor-seconds", str(seconds), "-n", "3", "-H", "h1:1,h2:1,h3:1", "--args", ini, on="h1", check=False, timeout=150,
                   env={"SFT_DIST": str(program)})
    assert done.returncode == 86 and rows(done.stdout) == expected and named in done.stdout, done.stdout
    assert "h1 and h2" not in done.stdout


# Runs


def wait_for_step(bed, process, settings, step) -> None:
    wait_until(lambda: small.last_step(settings["output_dir"]) >= step or process.poll() is not None, f"step {step}", bed)
    assert process.poll() is None, output_of(settings)


def long_settings(workspace, output, **more) -> dict:
    return workspace.settings(output, per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=LONG, save_steps=10,
                              save_total_limit=2) | more


@pytest.mark.parametrize("fault, end", [("cut", "mend"), ("lose", "start")] if REPEATS > 1 else [("cut", "mend")])
def test_both_sides_of_a_partition_end_and_the_run_goes_on(bed, workspace, undisturbed, fault, end):
    """Rank 0, which writes the checkpoints, is on the side that is cut off from the supervisor."""
    settings = long_settings(workspace, f"partition-{fault}", watchdog_start_seconds=10, watchdog_step_seconds=3, watchdog_checkpoint_seconds=6)
    with open(f"{settings['output_dir']}.out", "w+") as output:
        process = bed.start(SFT_RUN, "--hang-seconds", "8", "-n", "2", "-H", "h2:1,h1:1", "--args", small.write_ini(settings), on="h1",
                            output=output)
    wait_for_step(bed, process, settings, 15)
    before = set(ranks_of(settings))
    bed.host(fault, "h2")
    try:
        wait_until(lambda: "starting again in" in output_of(settings) or process.poll() is not None, "the end of the first start", bed)
        assert process.poll() is None, output_of(settings)
        wait_until(lambda: not before & set(ranks_of(settings)), "the end of both sides", bed)
    finally:
        bed.host(end, "h2")
    assert process.wait(120) == 0, output_of(settings)
    assert not ranks_of(settings)
    assert_like(undisturbed(settings, 2), settings)


def test_a_partition_under_srun_is_ended_by_the_watchdog_and_named(bed, workspace):
    """The shared folder is on the near side alone: h3 has something else there."""
    settings = long_settings(workspace, "partition-srun", max_steps=100000, save_steps=100000, watchdog_step_seconds=5)
    with open(f"{settings['output_dir']}.out", "w+") as output:
        process = bed.start(*SRUN, "-N3", "-n3", ours.program(), "--args", small.write_ini(settings), output=output)
    wait_for_step(bed, process, settings, 5)
    with Mounted(bed, "h3", settings["output_dir"], "-t", "tmpfs", "tmpfs"):
        bed.host("cut", "h3")
        try:
            assert process.wait(60) == 86, output_of(settings)
            wait_until(lambda: not ranks_of(settings), "the end of the far side", bed)
        finally:
            bed.host("mend", "h3")
    assert "rank 2 (h3) did not report" in output_of(settings), output_of(settings)


def test_a_short_loss_of_the_network_costs_nothing(bed, workspace, undisturbed):
    settings = long_settings(workspace, "flap")
    with open(f"{settings['output_dir']}.out", "w+") as output:
        process = bed.start("mpirun", "-np", "2", "--host", "h1:1,h2:1", ours.program(), "--args", small.write_ini(settings), on="h1", output=output)
    wait_for_step(bed, process, settings, 15)
    bed.host("cut", "h2")
    time.sleep(2)
    reached = small.last_step(settings["output_dir"])
    bed.host("mend", "h2")
    assert reached < LONG, "the run was over before the network was back"
    assert process.wait(90) == 0, output_of(settings)
    assert steps_made(settings) == list(range(1, LONG + 1))
    assert_like(undisturbed(settings, 2), settings)


def test_a_read_only_output_folder_is_refused_at_the_start(bed, workspace):
    folder = workspace.folder / "read-only"
    folder.mkdir()
    with Mounted(bed, "h1", folder, "-t", "tmpfs", "-o", "ro", "tmpfs"):
        done = bed.run(ours.program(), "--args", small.write_ini(workspace.settings("read-only-run")), "--output_dir", folder / "out", on="h1",
                       check=False)
    assert done.returncode == 91 and str(folder / "out") in done.stdout and "Read-only file system" in done.stdout, done.stdout
