#!/usr/bin/env python3
"""Adapters on the tiny models of tests/golden/models, run by PEFT in float64: the goldens of model_golden_test.

    python tests/golden/make_lora_goldens.py [output folder, default tests/golden/lora]

Each case is a folder as PEFT's save_pretrained writes it (adapter_config.json, adapter_model.safetensors; base_model_name_or_path is
the name of a folder in tests/golden/models), and golden.safetensors, over the rows of that model's golden:
  logits                     float32 [tokens, vocab] of the float64 run
  merged                     the same after merge_and_unload, or absent where merging unties embeddings
  loss.float64               sum of cross-entropy over the targets / number of targets
  grad.<tensor name>         float32 rounding of the float64 gradient, under the name in adapter_model.safetensors
"""

import pathlib
import shutil
import sys

import torch
from make_model_goldens import rms_norm
from peft import LoraConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

MODELS = pathlib.Path(__file__).resolve().parent / "models"

CASES = {
    "llama-all-linear": ("llama-biased-head-dim", dict(r=4, lora_alpha=6, target_modules="all-linear")),
    "llama-query-value": ("llama-untied", dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], use_rslora=True)),
    "llama-head-saved": ("llama-tied-padding", dict(r=2, target_modules=["down_proj"], modules_to_save=["lm_head"])),
    "llama-embedding-saved": ("llama-tied-padding", dict(r=2, target_modules=["k_proj"], modules_to_save=["embed_tokens", "norm"])),
    "llama-dora": ("llama-biased-head-dim", dict(r=4, lora_alpha=8, target_modules="all-linear", use_dora=True)),
    "gpt2": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn", "mlp.c_proj"])),
    "gpt2-dora": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"], use_dora=True)),
    "opt-projected": ("opt-350m-kind", dict(r=2, lora_alpha=3, target_modules="all-linear")),
}


def rows_of(golden):
    ids, labels = golden["input_ids"].long(), golden["labels"].long()
    lengths = [int(n) for n in golden["lengths"]]
    return list(zip(ids.split(lengths), labels.split(lengths)))


def make_case(name, base, settings, folder):
    torch.manual_seed(sum(name.encode()))
    rows = rows_of(load_file(MODELS / base / "golden.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(MODELS / base, dtype=torch.float32, attn_implementation="sdpa")
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, init_lora_weights=False, **settings)
    model = get_peft_model(model, config).eval()
    with torch.no_grad():
        for tensor, parameter in model.named_parameters():
            if "lora_magnitude" in tensor or "modules_to_save" in tensor:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape))  # trained away from where they start
    model.peft_config["default"].base_model_name_or_path = base
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)

    original, LlamaRMSNorm.forward = LlamaRMSNorm.forward, rms_norm
    model = model.double()
    loss, logits, grads = run_trainable(model, rows)
    golden = {"logits": logits.float(), "loss.float64": loss}
    parameters = dict(model.named_parameters())
    # get_peft_model_state_dict gives the saved names; gradients travel in the parameters' place.
    with torch.no_grad():
        for tensor, parameter in parameters.items():
            if parameter.requires_grad:
                parameter.copy_(grads[tensor])
    for tensor, grad in get_peft_model_state_dict(model).items():
        golden["grad." + tensor] = grad.float().contiguous().clone()
    if "modules_to_save" not in settings:
        from peft import PeftModel

        fresh = AutoModelForCausalLM.from_pretrained(MODELS / base, dtype=torch.float64, attn_implementation="sdpa")
        merged = PeftModel.from_pretrained(fresh, folder).double().merge_and_unload().eval()
        with torch.no_grad():
            golden["merged"] = torch.cat([merged(input_ids=ids[None]).logits[0] for ids, _ in rows]).float()
    LlamaRMSNorm.forward = original
    save_file(golden, folder / "golden.safetensors")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: loss {loss.item():.6f}, {len(golden)} tensors, {size} bytes")


def run_trainable(model, rows):
    targets = sum(int((labels[1:] != -100).sum()) for _, labels in rows)
    losses, logits = [], []
    for ids, labels in rows:
        out = model(input_ids=ids[None]).logits[0]
        logits.append(out.detach())
        losses.append(torch.nn.functional.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum"))
    loss = torch.stack(losses).sum() / targets
    model.zero_grad()
    loss.backward()
    return loss.detach(), torch.cat(logits), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def main():
    default = pathlib.Path(__file__).resolve().parent / "lora"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for name, (base, settings) in CASES.items():
        make_case(name, base, settings, output / name)


if __name__ == "__main__":
    main()
