"""The best evaluation: what is kept, loaded at the end, resumed, and when a run stops early."""

import json
import shutil

import pytest

import small_run as small
from parity import ours


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    workspace = small.Workspace(tmp_path_factory.mktemp("best"))
    workspace.few = workspace.write_data("few", rows=workspace.rows[9:21], prepare={"part": "train"})
    return workspace


def settings_of(workspace, output, **more):
    """Twelve rows learnt by heart: the loss on other rows falls, then rises."""
    return workspace.settings(output, train_dataset=workspace.few, eval_dataset=workspace.eval, max_steps=48, learning_rate=5e-3, warmup_steps=0,
                              lr_scheduler_type="constant", eval_strategy="steps", eval_steps=4, save_steps=4,
                              load_best_model_at_end=True, **more)


@pytest.fixture(scope="module")
def whole(workspace) -> ours.Run:
    run = ours.run(settings_of(workspace, "whole"), 2)
    losses = [e["eval_loss"] for e in run.evaluations]
    assert losses.index(min(losses)) < len(losses) - 3, f"the evaluation never gets worse: {losses}"
    return run


def best_of(run: ours.Run) -> tuple[int, float]:
    entry = min(run.evaluations, key=lambda e: e["eval_loss"])
    return entry["step"], entry["eval_loss"]


def state_of(folder) -> dict:
    return json.loads((folder / "trainer_state.json").read_text())


def assert_ends_with_best(run: ours.Run, step: int, loss: float) -> None:
    state = state_of(run.output_dir)
    assert (state["best_global_step"], state["best_metric"]) == (step, loss)
    assert state["best_model_checkpoint"] == str(run.output_dir / f"checkpoint-{step}")
    small.assert_same_weights(run.output_dir, run.output_dir / f"checkpoint-{step}")
    (event,) = run.events("best_model")
    assert (event["best_step"], event["value"]) == (step, loss)


def first_stop(run: ours.Run, patience: int, threshold: float = 0.0) -> int:
    """transformers' EarlyStoppingCallback over the run's evaluations."""
    best, counter = None, 0
    for entry in run.evaluations:
        value = entry["eval_loss"]
        counter = 0 if best is None or (value < best and abs(value - best) > threshold) else counter + 1
        best = value if best is None else min(best, value)
        if counter >= patience:
            return entry["step"]
    raise AssertionError("it would never stop")


def test_the_final_model_is_the_best_one(whole):
    assert_ends_with_best(whole, *best_of(whole))
    last = whole.output_dir / "checkpoint-48"
    assert ours.read_weights(last)["model.norm.weight"].tobytes() != whole.weights()["model.norm.weight"].tobytes()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_limit_keeps_best_and_newest(workspace, whole, limit):
    run = ours.run(settings_of(workspace, f"limit-{limit}", save_total_limit=limit), 2)
    step, loss = best_of(whole)
    assert_ends_with_best(run, step, loss)
    # With a limit of 1 the best one alone is left in the end.
    assert small.checkpoints(run.output_dir) == {1: [step], 2: [step, 48], 3: [step, 44, 48]}[limit]


def test_stops_early_with_code_0(workspace, whole):
    run = ours.run(settings_of(workspace, "early", early_stopping_patience=2), 2)
    stop = first_stop(whole, 2)
    assert stop < 48 and run.steps[-1]["step"] == stop
    assert "stopping early" in run.output and "early_stopping_patience = 2" in run.output
    assert small.by_step(run.log) == {s: v for s, v in small.by_step(whole.log).items() if s <= stop}
    assert_ends_with_best(run, *best_of(run))
    state = state_of(run.output_dir / f"checkpoint-{stop}")
    assert state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"] == 2

    # The counter is resumed: from the evaluation before, one more is enough. And a run that has stopped stays stopped.
    settings = settings_of(workspace, "early-resumed", early_stopping_patience=2, resume_from_checkpoint=True)
    for step in {best_of(run)[0], stop - 4}:
        shutil.copytree(run.output_dir / f"checkpoint-{step}", settings["output_dir"] / f"checkpoint-{step}")
    resumed = ours.run(settings, 2)
    assert [s["step"] for s in resumed.steps] == list(range(stop - 3, stop + 1))
    assert_ends_with_best(resumed, *best_of(run))
    again = ours.run(settings, 2)
    assert len(again.steps) == len(resumed.steps), "it went on"
    small.assert_same_weights(again.output_dir, run.output_dir)


