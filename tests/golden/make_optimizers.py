"""Parameters under the optimizers transformers makes, for tests/unit/optim/optimizer_test.cpp.

    python tests/golden/make_optimizers.py > tests/golden/optimizers.json      (also needs: pip install bitsandbytes schedulefree)

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
    {"optim": "sgd", "optim_args": {"momentum": 0.9}} | BASE | {"learning_rate": 0.05, "weight_decay": 0.1},
    {"optim": "sgd", "optim_args": {"momentum": 0.8, "dampening": 0.3}} | BASE | {"learning_rate": 0.05},
    {"optim": "sgd", "optim_args": {"momentum": 0.9, "nesterov": True}} | BASE | {"learning_rate": 0.05, "weight_decay": 0.1},
    {"optim": "lion_32bit"} | BASE | {"weight_decay": 0.1},
    {"optim": "lion_32bit"} | BASE | {"betas": [0.8, 0.95], "max_grad_norm": 0.25},
    {"optim": "schedule_free_adamw"} | BASE | {"weight_decay": 0.1, "warmup_steps": 4},
    {"optim": "schedule_free_adamw", "optim_args": {"r": 1.5, "weight_lr_power": 1.0}} | BASE | {"betas": [0.8, 0.95], "max_grad_norm": 0.25},
    {"optim": "adafactor"} | BASE | {"weight_decay": 0.1},
    {"optim": "adafactor", "decayed_shape": [2, 4, 5]} | BASE | {"learning_rate": 2e-2, "max_grad_norm": 0.25},
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


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors]).tolist()


def make(case, groups):
    lr, betas = case["learning_rate"], tuple(case["betas"])
    if case["optim"] == "sgd":
        return torch.optim.SGD(groups, lr=lr, **case.get("optim_args", {}))
    if case["optim"] == "lion_32bit":
        from bitsandbytes.optim import Lion

        return Lion(groups, lr=lr, betas=betas, optim_bits=32)
    if case["optim"] == "schedule_free_adamw":
        from schedulefree import AdamWScheduleFree

        optimizer = AdamWScheduleFree(groups, lr=lr, betas=betas, eps=case["epsilon"], warmup_steps=case.get("warmup_steps", 0),
                                      **case.get("optim_args", {}))
        optimizer.train()
        return optimizer
    if case["optim"] == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=case["epsilon"], fused=case["optim"] == "adamw_torch_fused")


# As torch or transformers call the state, and as a checkpoint of ours does.
STATES = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "momentum_buffer": "momentum_buffer", "state1": "exp_avg", "z": "z",
          "exp_avg_sq_row": "exp_avg_sq_row", "exp_avg_sq_col": "exp_avg_sq_col"}


def run(case):
    count = NUM_DECAYED + NUM_PLAIN
    start = draw(0, count)
    shapes = (case.get("decayed_shape", [8, 5]), [NUM_PLAIN])
    decayed, plain = (torch.nn.Parameter(part.clone().view(shape))
                      for part, shape in zip(start.split([NUM_DECAYED, NUM_PLAIN]), shapes))
    groups = [{"params": [decayed], "weight_decay": case["weight_decay"]}, {"params": [plain], "weight_decay": 0.0}]
    optimizer = make(case, groups)
    trajectory = []
    for step in range(STEPS):
        decayed.grad, plain.grad = (
            part.clone().view(shape) for part, shape in zip(draw(step + 1, count).split([NUM_DECAYED, NUM_PLAIN]), shapes))
        if case["max_grad_norm"] > 0:
            torch.nn.utils.clip_grad_norm_([decayed, plain], case["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = case["learning_rate"] * (1 - step / STEPS)
        optimizer.step()
        if step in (0, 4, STEPS - 1):
            trajectory.append({"step": step + 1, "parameter": flat([decayed, plain])})
    result = case | {"trajectory": trajectory}
    for theirs, ours in STATES.items():
        found = [optimizer.state[p][theirs] for p in (decayed, plain) if optimizer.state[p].get(theirs) is not None]
        if found:
            result[ours] = flat(found)
    if case["optim"] == "schedule_free_adamw":
        optimizer.eval()
        result["evaluated"] = flat([decayed, plain])
    return result


if __name__ == "__main__":
    json.dump({"torch": torch.__version__, "num_decayed": NUM_DECAYED, "num_plain": NUM_PLAIN, "steps": STEPS,
               "cases": [run(case) for case in CASES]}, sys.stdout, separators=(",", ":"))
    print()
