"""Packed runs: resumed in the middle of an epoch, at another world size; what the options change; where a step's time goes."""

import math
import shutil

import pytest

import small_run as small
from parity import compare, ours


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("packing"))


ORDERS = {
    "bfd": {"packing": True, "shuffle_dataset": True},
    "grouped": {"group_by_length": True},
    "wrapped": {"packing": True, "packing_strategy": "wrapped", "packing_scope": "dataset", "max_length": 24},
}


@pytest.mark.parametrize("order", ORDERS)
def test_resumes_in_the_middle_of_an_epoch(workspace, order):
    more = ORDERS[order] | {"max_steps": 8, "save_steps": 2}
    whole = ours.run(workspace.six_rows(2, f"whole-{order}", **more), 2)
    assert whole.steps[1]["epoch"] % 1 != 0, "step 2 is not inside an epoch"
    for ranks in (2, 3):
        settings = workspace.six_rows(ranks, f"resumed-{order}-{ranks}", resume_from_checkpoint=True, **more)
        shutil.copytree(whole.output_dir / "checkpoint-2", settings["output_dir"] / "checkpoint-2")
        run = ours.run(settings, ranks)
        reference = whole.steps[2:]
        assert [e["num_tokens"] for e in run.steps] == [e["num_tokens"] for e in reference], "other rows were read"
        if ranks == 2:
            assert small.by_step(run.log) == {s: v for s, v in small.by_step(whole.log).items() if s > 2}
            small.assert_same_state(whole.output_dir / "checkpoint-8", run.output_dir / "checkpoint-8")
        else:
            compare.check(f"{order} on {ranks} ranks", compare.between(run.steps, run.weights(), reference, whole.weights()),
                          noise=compare.Difference(weights=dict.fromkeys(whole.weights(), 0.0)),
                          bounds=compare.Bounds(loss=1e-5, grad_norm=2e-5, learning_rate=0.0, weights=1e-5))


def test_other_packing_is_another_run(workspace):
    settings = workspace.six_rows(1, "other", packing=True, max_steps=2, save_steps=2)
    ours.run(settings)
    for change in ({"packing_strategy": "bfd_split"}, {"packing_scope": "dataset"}, {"packing": False}):
        refused = ours.run(settings | {"resume_from_checkpoint": True, "max_steps": 4} | change, check=False)
        # Where the number of rows changes too, that is what is named first.
        assert refused.returncode == 92 and ("packing" in refused.output or "num_rows" in refused.output), refused.output


def test_an_epoch_has_every_token_and_the_table_says_how_full_rows_are(workspace):
    tokens = sum(map(len, workspace.rows))
    more = {"packing": True, "packing_strategy": "wrapped", "num_train_epochs": 1, "max_steps": -1, "save_strategy": "no"}
    run = ours.run(workspace.six_rows(1, "epoch", eval_dataset=workspace.eval, eval_strategy="epoch", **more))
    num_rows = math.ceil(tokens / small.MAX_LENGTH)
    assert run.steps[-1]["num_tokens"] == tokens
    assert len(run.steps) == math.ceil(num_rows / 6)
    table = " ".join(run.output.split())  # lines are wrapped
    assert f"{len(workspace.rows)} documents packed (wrapped), {100 * tokens / (num_rows * small.MAX_LENGTH):.1f} % of max_length filled" in table
    # The evaluation set is packed with it, or not, as asked; the rows differ, so does their number.
    eval_tokens = sum(map(len, workspace.rows[:9]))
    assert f"{math.ceil(eval_tokens / small.MAX_LENGTH)} rows, {eval_tokens} tokens" in table
    apart = ours.run(workspace.six_rows(1, "epoch-apart", eval_dataset=workspace.eval, eval_strategy="epoch", eval_packing=False, **more))
    assert "9 rows, " in " ".join(apart.output.split())
    assert apart.evaluations[0]["eval_loss"] != run.evaluations[0]["eval_loss"]


def test_evaluation_may_be_packed_alone(workspace):
    """Its documents do not see one another, and a document's first token is no target: the mean over all targets is the same."""
    more = {"eval_dataset": workspace.eval, "eval_strategy": "steps", "eval_steps": 1, "max_length": 64, "max_steps": 1, "save_strategy": "no"}
    plain, packed = (ours.run(workspace.six_rows(1, f"eval-packing-{packing}", eval_packing=packing, **more)) for packing in (False, True))
    table = " ".join(packed.output.split())
    assert "9 documents packed (bfd)" in table and " 46 rows, " in table and "9 documents packed" not in plain.output
    assert packed.evaluations[0]["eval_loss"] == pytest.approx(plain.evaluations[0]["eval_loss"], abs=1e-5)


@pytest.mark.parametrize("scope, num_rows", [("batch", 1100), ("dataset", 1000)])
def test_scope_of_packing(workspace, scope, num_rows):
    """1000 documents of 20 tokens, which are too long for two of them to share 32, then 200 of 12, of which each could join one of those."""
    rows = workspace.write_data("short", rows=[[5] * 20] * 1000 + [[5] * 12] * 200, prepare={"part": "train"})
    run = ours.run(workspace.six_rows(1, f"scope-{scope}", train_dataset=rows, packing=True, packing_scope=scope, max_steps=1, save_strategy="no"))
    table = " ".join(run.output.split())
    assert f"{num_rows} rows, 22400 tokens; 1200 documents packed (bfd), {100 * 22400 / (num_rows * 32):.1f} % of max_length filled" in table


def test_no_phase_of_a_step_is_counted_twice(workspace):
    settings = workspace.six_rows(2, "timing", max_steps=6, save_steps=3, eval_dataset=workspace.eval, eval_strategy="steps", eval_steps=2,
                           gradient_checkpointing=True)
    timings = ours.run(settings, 2).events("timing")
    assert sum(entry["steps"] for entry in timings) == 6 and len(timings) >= 6
    for entry in timings:
        phases = {key: value for key, value in entry.items() if key not in ("event", "step", "time", "steps", "seconds", "other")}
        assert {"data", "forward", "backward", "optimizer"} <= set(phases), phases
        assert all(value >= 0 for value in phases.values())
        assert sum(phases.values()) + entry["other"] == pytest.approx(entry["seconds"], abs=1e-9)
        assert entry["other"] >= -1e-3, f"phases add up to more than the step: {entry}"
