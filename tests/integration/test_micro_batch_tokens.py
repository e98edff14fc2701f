"""micro_batch_tokens: the same training whatever the cut, on any number of ranks, packed or grouped by length; resumed bit for bit."""

import shutil

import pytest

import small_run as small
from parity import compare, ours

# A rank's six, three or two rows of a step have up to 32 tokens each.
TOKENS = 40
EVALUATION = {"eval_strategy": "steps", "eval_steps": 3}
ORDERS = {
    "plain": {},
    "packed": {"packing": True, "shuffle_dataset": True},
    "grouped": {"group_by_length": True},
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("tokens"))


def settings_at(workspace, ranks, output, **more):
    return workspace.six_rows(ranks, output, eval_dataset=workspace.eval, **{"max_steps": 9, "save_strategy": "no"} | EVALUATION | more)


@pytest.mark.parametrize("order, ranks", [("plain", 1), ("plain", 2), ("plain", 3), ("packed", 2), ("grouped", 2)])
def test_trains_as_if_cut_by_rows(workspace, order, ranks):
    rows = ours.run(settings_at(workspace, ranks, f"rows-{order}-{ranks}", **ORDERS[order]), ranks)
    tokens = ours.run(settings_at(workspace, ranks, f"tokens-{order}-{ranks}", micro_batch_tokens=TOKENS, **ORDERS[order]), ranks)
    assert "micro-batches of up to 40 tokens" in " ".join(tokens.output.split())
    for key in ("num_tokens", "epoch", "learning_rate"):
        assert [e[key] for e in tokens.steps] == [e[key] for e in rows.steps], key
    for key in ("entropy", "mean_token_accuracy"):
        assert [e[key] for e in tokens.steps] == pytest.approx([e[key] for e in rows.steps], rel=1e-3), key
    weights = rows.weights()
    compare.check(f"{order} on {ranks} ranks", compare.between(tokens.steps, tokens.weights(), rows.steps, weights),
                  noise=compare.Difference(weights=dict.fromkeys(weights, 0.0)),
                  bounds=compare.Bounds(loss=1e-5, grad_norm=2e-5, learning_rate=0.0, weights=1e-5))
    assert len(rows.evaluations) == 3
    assert [e["eval_loss"] for e in tokens.evaluations] == pytest.approx([e["eval_loss"] for e in rows.evaluations], rel=1e-5)


def test_resumed_run_has_the_same_bits(workspace):
    more = {"micro_batch_tokens": TOKENS, "save_strategy": "steps", "save_steps": 3}
    whole = ours.run(settings_at(workspace, 2, "whole", **more), 2)
    settings = settings_at(workspace, 2, "resumed", resume_from_checkpoint=True, **more)
    shutil.copytree(whole.output_dir / "checkpoint-3", settings["output_dir"] / "checkpoint-3")
    run = ours.run(settings, 2)
    assert small.by_step(run.log) == {step: value for step, value in small.by_step(whole.log).items() if step > 3}
    small.assert_same_state(whole.output_dir / "checkpoint-9", run.output_dir / "checkpoint-9")
    assert "micro_batch_tokens" not in run.output, "a warning about a value that did not change"

    otherwise = ours.run(settings | {"output_dir": workspace.folder / "otherwise", "micro_batch_tokens": 90, "max_steps": 4, "save_strategy": "no",
                                     "resume_from_checkpoint": whole.output_dir / "checkpoint-3"}, 2)
    assert "micro_batch_tokens was 40 in the checkpoint and is 90 now" in " ".join(otherwise.output.split())
    assert otherwise.steps[0]["num_tokens"] == run.steps[0]["num_tokens"]
    assert otherwise.steps[0]["loss"] == pytest.approx(run.steps[0]["loss"], rel=1e-5)