def test_the_epoch_in_which_a_run_stops_early_is_logged(workspace):
    """As transformers' on_epoch_end after the loop was left."""
    run = ours.run(workspace.settings("early-epoch", eval_dataset=workspace.eval, eval_strategy="steps", eval_steps=4, load_best_model_at_end=True,
                                      early_stopping_patience=2, early_stopping_threshold=1e9, logging_strategy="epoch"))
    losses = {entry["step"]: entry["loss"] for entry in workspace.undisturbed(1).steps}
    assert [entry["step"] for entry in run.steps] == [8, 12] and run.steps[-1]["epoch"] % 1 != 0
    assert run.steps[-1]["loss"] == pytest.approx(sum(losses[step] for step in range(9, 13)) / 4, rel=1e-12)


def test_threshold_makes_small_gains_none(workspace, whole):
    gains = [a["eval_loss"] - b["eval_loss"] for a, b in zip(whole.evaluations, whole.evaluations[1:])]
    threshold = 1.01 * max(gains)
    run = ours.run(settings_of(workspace, "threshold", early_stopping_patience=2, early_stopping_threshold=threshold), 2)
    assert run.steps[-1]["step"] == first_stop(whole, 2, threshold) == 12


def test_a_best_checkpoint_that_was_removed_is_said(workspace, whole):
    settings = settings_of(workspace, "lost", resume_from_checkpoint=True, save_total_limit=1)
    shutil.copytree(whole.output_dir / "checkpoint-44", settings["output_dir"] / "checkpoint-44")
    run = ours.run(settings, 2)
    assert f"checkpoint-{best_of(whole)[0]}, is not in output_dir" in " ".join(run.output.split())
    small.assert_same_weights(run.output_dir, run.output_dir / "checkpoint-48")


def test_a_best_checkpoint_that_is_damaged_costs_nothing_else(workspace, whole):
    settings, best = settings_of(workspace, "damaged", resume_from_checkpoint=True, save_total_limit=1), best_of(whole)[0]
    for step in (best, 44):
        shutil.copytree(whole.output_dir / f"checkpoint-{step}", settings["output_dir"] / f"checkpoint-{step}")
    weights = settings["output_dir"] / f"checkpoint-{best}" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    run = ours.run(settings, 2)
    assert run.returncode == 0 and "the last weights stay" in " ".join(run.output.split())
    small.assert_same_weights(run.output_dir, run.output_dir / "checkpoint-48")


def test_patience_that_is_set_later_counts_from_there(workspace, whole):
    assert best_of(whole)[0] <= 32, "it would not have been used up"
    settings = settings_of(workspace, "patient-later", early_stopping_patience=2, resume_from_checkpoint=True)
    shutil.copytree(whole.output_dir / "checkpoint-40", settings["output_dir"] / "checkpoint-40")
    run = ours.run(settings, 2)
    assert [s["step"] for s in run.steps] == list(range(41, 49))
    again = ours.run(settings | {"early_stopping_patience": None, "max_steps": 48}, 2)
    assert "nothing is left to train: all 48 steps are done" in " ".join(again.output.split())


def test_saves_when_best_and_not_before_the_delay(workspace, whole):
    run = ours.run(settings_of(workspace, "when-best", save_strategy="best", eval_delay=8), 2)
    assert [e["step"] for e in run.evaluations] == list(range(8, 49, 4))
    best, steps = float("inf"), []
    for entry in whole.evaluations:
        if entry["step"] >= 8 and entry["eval_loss"] < best:
            best = entry["eval_loss"]
            steps.append(entry["step"])
    assert small.checkpoints(run.output_dir) == steps
    assert_ends_with_best(run, *best_of(whole))


def test_greater_may_be_better(workspace, whole):
    run = ours.run(settings_of(workspace, "worst", greater_is_better=True, metric_for_best_model="perplexity"), 2)
    worst = max(whole.evaluations, key=lambda e: e["eval_perplexity"])
    state = state_of(run.output_dir)
    assert (state["best_global_step"], state["best_metric"]) == (worst["step"], worst["eval_perplexity"])


def test_an_unknown_metric_is_refused_with_the_known_ones(workspace):
    run = ours.run(settings_of(workspace, "unknown", metric_for_best_model="bleu"), 2, check=False)
    assert run.returncode == 92 and "eval_bleu" in run.output and "eval_loss" in run.output
    assert not run.steps, "it was seen only after steps had been made"


def test_another_metric_starts_anew(workspace, whole):
    settings = settings_of(workspace, "other-metric", resume_from_checkpoint=True, metric_for_best_model="perplexity", greater_is_better=True)
    shutil.copytree(whole.output_dir / "checkpoint-40", settings["output_dir"] / "checkpoint-40")
    run = ours.run(settings, 2)
    worst = max((e for e in whole.evaluations if e["step"] > 40), key=lambda e: e["eval_perplexity"])
    state = state_of(run.output_dir)
    assert (state["best_global_step"], state["best_metric"]) == (worst["step"], worst["eval_perplexity"])
    assert "best_model was" in " ".join(run.output.split())
