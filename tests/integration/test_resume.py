"""Stopping and resuming: the same bits as an undisturbed run; other world sizes; signals."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import small_run as small
from parity import compare, models, ours


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("resume"))


def copy_checkpoint(run: ours.Run, step: int, to):
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run.output_dir / f"checkpoint-{step}", to / f"checkpoint-{step}")


@pytest.mark.parametrize("step", [4, 8, 12])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_resumed_run_has_the_same_bits(workspace, ranks, step):
    whole = workspace.undisturbed(ranks)
    settings = workspace.six_rows(ranks, f"resumed-{ranks}-{step}", resume_from_checkpoint=True)
    copy_checkpoint(whole, step, settings["output_dir"])
    run = ours.run(settings, ranks)
    expected = {s: value for s, value in small.by_step(whole.log).items() if s > step}
    assert small.by_step(run.log) == expected
    for later in (s for s in (8, 12, 16, 20) if s > step):
        small.assert_same_state(whole.output_dir / f"checkpoint-{later}", run.output_dir / f"checkpoint-{later}")
    small.assert_same_weights(whole.output_dir, run.output_dir)
    assert run.summary["train_loss"].hex() == whole.summary["train_loss"].hex()


@pytest.mark.parametrize("bf16, recompute", [(True, False), (False, True)])
def test_resumed_run_has_the_same_bits_in_other_modes(workspace, bf16, recompute):
    more = {"bf16": bf16, "gradient_checkpointing": recompute, "max_steps": 10, "save_steps": 5}
    name = f"bf16-{bf16}-recompute-{recompute}"
    whole = ours.run(workspace.six_rows(2, f"whole-{name}", **more), 2)
    settings = workspace.six_rows(2, f"resumed-{name}", resume_from_checkpoint=True, **more)
    copy_checkpoint(whole, 5, settings["output_dir"])
    run = ours.run(settings, 2)
    small.assert_same_state(whole.output_dir / "checkpoint-10", run.output_dir / "checkpoint-10")


@pytest.mark.parametrize("optim, more", [("sgd", {}), ("sgd", {"optim_args": "momentum=0.9"}), ("lion_32bit", {}), ("adafactor", {}), ("schedule_free_adamw", {"optim_args": "r=1"}), ("adamw_8bit", {})])
def test_resumed_run_has_the_same_bits_with_other_optimizers(workspace, optim, more):
    settings, name = {"optim": optim, "max_steps": 8, "save_steps": 4, "warmup_steps": 0} | more, f"{optim}{len(more)}"
    whole = ours.run(workspace.six_rows(2, f"whole-{name}", **settings), 2)
    resumed = workspace.six_rows(2, f"resumed-{name}", resume_from_checkpoint=True, **settings)
    copy_checkpoint(whole, 4, resumed["output_dir"])
    run = ours.run(resumed, 2)
    assert small.by_step(run.log) == {s: value for s, value in small.by_step(whole.log).items() if s > 4}
    small.assert_same_state(whole.output_dir / "checkpoint-8", run.output_dir / "checkpoint-8")


def test_logging_window_goes_on_over_a_resume(workspace):
    """Steps 1-7 and 8-14 are logged as one entry each; the checkpoints lie inside."""
    more = {"logging_steps": 7, "max_steps": 14, "save_steps": 5, "learning_rate": 5e-3}
    whole = ours.run(workspace.six_rows(2, "whole-window", **more), 2)
    for step in (5, 10):
        settings = workspace.six_rows(2, f"resumed-window-{step}", resume_from_checkpoint=True, **more)
        copy_checkpoint(whole, step, settings["output_dir"])
        run = ours.run(settings, 2)
        assert small.by_step(run.log) == {s: value for s, value in small.by_step(whole.log).items() if s > step}
    entropies = {entry["step"]: entry["entropy"] for entry in whole.steps}
    assert sorted(entropies) == [7, 14] and entropies[7] != entropies[14]


def test_a_run_repeats_itself(workspace):
    again = ours.run(workspace.six_rows(2, "again-2"), 2)
    assert small.by_step(again.log) == small.by_step(workspace.undisturbed(2).log)
    small.assert_same_state(workspace.undisturbed(2).output_dir / "checkpoint-20", again.output_dir / "checkpoint-20")


@pytest.mark.parametrize("more", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_a_run_on_several_threads_repeats_itself(workspace, more):
    """Heads of 16 features, for which attention and its threads are our own; rows long enough for several blocks of each."""
    model = models.write_model(workspace.folder / f"threads-{len(more)}", small.CONFIG | {"head_dim": 16, "max_position_embeddings": 512})
    rows = [sum((workspace.rows[(i + j) % len(workspace.rows)] for j in range(8)), []) for i in range(12)]
    data = workspace.write_data(f"long-{len(more)}", rows=rows)
    settings = [workspace.settings(f"threads-{len(more)}-{take}", model_name_or_path=model, train_dataset=data, max_length=400, max_steps=6,
                                   threads_per_rank=2, save_steps=6, **more) for take in range(2)]
    first, second = (ours.run(setting) for setting in settings)
    assert small.by_step(first.log) == small.by_step(second.log)
    small.assert_same_state(first.output_dir / "checkpoint-6", second.output_dir / "checkpoint-6")


@pytest.mark.parametrize("ranks", [4, 8])
def test_more_ranks_than_cores(workspace, ranks):
    def run_on(number):
        return ours.run(workspace.settings(f"crowd-{ranks}-{number}", per_device_train_batch_size=1, gradient_accumulation_steps=8 // number,
                                           max_steps=3, save_steps=3), number)

    losses = [[entry["loss"] for entry in run_on(number).steps] for number in (1, ranks)]
    assert len(losses[1]) == 3 and losses[1] == pytest.approx(losses[0], abs=1e-5)


# Six rows a step, cut three ways: (per_device_train_batch_size, gradient_accumulation_steps, ranks).
CUTS = {"2x1x3": (2, 1, 3), "1x6x1": (1, 6, 1), "1x3x2": (1, 3, 2)}


@pytest.mark.parametrize("to", CUTS)
@pytest.mark.parametrize("step", [4, 12])
def test_resumes_at_another_world_size(workspace, step, to):
    """2 ranks x 3 rows, then other cuts of the same six rows: the next row, the same schedule, losses within rounding."""
    whole = workspace.undisturbed(2)
    batch, accumulation, ranks = CUTS[to]
    settings = workspace.settings(f"elastic-{to}-{step}", per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
                                  resume_from_checkpoint=True)
    copy_checkpoint(whole, step, settings["output_dir"])
    run = ours.run(settings, ranks)
    reference = [entry for entry in whole.steps if entry["step"] > step]
    compare.check(f"{to} from step {step}", compare.between(run.steps, run.weights(), reference, whole.weights()),
                  noise=compare.Difference(weights=dict.fromkeys(whole.weights(), 0.0)),
                  bounds=compare.Bounds(loss=1e-5, grad_norm=2e-5, learning_rate=0.0, weights=1e-5))
    assert [e["num_tokens"] for e in run.steps] == [e["num_tokens"] for e in reference], "other rows were read"
    assert [e["epoch"] for e in run.steps] == pytest.approx([e["epoch"] for e in reference], abs=0.15)


@pytest.mark.parametrize("ranks", [1, 3])
def test_state_is_exact_at_load_at_another_world_size(workspace, ranks):
    """Stopped before its first step, a run saves what it loaded: the same weights and moments, byte for byte, whoever holds them."""
    whole = workspace.undisturbed(2)
    settings = workspace.six_rows(ranks, f"reload-{ranks}", resume_from_checkpoint=whole.output_dir / "checkpoint-12")
    settings["output_dir"].mkdir()
    (settings["output_dir"] / "stop").touch()
    ours.run(settings, ranks)
    assert small.checkpoints(settings["output_dir"]) == [12]
    small.assert_same_state(whole.output_dir / "checkpoint-12", settings["output_dir"] / "checkpoint-12")


def test_another_global_batch_is_refused_with_the_values_that_keep_it(workspace):
    settings = workspace.settings("other-batch", per_device_train_batch_size=4, gradient_accumulation_steps=1, resume_from_checkpoint=True)
    copy_checkpoint(workspace.undisturbed(2), 4, settings["output_dir"])
    refused = ours.run(settings, 1, check=False)
    assert refused.returncode == 92
    assert "global batch" in refused.output and "6" in refused.output
    accepted = ours.run(settings | {"allow_batch_change": True}, 1)
    assert accepted.steps[0]["step"] == 5


def test_epochs_stay_what_they_are_with_another_global_batch(workspace):
    settings = workspace.settings("other-batch-epochs", per_device_train_batch_size=4, gradient_accumulation_steps=1, allow_batch_change=True,
                                  resume_from_checkpoint=True, max_steps=-1, num_train_epochs=2, save_strategy="no")
    copy_checkpoint(workspace.undisturbed(2), 4, settings["output_dir"])
    run = ours.run(settings, 1)
    rest = small.NUM_ROWS - 4 * 6  # of the first epoch, then a whole one
    assert run.steps[-1]["step"] == 4 + -(-rest // 4) + -(-small.NUM_ROWS // 4) and run.steps[-1]["epoch"] == 2
    assert run.steps[-1]["num_tokens"] == 2 * sum(min(len(row), small.MAX_LENGTH) for row in workspace.rows)
    last = run.steps[-1]["step"]
    for step, code in ((last, 0), (last + 1, 92)):
        inspected = subprocess.run([ours.program(), "inspect-step", "--args", small.write_ini(settings), "--step", str(step), "--ranks", "1"], capture_output=True, text=True)
        assert inspected.returncode == code and (f"step {last} of {last}," if code == 0 else f"this run has the steps 1 to {last}") in inspected.stdout + inspected.stderr


def test_going_back_leaves_the_later_course(workspace):
    settings = workspace.six_rows(2, "back", max_steps=6, save_steps=100, resume_from_checkpoint=workspace.folder / "back" / "checkpoint-4")
    for step in (4, 8, 12):
        source = workspace.undisturbed(2).output_dir / f"checkpoint-{step}"
        shutil.copytree(source, settings["output_dir"] / source.name)
    run = ours.run(settings, 2)
    assert [entry["step"] for entry in run.steps] == [5, 6]
    assert small.checkpoints(run.output_dir) == [4, 6]
    for step in (8, 12):
        assert (run.output_dir / f"abandoned-checkpoint-{step}").is_dir()
        assert f"renamed to abandoned-checkpoint-{step}" in " ".join(run.output.split())
    again = ours.run(settings | {"max_steps": 7, "resume_from_checkpoint": True}, 2)
    assert [entry["step"] for entry in again.log if entry["event"] == "train"][-1] == 7 and "checkpoint-6" in again.output


@pytest.mark.parametrize("way", ["checkpoint-8/", "latest", "abandoned-checkpoint-8"])
def test_a_checkpoint_of_its_own_by_another_name(workspace, way):
    settings = workspace.six_rows(2, f"named-{len(way)}", max_steps=9, save_steps=100)
    for step in (4, 8, 12):
        source = workspace.undisturbed(2).output_dir / f"checkpoint-{step}"
        shutil.copytree(source, settings["output_dir"] / source.name)
    if way == "latest":
        (settings["output_dir"] / way).symlink_to("checkpoint-8")
    if way.startswith("abandoned"):
        (settings["output_dir"] / "checkpoint-8").rename(settings["output_dir"] / way)
    run = ours.run(settings | {"resume_from_checkpoint": f"{settings['output_dir']}/{way}"}, 2)
    expected = [4, 9] if way.startswith("abandoned") else [4, 8, 9]
    assert run.steps[0]["step"] == 9 and small.checkpoints(run.output_dir) == expected
    assert (run.output_dir / "abandoned-checkpoint-12").is_dir()


def test_a_checkpoint_is_not_held_open(workspace):
    """save_total_limit gives its bytes back to the disk while the run goes on."""
    settings = workspace.six_rows(2, "let-go", max_steps=100_000, save_steps=8, save_total_limit=1, resume_from_checkpoint=True)
    copy_checkpoint(workspace.undisturbed(2), 8, settings["output_dir"])
    process = small.start(settings, 2)
    try:
        small.wait_for(lambda: small.checkpoints(settings["output_dir"]) and 8 not in small.checkpoints(settings["output_dir"]), "another checkpoint", process)
        for rank in small.ranks_of(process):
            held = []
            for link in Path(f"/proc/{rank}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    held.append(os.readlink(link))
            assert not [path for path in held if "checkpoint-8/" in path and ".safetensors" in path], held
    finally:
        small.kill_everything(process)


def test_a_stop_before_the_first_step_writes_nothing(workspace):
    """Supervisors count a start that made no checkpoint; the one it began with does not count as made."""
    settings = workspace.six_rows(2, "at-once", max_steps=20, resume_from_checkpoint=True, max_run_minutes=1e-6)
    copy_checkpoint(workspace.undisturbed(2), 8, settings["output_dir"])
    manifest = settings["output_dir"] / "checkpoint-8" / "state" / "MANIFEST.json"
    before = manifest.stat()
    run = ours.run(settings, 2, check=False)
    assert run.returncode == 85 and "leaving after step 8" in run.output, run.output[-2000:]
    after = manifest.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns) and not run.events("checkpoint")
    assert small.checkpoints(run.output_dir) == [8]


def test_checkpoints_of_another_run_are_not_taken_for_its_own(workspace):
    """It goes on from a folder elsewhere, in an output_dir with checkpoints of an earlier experiment."""
    settings = workspace.six_rows(2, "elsewhere", max_steps=9, save_steps=9, resume_from_checkpoint=workspace.undisturbed(2).output_dir / "checkpoint-8")
    copy_checkpoint(workspace.undisturbed(2), 4, settings["output_dir"])
    run = ours.run(settings, 2)
    assert run.steps[0]["step"] == 9 and small.checkpoints(run.output_dir) == [9]
    assert "checkpoint-4 is not of this run: renamed to abandoned-checkpoint-4" in " ".join(run.output.split())


def test_a_checkpoint_that_cannot_be_gone_on_from_is_passed_over(workspace):
    """Of the model alone, made after one that holds all."""
    settings = workspace.six_rows(1, "model-alone", save_only_model=True, save_steps=4, max_steps=12)
    ours.run(settings, 1)
    for step in (4, 12):
        shutil.rmtree(settings["output_dir"] / f"checkpoint-{step}")
    shutil.copytree(workspace.undisturbed(1).output_dir / "checkpoint-4", settings["output_dir"] / "checkpoint-4")
    run = ours.run(settings | {"resume_from_checkpoint": True}, 1)
    assert "checkpoint-8 is skipped: it holds no optimizer state" in " ".join(run.output.split())
    assert [entry["step"] for entry in run.steps][-8:] == list(range(5, 13))


def test_nothing_is_overwritten_by_a_run_that_cannot_start(workspace):
    settings = workspace.six_rows(1, "kept", overwrite_output_dir=True)
    copy_checkpoint(workspace.undisturbed(1), 8, settings["output_dir"])
    wrong = {"metric_for_best_model": "bleu", "eval_dataset": workspace.eval, "eval_strategy": "steps", "eval_steps": 4, "load_best_model_at_end": True,
             "save_steps": 4}
    run = ours.run(settings | wrong, 1, check=False)
    assert run.returncode == 92 and small.checkpoints(settings["output_dir"]) == [8]


def test_checkpoints_of_which_none_verifies_are_not_trained_over(workspace):
    settings = workspace.six_rows(1, "none-verifies", resume_from_checkpoint=True, save_total_limit=1)
    copy_checkpoint(workspace.undisturbed(2), 8, settings["output_dir"])
    flip_bit(settings["output_dir"] / "checkpoint-8" / "config.json")
    run = ours.run(settings, 1, check=False)
    assert run.returncode == 89 and "none of them can be used" in " ".join(run.output.split())
    assert small.checkpoints(run.output_dir) == [8]


def test_global_batch_size_gives_the_accumulation(workspace):
    settings = workspace.settings("global-batch", per_device_train_batch_size=2, gradient_accumulation_steps=1, global_batch_size=6,
                                  resume_from_checkpoint=True, max_steps=6)
    copy_checkpoint(workspace.undisturbed(2), 4, settings["output_dir"])
    run = ours.run(settings, 3)
    reference = [entry for entry in workspace.undisturbed(2).steps if 4 < entry["step"] <= 6]
    assert [e["num_tokens"] for e in run.steps] == [e["num_tokens"] for e in reference]


@pytest.mark.parametrize("ranks, number", [(1, signal.SIGUSR1), (1, signal.SIGTERM), (2, signal.SIGUSR1), (3, signal.SIGUSR1)])
def test_stop_signal_saves_and_asks_to_be_run_again(workspace, ranks, number):
    """Sent to one rank only: all must agree on the step they stop after."""
    more = {"save_steps": 100000, "lr_scheduler_type": "constant_with_warmup"}
    name = f"signal-{ranks}-{number.name}"
    # More steps than can be made before the signal: a run that is over before would prove nothing.
    settings = workspace.six_rows(ranks, name, resume_from_checkpoint=True, max_steps=100000, **more)
    process = small.start(settings, ranks)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 5, "step 5", process)
        os.kill(small.ranks_of(process)[-1], number)
        code = process.wait(60)
    finally:
        small.kill_everything(process)
    output = open(f"{settings['output_dir']}.out").read()
    assert code == 85, output
    stopped = small.last_step(settings["output_dir"])
    assert stopped >= 5
    assert small.checkpoints(settings["output_dir"]) == [stopped]

    # Resumed for ten more steps, it goes on as if nothing had been.
    last = stopped + 10
    whole = ours.run(workspace.six_rows(ranks, f"{name}-whole", max_steps=last, **more), ranks)
    run = ours.run(settings | {"max_steps": last}, ranks)
    assert small.by_step(run.log) == small.by_step(whole.log)
    small.assert_same_weights(whole.output_dir, run.output_dir)


def test_signal_to_mpirun_reaches_the_ranks(workspace):
    settings = workspace.six_rows(2, "signal-mpirun", max_steps=100000, save_steps=100000)
    process = small.start(settings, 2)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 3, "step 3", process)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 85, open(f"{settings['output_dir']}.out").read()
    finally:
        small.kill_everything(process)
    assert small.checkpoints(settings["output_dir"]) == [small.last_step(settings["output_dir"])]


def test_newest_checkpoint_that_verifies_is_taken(workspace):
    settings = workspace.six_rows(2, "newest", resume_from_checkpoint=True)
    for step in (4, 8, 12):
        source = workspace.undisturbed(2).output_dir / f"checkpoint-{step}"
        shutil.copytree(source, settings["output_dir"] / source.name)
    flip_bit(next(iter(sorted((settings["output_dir"] / "checkpoint-12").glob("*.safetensors")))))
    victim = sorted((settings["output_dir"] / "checkpoint-8" / "state").glob("optimizer*.safetensors"))[-1]
    victim.unlink()
    run = ours.run(settings, 2)
    assert run.steps[0]["step"] == 5
    assert "checkpoint-12" in run.output and "checkpoint-8" in run.output and victim.name in run.output
    small.assert_same_weights(workspace.undisturbed(2).output_dir, run.output_dir)


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["bit", "missing", "truncated", "manifest"])
def test_damaged_checkpoint_is_refused(workspace, damage):
    settings = workspace.six_rows(2, f"damaged-{damage}", resume_from_checkpoint=workspace.folder / f"damaged-{damage}" / "checkpoint-8")
    copy_checkpoint(workspace.undisturbed(2), 8, settings["output_dir"])
    folder = settings["output_dir"] / "checkpoint-8"
    victim = sorted((folder / "state").glob("optimizer*.safetensors"))[0]
    if damage == "bit":
        flip_bit(victim)
    elif damage == "missing":
        victim.unlink()
    elif damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-8])
    else:
        victim = folder / "state" / "MANIFEST.json"
        flip_bit(victim)
    run = ours.run(settings, 2, check=False)
    assert run.returncode == 89, run.output
    assert victim.name in run.output and "checkpoint-8" in run.output
    verify = subprocess.run([str(ours.program()), "verify", str(folder)], capture_output=True, text=True)
    assert verify.returncode == 89 and victim.name in verify.stdout + verify.stderr


def test_without_a_checkpoint_it_starts_afresh_with_a_notice(workspace):
    run = ours.run(workspace.six_rows(1, "afresh", resume_from_checkpoint=True, max_steps=2))
    assert [s["step"] for s in run.steps] == [1, 2]
    assert "no checkpoint" in run.output


def test_save_total_limit_keeps_the_newest(workspace):
    run = ours.run(workspace.six_rows(2, "limit", save_total_limit=2, max_steps=10, save_steps=2), 2)
    assert small.checkpoints(run.output_dir) == [8, 10]
