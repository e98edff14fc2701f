"""Trained checkpoints of families whose tensors are stored in ways of their own: transformers loads them whole, and sft-dist says what
transformers says. The models are those of tests/golden/models."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from parity import ours, token_file

GOLDENS = Path(__file__).resolve().parents[1] / "golden" / "models"
PROMPT = [5, 9, 2, 17, 33, 8]
ROWS = [[(7 * row + 3 * i * i) % 60 for i in range(6 + row)] for row in range(8)]


def trained(name: str, folder: Path) -> ours.Run:
    model = folder / "model"
    shutil.copytree(GOLDENS / name, model)
    (model / "golden.safetensors").unlink()
    (model / "tokenizer.json").write_text('{"only": "hashed"}')
    data = token_file.write_token_file(folder / "train.h5", ROWS, model, vocab_size=64, bos=1, eos=2, pad=2)
    return ours.run({"model_name_or_path": model, "train_dataset": data, "output_dir": folder / "out", "max_steps": 3,
                     "per_device_train_batch_size": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant"})


@pytest.mark.parametrize("name", ["phi3", "gpt-neox", "gemma3", "falcon-groups", "bloom", "mixtral", "qwen2-moe", "granitemoe"])
def test_transformers_takes_the_checkpoint(name, tmp_path):
    run = trained(name, tmp_path)
    model, loading = AutoModelForCausalLM.from_pretrained(run.output_dir, dtype=torch.float32, attn_implementation="eager",
                                                          output_loading_info=True)
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).state_dict()
    after = model.state_dict()
    changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
    assert len(changed) == len(after), "every tensor was trained"

    generated = list(PROMPT)
    with torch.no_grad():
        for _ in range(8):
            generated.append(int(model(torch.tensor([generated])).logits[0, -1].argmax()))
    stop = generated.index(2, len(PROMPT)) if 2 in generated[len(PROMPT):] else None
    done = subprocess.run([ours.program(), "generate", run.output_dir, "--ids", ",".join(map(str, PROMPT)), "--max-new-tokens", "8"],
                          capture_output=True, text=True, env=ours.environment())
    assert done.returncode == 0, done.stderr
    assert [int(token) for token in done.stdout.replace(",", " ").split()] == generated[len(PROMPT):stop]
