"""Several hosts and Slurm: the same numbers whatever starts the ranks and wherever they run.

On the test bed of cluster/testbed: real Slurm and Open MPI on three hosts that share this machine.
"""

import pytest

import small_run as small
from parity import ours

RANKS = 4
STEPS = 12


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("slurm"))


def settings_of(workspace, output, steps=STEPS, **more) -> dict:
    return workspace.settings(output, per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=steps,
                              save_steps=steps // 2) | more


@pytest.fixture(scope="module")
def undisturbed(workspace):
    """undisturbed(ranks, steps, **more): the same run by mpirun on this machine, without the bed."""
    done = {}

    def run(ranks: int, steps: int = STEPS, **more) -> ours.Run:
        key = (ranks, steps, *sorted(more.items()))
        if key not in done:
            done[key] = ours.run(settings_of(workspace, f"whole-{len(done)}", steps, **more), ranks)
        return done[key]

    return run


def assert_same_run(output_dir, whole: ours.Run, step: int) -> None:
    """Bit for bit: every loss, gradient norm and learning rate, the weights, the optimizer's state."""
    assert small.by_step(small.read_complete_lines(output_dir)) == small.by_step(whole.log)
    small.assert_same_weights(whole.output_dir, output_dir)
    small.assert_same_state(whole.output_dir / f"checkpoint-{step}", output_dir / f"checkpoint-{step}")


@pytest.mark.parametrize("hosts, tasks", [(3, RANKS), (2, RANKS)])
def test_srun_over_several_hosts_computes_what_mpirun_does_on_one(bed, workspace, undisturbed, hosts, tasks):
    settings = settings_of(workspace, f"srun-{hosts}")
    bed.run("srun", "--mpi=pmix", "--kill-on-bad-exit=1", "-N", hosts, "-n", tasks, ours.program(), "--args", small.write_ini(settings))
    assert_same_run(settings["output_dir"], undisturbed(tasks), STEPS)


# Slots per host.
@pytest.mark.parametrize("slots", [{"h2": 4}, {"h1": 2, "h2": 2}, {"h1": 2, "h2": 1, "h3": 1}, {"h3": 1, "h1": 3}], ids=str)
def test_mpirun_over_several_hosts_computes_what_it_does_on_one(bed, workspace, undisturbed, slots):
    settings = settings_of(workspace, "mpirun-" + "-".join(f"{host}{number}" for host, number in slots.items()))
    where = ",".join(f"{host}:{number}" for host, number in slots.items())
    bed.run("mpirun", "-np", RANKS, "--host", where, ours.program(), "--args", small.write_ini(settings), on="h1")
    assert_same_run(settings["output_dir"], undisturbed(RANKS), STEPS)
