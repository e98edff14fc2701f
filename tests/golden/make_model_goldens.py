#!/usr/bin/env python3
"""Tiny random models of every family, run by transformers in float64 and float32: the goldens of model_golden_test.

    python tests/golden/make_model_goldens.py [output folder, default tests/golden/models]

Each case is a folder with config.json and model.safetensors as save_pretrained writes them, and golden.safetensors:
  input_ids, labels        rows behind one another (labels not shifted, -100 where nothing is learnt)
  lengths                  [rows]; whole numbers are stored as float32, which the C++ reader takes
  logits                   float32 [tokens, vocab] of the float64 run, rows unpadded
  loss.float64, loss.float32   sum of cross-entropy over the targets / number of targets
  grad.<tensor name>       float32 rounding of the float64 gradient of that loss; tied weights once
"""

import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

VOCAB = 96
LENGTHS = [9, 1, 14, 5]
COMMON = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2)
LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, rms_norm_eps=1e-5, **COMMON)
OPT = dict(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32,
           dropout=0.0, pad_token_id=1, **COMMON)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **COMMON)

CASES = {
    "llama-untied": (LlamaForCausalLM, LlamaConfig(**LLAMA)),
    "llama-tied-padding": (LlamaForCausalLM, LlamaConfig(
        **LLAMA, tie_word_embeddings=True, pad_token_id=2, head_dim=16)),
    "llama-biased-head-dim": (LlamaForCausalLM, LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, head_dim=12)),
    "llama-rope-linear": (LlamaForCausalLM, LlamaConfig(
        **LLAMA, rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=500.0))),
    "llama-rope-llama3": (LlamaForCausalLM, LlamaConfig(
        **LLAMA, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=32))),
    "opt-125m-kind": (OPTForCausalLM, OPTConfig(**OPT)),
    "opt-350m-kind": (OPTForCausalLM, OPTConfig(**OPT, do_layer_norm_before=False, word_embed_proj_dim=16)),
    "opt-plain-norms": (OPTForCausalLM, OPTConfig(**OPT, activation_function="gelu", enable_bias=False,
                                                  layer_norm_elementwise_affine=False, tie_word_embeddings=False)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2)),
    "gpt2-untied-unscaled": (GPT2LMHeadModel, GPT2Config(**GPT2, n_inner=40, scale_attn_weights=False,
                                                         activation_function="gelu", tie_word_embeddings=False)),
}


def randomize(model, generator):
    """Values of ordinary size everywhere: biases and norms too, which start as zeros and ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * noise if parameter.dim() == 1 and "bias" not in name else 0.2 * noise)


def rms_norm(self, x):
    """LlamaRMSNorm without its detour over float32, which would limit the float64 run to 7 digits."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def run(model, rows):
    """One unpadded row at a time: nothing but the model's own mask can matter."""
    targets = sum(int((labels[1:] != -100).sum()) for _, labels in rows)
    losses, logits = [], []
    for ids, labels in rows:
        out = model(input_ids=ids[None]).logits[0]
        logits.append(out.detach())
        losses.append(torch.nn.functional.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum"))
    loss = torch.stack(losses).sum() / targets
    model.zero_grad()
    loss.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    return loss.detach(), torch.cat(logits), grads


def make_rows(generator):
    rows = []
    for length in LENGTHS:
        ids = torch.randint(0, VOCAB, (length,), generator=generator)
        ids[::4] = 2  # the padding id occurs among real tokens
        labels = ids.clone()
        labels[torch.rand(length, generator=generator) < 0.3] = -100
        rows.append((ids, labels))
    return rows


def make_case(name, model_class, config, folder):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    config._attn_implementation = "sdpa"  # the eager one takes its softmax in float32
    torch.manual_seed(0)
    model = model_class(config).eval()
    randomize(model, generator)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    rows = make_rows(generator)

    loss32, _, grads32 = run(model, rows)
    original, LlamaRMSNorm.forward = LlamaRMSNorm.forward, rms_norm
    loss64, logits, grads64 = run(model.double(), rows)
    LlamaRMSNorm.forward = original
    golden = {
        "input_ids": torch.cat([ids for ids, _ in rows]).float(),
        "labels": torch.cat([labels for _, labels in rows]).float(),
        "lengths": torch.tensor(LENGTHS).float(),
        "logits": logits.float(),
        "loss.float64": loss64,
        "loss.float32": loss32,
    }
    errors = []
    for tensor, grad in grads64.items():
        golden["grad." + tensor] = grad.float().contiguous()
        if grad.norm() > 1e-12:  # key biases without rotary positions have no gradient
            errors.append(float((grads32[tensor].double() - grad).norm() / grad.norm()))
    save_file(golden, folder / "golden.safetensors")
    print(f"{name}: loss {loss64.item():.6f}, transformers' own float32 gradients are off by up to {max(errors):.1e}, "
          f"{sum(f.stat().st_size for f in folder.iterdir())} bytes")


def main():
    default = pathlib.Path(__file__).resolve().parent / "models"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for name, (model_class, config) in CASES.items():
        make_case(name, model_class, config, output / name)


if __name__ == "__main__":
    main()
