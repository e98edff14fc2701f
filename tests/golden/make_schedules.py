"""Learning rates of transformers' schedules over all steps, for tests/unit/optim/schedule_test.cpp.

    python tests/golden/make_schedules.py > tests/golden/schedules.json
"""

import json
import sys
import tempfile

import torch
import transformers
from transformers import TrainingArguments
from transformers.optimization import get_scheduler

CASES = [
    # (name, learning_rate, max_steps, warmup_steps, kwargs)
    ("linear", 2e-5, 40, 0, {}),
    ("linear", 5e-5, 37, 5, {}),
    ("linear", 5e-5, 37, 0.1, {}),
    ("linear", 5e-5, 10, 20, {}),
    ("linear", 5e-5, 10, 10, {}),
    ("cosine", 3e-4, 40, 4, {}),
    ("cosine", 3e-4, 40, 0.03, {"num_cycles": 1.75}),
    ("cosine_with_restarts", 3e-4, 40, 3, {}),
    ("cosine_with_restarts", 3e-4, 41, 0, {"num_cycles": 3}),
    ("polynomial", 1e-3, 40, 3, {}),
    ("polynomial", 1e-3, 40, 0, {"power": 2.5, "lr_end": 1e-5}),
    ("constant", 1e-3, 10, 4, {}),
    ("constant_with_warmup", 1e-3, 20, 7, {}),
    ("constant_with_warmup", 1e-3, 20, 0, {}),
    ("inverse_sqrt", 1e-3, 40, 6, {}),
    ("inverse_sqrt", 1e-3, 40, 0, {}),
    ("inverse_sqrt", 1e-3, 40, 6, {"timescale": 50}),
    ("cosine_with_min_lr", 1e-3, 40, 5, {"min_lr": 1e-4}),
    ("cosine_with_min_lr", 1e-3, 40, 0, {"min_lr_rate": 0.2, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", 1e-3, 40, 5, {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", 1e-3, 40, 5, {"min_lr": 1e-5, "warmup_lr_rate": 0.3, "num_cycles": 1.0}),
    ("cosine_warmup_with_min_lr", 1e-3, 40, 0, {"min_lr_rate": 0.1}),
    ("warmup_stable_decay", 1e-3, 40, 5, {"num_decay_steps": 10}),
    ("warmup_stable_decay", 1e-3, 40, 5, {"num_decay_steps": 10, "num_stable_steps": 20, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", 1e-3, 40, 8, {"num_decay_steps": 12, "warmup_type": "cosine", "decay_type": "linear"}),
    ("warmup_stable_decay", 1e-3, 40, 8, {"num_decay_steps": 12, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "min_lr_ratio": 0.05}),
    ("warmup_stable_decay", 1e-3, 40, 0.2, {"num_decay_steps": 36, "num_cycles": 1.5}),
]


def learning_rates(name, learning_rate, max_steps, warmup_steps, kwargs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, warmup_steps=warmup_steps, use_cpu=True, report_to="none")
    warmup = arguments.get_warmup_steps(max_steps)
    schedule = get_scheduler(name, optimizer, warmup, max_steps, kwargs)
    rates = []
    for _ in range(max_steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return {"lr_scheduler_type": name, "learning_rate": learning_rate, "max_steps": max_steps, "warmup_steps": warmup_steps,
            "lr_scheduler_kwargs": kwargs, "resolved_warmup_steps": warmup, "rates": rates}


json.dump({"transformers": transformers.__version__, "cases": [learning_rates(*case) for case in CASES]}, sys.stdout, separators=(",", ":"))
print()
