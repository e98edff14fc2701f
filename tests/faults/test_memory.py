"""Less memory than a run needs, by a control group, as a batch system sets it. Needs root."""

import os
import re
import shutil
import subprocess

import pytest

import small_run as small
from disturbed import processes_of
from parity import models, ours

RANKS = 2
MB = 10**6


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def large_model(workspace):
    model = models.write_model(workspace.folder / "large", small.CONFIG | {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 4})
    for file in workspace.model.glob("*token*"):
        shutil.copy(file, model)
    return model


@pytest.fixture(scope="module")
def need(large_model) -> int:
    """Bytes: weights in fp32, gradients and AdamW's two moments on each rank."""
    return RANKS * 4 * 4 * sum(weight.size for weight in ours.read_weights(large_model).values())


@pytest.fixture
def group(tmp_path):
    """A control group of memory in a mount of its own, of the version this machine has."""
    root = tmp_path / "groups"
    root.mkdir()
    version_1 = any(line.split()[0] == "memory" and line.split()[1] != "0" for line in open("/proc/cgroups") if not line.startswith("#"))
    kind = ["cgroup", "-o", "memory"] if version_1 else ["cgroup2"]
    subprocess.run(["mount", "-t", *kind, "none", root], check=True)
    group = root / f"sft-test-{os.getpid()}"
    try:
        if not version_1:
            (root / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        yield group
        small.wait_for(lambda: not (group / "cgroup.procs").read_text(), "the end of the job's processes")
        group.rmdir()
    finally:
        subprocess.run(["umount", root], check=True)


def run_within(group, limit: int, settings, command=ours.command) -> subprocess.CompletedProcess:
    """The whole job in the group."""
    for name, value in [("memory.max", limit), ("memory.swap.max", 0), ("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", limit)]:
        if (group / name).exists():
            (group / name).write_text(str(value))
    command = ["sh", "-c", f'echo $$ >"{group}/cgroup.procs"; exec "$@"', "sh", *map(str, command(small.write_ini(settings), RANKS))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, stdin=subprocess.DEVNULL,
                          env=ours.environment({"SFT_DIST": str(ours.program())}))
    small.wait_for(lambda: not processes_of(settings), "the end of all ranks", timeout=20)
    return done


def test_less_than_the_model_takes_is_refused_before_it_is_touched(workspace, large_model, need, group):
    settings = workspace.settings("refused", model_name_or_path=large_model)
    limit = need // MB * 9 // 10
    done = run_within(group, limit * MB, settings)
    said = " ".join(done.stdout.split())
    assert done.returncode == 90, done.stdout
    said_need = re.search(rf"not enough memory: control group {group} on \S+ gives 2 ranks (\d+) MB, and (\d+) MB are needed .*--mem", said)
    assert said_need and int(said_need[1]) == pytest.approx(limit, abs=1) and int(said_need[2]) == pytest.approx(need / MB, abs=1), done.stdout
    assert "Killed" not in done.stdout and "signal 9" not in done.stdout
    assert not (settings["output_dir"] / "trainer_log.jsonl").exists()


def test_the_doctor_says_so_before_the_run(workspace, large_model, need, group):
    settings = workspace.settings("examined", model_name_or_path=large_model)
    launched = [ours.SOURCE_DIR / "launch" / "sft-run", "--doctor", "--oversubscribe", "-n"]
    examined = {limit: run_within(group, limit, settings, lambda ini, ranks: [*launched, ranks, "--args", ini]).stdout
                for limit in (4 * need, need * 9 // 10)}
    assert re.search(rf"memory +TO DO +control group {group} on \S+ gives 2 ranks .* before activations: .*--mem", examined[need * 9 // 10])
    assert re.search(rf"memory +ok +.*{need // MB} MB before activations, of \d+ MB \(control group {group}\)", examined[4 * need], re.DOTALL)


def test_enough_is_not_refused(workspace, large_model, need, group):
    settings = workspace.settings("enough", model_name_or_path=large_model, max_steps=2, save_strategy="no")
    done = run_within(group, 4 * need, settings)
    assert done.returncode == 0, done.stdout


def test_a_rank_that_the_kernel_kills_for_what_comes_on_top_ends_all(workspace, large_model, need, group):
    """What the libraries take, and activations, is not foreseen."""
    settings = workspace.settings("killed", model_name_or_path=large_model, max_steps=100000, save_strategy="no")
    launched = [ours.SOURCE_DIR / "launch" / "run", "--oversubscribe", "-n"]
    done = run_within(group, need + 20 * MB, settings, lambda ini, ranks: [*launched, ranks, "--args", ini])
    assert done.returncode == 137 and "want of memory" in done.stdout, done.stdout
    assert "not enough memory" not in done.stdout
