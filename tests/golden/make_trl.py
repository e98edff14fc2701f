"""Makes trl_<model>.json: twelve steps of TRL on each model of tests/parity/models.py, for the fast tests that do without TRL.

    .venv/bin/python tests/golden/make_trl.py [model ...]

Each file holds the model's configuration (its weights follow from it and the seed), the token rows, the settings, what TRL logged,
and of every final tensor its norm and its product with two fixed random vectors.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parity import models, trl_side  # noqa: E402
from parity.projections import project  # noqa: E402

NUM_ROWS = 32  # with 8 rows a step no window is ragged: the numbers hold for every cut into batch, accumulation and ranks
SETTINGS = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 12, "max_length": 24, "weight_decay": 0.1,
    "max_grad_norm": 0.5, "lr_scheduler_type": "cosine", "warmup_steps": 3, "logging_steps": 1, "seed": 42,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        base, texts = Path(scratch), models.texts(NUM_ROWS, seed=5)
        jobs = []
        for name in sys.argv[1:] or models.CONFIGS:
            config = models.CONFIGS[name]
            folder = models.write_model(base / name, config, seed=7)
            models.write_tokenizer(folder, texts, pad_token=models.SPECIAL_TOKENS[config["pad_token_id"]])
            settings = SETTINGS | {"learning_rate": 2e-4 if name.startswith("opt") else 1e-3}
            jobs.append({"name": name, "out": str(base / "out" / name), "model": str(folder), "tokenizer": str(folder),
                         "train_texts": texts, "settings": settings})
        for job, result in zip(jobs, trl_side.run(jobs)):
            golden = {
                "made_by": "tests/golden/make_trl.py",
                "with": {package: version(package) for package in ("trl", "transformers", "accelerate", "torch")},
                "config": models.CONFIGS[job["name"]], "weights_seed": 7, "settings": job["settings"],
                "steps": [{key: step[key] for key in ("step", "loss", "grad_norm", "learning_rate", "num_tokens", "epoch")}
                          for step in result.steps],
                "train_loss": result.summary["train_loss"],
                "tensors": {tensor: project(tensor, values) for tensor, values in sorted(result.weights().items())},
                "rows": models.tokenize(Path(job["tokenizer"]), texts),
            }
            lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
            Path(__file__).with_name(f"trl_{job['name']}.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
