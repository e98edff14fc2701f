"""Parameters under torch's optimizers, for tests/unit/optim/optimizer_test.cpp.

    python tests/golden/make_optimizers.py > tests/golden/optimizers.json

Start values and gradients follow `draw`, which the test repeats exactly: integers scaled by powers of two.
"""

import json
import sys

import torch

NUM_DECAYED, NUM_PLAIN, STEPS = 40, 29, 30
BASE = {"learning_rate": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.999], "epsilon": 1e-8, "max_grad_norm": 1.0}
CASES = [
    {"optim": "adamw_torch_fused"} | BASE,
    {"optim": "adamw_torch"} | BASE | {"weight_decay": 0.1, "max_grad_norm": 0.0},
    {"optim": "adamw_torch_fused"} | BASE | {"weight_decay": 0.1, "betas": [0.8, 0.95], "epsilon": 1e-6, "max_grad_norm": 0.25},
    {"optim": "adamw_torch_fused"} | BASE | {"weight_decay": 0.01, "betas": [0.3, 0.99], "learning_rate": 2e-2, "epsilon": 1e-3},
    {"optim": "sgd"} | BASE | {"learning_rate": 0.05},
    {"optim": "sgd"} | BASE | {"learning_rate": 0.05, "weight_decay": 0.1, "max_grad_norm": 0.25},
]


def draw(stream, count):
    """In [-1/2, 1/2) times 2^-(i mod 7), exact in float32."""
    values = []
    for i in range(count):
        bits = (stream * 2654435761 + i * 2246822519 + 374761393) % 2**32
        bits = ((bits ^ (bits >> 15)) * 2246822519) % 2**32
        bits = bits ^ (bits >> 13)
        values.append(((bits >> 8) * 2.0**-24 - 0.5) * 2.0 ** -(i % 7))
    return torch.tensor(values, dtype=torch.float32)


def run(case):
    count = NUM_DECAYED + NUM_PLAIN
    start = draw(0, count)
    decayed, plain = (torch.nn.Parameter(part.clone()) for part in start.split([NUM_DECAYED, NUM_PLAIN]))
    groups = [{"params": [decayed], "weight_decay": case["weight_decay"]}, {"params": [plain], "weight_decay": 0.0}]
    if case["optim"] == "sgd":
        optimizer = torch.optim.SGD(groups, lr=case["learning_rate"])
    else:
        optimizer = torch.optim.AdamW(groups, lr=case["learning_rate"], betas=tuple(case["betas"]), eps=case["epsilon"],
                                      fused=case["optim"] == "adamw_torch_fused")
    trajectory = []
    for step in range(STEPS):
        decayed.grad, plain.grad = (part.clone() for part in draw(step + 1, count).split([NUM_DECAYED, NUM_PLAIN]))
        if case["max_grad_norm"] > 0:
            torch.nn.utils.clip_grad_norm_([decayed, plain], case["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = case["learning_rate"] * (1 - step / STEPS)
        optimizer.step()
        if step in (0, 4, STEPS - 1):
            trajectory.append({"step": step + 1, "parameter": torch.cat([decayed, plain]).tolist()})
    result = case | {"trajectory": trajectory}
    if case["optim"] != "sgd":
        for name in ("exp_avg", "exp_avg_sq"):
            result[name] = torch.cat([optimizer.state[p][name] for p in (decayed, plain)]).tolist()
    return result


json.dump({"torch": torch.__version__, "num_decayed": NUM_DECAYED, "num_plain": NUM_PLAIN, "steps": STEPS,
           "cases": [run(case) for case in CASES]}, sys.stdout, separators=(",", ":"))
print()
