"""Makes qlora.json: twenty steps of TRL with PEFT over a Llama whose linears bitsandbytes holds in NF4, on the CPU in fp32, with plain and with nested scales.

    PYTHONPATH=<folder with bitsandbytes 0.50> .venv/bin/python tests/golden/make_qlora.py

TRL casts such adapters to bf16; here they are cast back before the first step. The file holds what make_trl.py's files hold, and the first loss of the
same model without quantisation.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parity import models, trl_side  # noqa: E402
from parity.projections import project  # noqa: E402

CONFIG, SEED, LORA = models.CONFIGS["llama"], 7, {"r": 8, "lora_alpha": 16}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
SETTINGS = {
    "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 20, "max_length": 24, "learning_rate": 5e-3, "weight_decay": 0.1,
    "max_grad_norm": 0.5, "lr_scheduler_type": "cosine", "warmup_steps": 3, "logging_steps": 1, "seed": 42,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        base, texts = Path(scratch), models.texts(32, seed=5)
        model = models.write_model(base / "model", CONFIG, seed=SEED)
        models.write_tokenizer(model, texts)
        job = {"model": str(model), "tokenizer": str(model), "train_texts": texts, "settings": SETTINGS,
               "adapter": str(models.write_adapter(base / "adapter", CONFIG, LORA, SEED))}
        fp32, *quantized = trl_side.run([
            job | {"out": str(base / "fp32"), "settings": SETTINGS | {"max_steps": 1}},
            *(job | {"out": str(base / f"nested-{nested}"), "quantization": NF4 | {"bnb_4bit_use_double_quant": nested}} for nested in (False, True))])
        golden = {
            "made_by": "tests/golden/make_qlora.py",
            "with": {package: version(package) for package in ("bitsandbytes", "peft", "trl", "transformers", "accelerate", "torch")},
            "config": CONFIG, "weights_seed": SEED, "lora": LORA, "settings": SETTINGS, "first_loss_in_fp32": fp32.steps[0]["loss"],
        }
        for scales, result in zip(("plain", "nested"), quantized):
            golden[scales] = {
                "steps": [{key: step[key] for key in ("step", "loss", "grad_norm", "learning_rate", "num_tokens", "epoch")} for step in result.steps],
                "train_loss": result.summary["train_loss"],
                "tensors": {name: project(name, values) for name, values in sorted(load_file(result.folder / "adapter_model.safetensors").items())},
            }
        golden["rows"] = models.tokenize(model, texts)
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
        Path(__file__).with_name("qlora.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
