"""The comparison itself, on made-up runs: what is within the bounds passes, and nothing else does."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from parity import compare

NUM_STEPS = 5


def entries():
    return [{"step": step, "loss": 4.0 / step, "grad_norm": 2.0 + step, "learning_rate": 1e-3 / step, "epoch": step / 5}
            for step in range(1, NUM_STEPS + 1)]


def tensors():
    random = np.random.RandomState(0)
    return {"embed.weight": random.randn(8, 4).astype(np.float32), "norm.weight": random.randn(4).astype(np.float32)}


def write_ours(folder, steps=None, weights=None):
    folder.mkdir()
    lines = [{"event": "resumed", "step": 0}, *({"event": "train"} | entry for entry in steps or entries()),
             {"event": "eval", "step": 5, "eval_loss": 1.0}]
    (folder / "trainer_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_file(weights or tensors(), folder / "model.safetensors")
    return folder


@pytest.fixture(params=["result.json", "trainer_state.json"])
def trl(request, tmp_path):
    folder = tmp_path / "trl"
    folder.mkdir()
    history = [*entries(), {"step": 5, "eval_loss": 1.0}, {"step": 5, "train_loss": 2.0}]
    (folder / request.param).write_text(json.dumps({"log_history": history}))
    weights = tensors()
    for index, (name, value) in enumerate(weights.items(), 1):
        save_file({name: value}, folder / f"model-{index:05}-of-00002.safetensors")
    weight_map = {name: f"model-{index:05}-of-00002.safetensors" for index, name in enumerate(weights, 1)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_equal_runs_do_not_differ(tmp_path, trl):
    difference = compare.compare_runs(write_ours(tmp_path / "ours"), trl)
    assert (difference.loss, difference.grad_norm, difference.learning_rate) == (0, 0, 0)
    assert difference.weights == {"embed.weight": 0, "norm.weight": 0}


def test_differences_are_the_largest_ones(tmp_path, trl):
    steps, weights = entries(), tensors()
    steps[0]["loss"] += 2e-5     # of 4.0: relative, so 5e-6
    steps[4]["loss"] -= 4e-6     # of 0.8: absolute
    steps[2]["grad_norm"] *= 1 + 1e-5
    steps[3]["learning_rate"] += 5e-10
    weights["embed.weight"] = weights["embed.weight"] * np.float32(1 + 5e-5)
    difference = compare.compare_runs(write_ours(tmp_path / "ours", steps, weights), trl)
    assert difference.loss == pytest.approx(5e-6)
    assert difference.grad_norm == pytest.approx(1e-5)
    assert difference.learning_rate == pytest.approx(5e-10)
    assert difference.weights["embed.weight"] == pytest.approx(5e-5, rel=1e-2)
    assert difference.weights["norm.weight"] == 0


@pytest.mark.parametrize("key, change", [("loss", 1.1e-5), ("grad_norm", 1.5e-4), ("learning_rate", 1.1e-9),
                                         ("loss", float("nan")), ("grad_norm", float("inf"))])
def test_a_step_beyond_the_bounds_fails(tmp_path, trl, key, change):
    steps = entries()
    steps[4][key] += change
    with pytest.raises(AssertionError, match=key):
        compare.compare_runs(write_ours(tmp_path / "ours", steps), trl)


def test_a_non_finite_value_in_our_spelling_fails(tmp_path, trl):
    steps = entries()
    steps[1]["loss"] = "NaN"
    with pytest.raises(AssertionError, match="step 2: loss"):
        compare.compare_runs(write_ours(tmp_path / "ours", steps), trl)


def test_a_tensor_beyond_the_bounds_fails(tmp_path, trl):
    weights = tensors()
    weights["norm.weight"] = weights["norm.weight"] * np.float32(1.0002)
    ours = write_ours(tmp_path / "ours", weights=weights)
    with pytest.raises(AssertionError, match="norm.weight"):
        compare.compare_runs(ours, trl)
    assert compare.compare_runs(ours, trl, compare.Bounds(weights=1e-3)).weights["norm.weight"] == pytest.approx(2e-4, rel=1e-2)


def test_other_steps_or_tensors_fail(tmp_path, trl):
    with pytest.raises(AssertionError, match="other steps"):
        compare.compare_runs(write_ours(tmp_path / "short", entries()[:4]), trl)
    with pytest.raises(AssertionError, match="other tensors"):
        compare.compare_runs(write_ours(tmp_path / "fewer", weights={"norm.weight": tensors()["norm.weight"]}), trl)
    with pytest.raises(AssertionError, match="0 steps"):
        empty = write_ours(tmp_path / "empty")
        (empty / "trainer_log.jsonl").unlink()
        compare.compare_runs(empty, trl)


def test_noise_of_the_reference_widens_a_bound():
    ours = compare.Difference(loss=1e-4, weights={"w": 1e-3})
    compare.check("noisy", ours, compare.Difference(loss=1e-5, weights={"w": 1e-4}))
    with pytest.raises(AssertionError, match="w differs"):
        compare.check("quiet weights", ours, compare.Difference(loss=1e-5, weights={"w": 1e-5}))


def test_command_line(tmp_path, trl):
    steps = entries()
    steps[0]["loss"] += 1.0
    for folder, status, text in [(write_ours(tmp_path / "same"), 0, "loss 0 "), (write_ours(tmp_path / "other", steps), 1, "loss differs")]:
        result = subprocess.run([sys.executable, compare.__file__, folder, trl], capture_output=True, text=True, timeout=60)
        assert (result.returncode, text in result.stdout) == (status, True), result.stdout + result.stderr
