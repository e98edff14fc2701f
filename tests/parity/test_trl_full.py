"""Every model under every layout, live against TRL: too long for CI."""

import pytest

from parity import cases, compare, models

MATRIX = cases.matrix([(model, layout) for layout in cases.LAYOUTS for model in models.CONFIGS])
BF16 = [cases.bf16(model, layout) for model in models.CONFIGS for layout in ("8x1x1", "2x2x2")] + [
    cases.bf16(model, "8x1x1") for model in ("mixtral", "qwen2-moe")]
# Cut as 1x8x1, OPT's run agrees with TRL's to 1e-7 in every step (test_trl_parity.py holds it to 2e-5); cut as 8x1x1 other rounding puts a ReLU unit on
# the other side of its kink in step 6, and from then on the gradients of the two cuts differ by up to 5e-5.
KINK = compare.Bounds(grad_norm=1e-4)
LONG = [cases.long(model, "8x1x1", KINK if model.startswith("opt") else compare.Bounds()) for model in models.CONFIGS]
RECOMPUTED = [cases.recomputed(model, "2x2x2") for model in models.CONFIGS]
CASES = cases.all_twice([*MATRIX, *BF16, *LONG, *RECOMPUTED])


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> cases.Workspace:
    return cases.Workspace(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def trl(workspace):
    return workspace.run_trl(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_follows_trl(workspace, trl, case):
    cases.check_case(workspace, case, trl[case.name])
