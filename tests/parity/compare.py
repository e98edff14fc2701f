"""How far two runs are from one another, and how far they may be.

    python tests/parity/compare.py OURS_DIR TRL_DIR
"""

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Difference:
    loss: float = 0.0            # largest |a - b| / max(1, |b|) over the steps
    grad_norm: float = 0.0       # largest |a - b| / |b|
    learning_rate: float = 0.0   # largest |a - b|
    weights: dict[str, float] = field(default_factory=dict)  # per tensor: |a - b| / |b|, Euclidean
    where: str = ""


def between(steps, weights, reference_steps, reference_weights) -> Difference:
    assert [s["step"] for s in steps] == [s["step"] for s in reference_steps], (
        f"other steps were logged: {[s['step'] for s in steps]} and {[s['step'] for s in reference_steps]}")
    result = Difference()
    for a, b in zip(steps, reference_steps):
        for key in ("loss", "grad_norm", "learning_rate"):
            # max() would drop a NaN.
            assert all(isinstance(s[key], (int, float)) and math.isfinite(s[key]) for s in (a, b)), (
                f"step {a['step']}: {key} is {a[key]!r} and {b[key]!r}")
        loss = abs(a["loss"] - b["loss"]) / max(1.0, abs(b["loss"]))
        if loss > result.loss:
            result.where = f"step {a['step']}: loss {a['loss']!r} and {b['loss']!r}"
        result.loss = max(result.loss, loss)
        result.grad_norm = max(result.grad_norm, abs(a["grad_norm"] - b["grad_norm"]) / abs(b["grad_norm"]))
        result.learning_rate = max(result.learning_rate, abs(a["learning_rate"] - b["learning_rate"]))
    result.weights = weight_differences(weights, reference_weights)
    return result


def weight_differences(weights: dict, reference: dict) -> dict[str, float]:
    assert sorted(weights) == sorted(reference), f"other tensors: {sorted(set(weights) ^ set(reference))}"
    result = {}
    for name, expected in reference.items():
        assert weights[name].shape == expected.shape, f"{name}: {weights[name].shape} and {expected.shape}"
        result[name] = float(np.linalg.norm(weights[name].astype(np.float64) - expected) / np.linalg.norm(expected.astype(np.float64)))
    return result


@dataclass
class Bounds:
    loss: float = 1e-5
    grad_norm: float = 2e-5
    learning_rate: float = 1e-9
    weights: float = 1e-4


def check(name: str, ours: Difference, noise: Difference, bounds: Bounds = Bounds(), noise_factor: float = 20) -> None:
    """noise: what two runs of the reference differ by; a bound is at least `noise_factor` times that."""
    problems = []

    def one(what, value, bound, noise_value):
        allowed = max(bound, noise_factor * noise_value)
        if not value <= allowed:
            problems.append(f"{what} differs by {value:.3g}, allowed {allowed:.3g}")

    one("loss", ours.loss, bounds.loss, noise.loss)
    one("grad_norm", ours.grad_norm, bounds.grad_norm, noise.grad_norm)
    one("learning_rate", ours.learning_rate, bounds.learning_rate, 0.0)
    for tensor, value in ours.weights.items():
        one(tensor, value, bounds.weights, noise.weights[tensor])
    assert not problems, f"{name}: " + "; ".join(problems[:8]) + f" ({len(problems)} in all). {ours.where}"


def trl_log(folder: Path) -> list[dict]:
    """log_history as trl_run.py (result.json) or transformers (trainer_state.json) leaves it."""
    for name in ("result.json", "trainer_state.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_text())["log_history"]
    raise FileNotFoundError(f"{folder} has neither result.json nor trainer_state.json")


def compare_runs(ours_dir, trl_dir, bounds: Bounds = Bounds()) -> Difference:
    """Our output_dir against a folder with TRL's log_history and model, both with logging_steps = 1. AssertionError beyond the bounds."""
    from parity import ours

    ours_dir, trl_dir = Path(ours_dir), Path(trl_dir)
    steps = [entry for entry in ours.read_log(ours_dir) if entry.get("event") == "train"]
    reference = [entry for entry in trl_log(trl_dir) if "loss" in entry]
    assert steps and reference, f"{len(steps)} steps in {ours_dir}, {len(reference)} in {trl_dir}"
    difference = between(steps, ours.read_weights(ours_dir), reference, ours.read_weights(trl_dir))
    check(ours_dir.name, difference, Difference(weights=dict.fromkeys(difference.weights, 0.0)), bounds)
    return difference


def main() -> int:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    try:
        difference = compare_runs(*sys.argv[1:3])
    except AssertionError as problem:
        print(problem)
        return 1
    tensor, weights = max(difference.weights.items(), key=lambda item: item[1])
    print(f"loss {difference.loss:.3g}  grad_norm {difference.grad_norm:.3g}  learning_rate {difference.learning_rate:.3g}  "
          f"weights {weights:.3g} ({tensor})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
