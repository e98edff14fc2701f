#!/usr/bin/env python3
"""Tiny random models of every family, run by transformers in float64 and float32: the goldens of model_golden_test.

    python tests/golden/make_model_goldens.py [--out FOLDER, default tests/golden/models] [case ...]

Each case is a folder with config.json and model.safetensors as save_pretrained writes them, and golden.safetensors:
  input_ids, labels        rows behind one another (labels not shifted, -100 where nothing is learnt)
  lengths                  [rows]; whole numbers are stored as float32, which the C++ reader takes
  logits                   float32 [tokens, vocab] of the float64 run, rows unpadded
  loss.float64, loss.float32   sum of cross-entropy over the targets / number of targets
  grad.<tensor name>       float32 rounding of the float64 gradient of that loss; tied weights once
and of a mixture of experts, whose load-balancing loss is that of all rows together:
  aux_loss.float64, aux_grad.<tensor name> (but for tensors that it does not reach)
"""

import argparse
import contextlib
import pathlib
import shutil
import sys
import tempfile
from unittest import mock

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

VOCAB = 96
LENGTHS = [9, 1, 14, 5]
COMMON = dict(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2)
LLAMA = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, rms_norm_eps=1e-5, **COMMON)
OPT = dict(hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=32,
           dropout=0.0, pad_token_id=1, **COMMON)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **COMMON)
# Small, with windows shorter than the longest row, more than one query head per key head and odd sizes.
SMALL = dict(vocab_size=64, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=2)
WINDOW = dict(sliding_window=4)
GEMMA = SMALL | dict(head_dim=8)
MULTIPLIERS = dict(embedding_multiplier=3.0, attention_multiplier=0.3, residual_multiplier=0.4, logits_scaling=2.5)
YARN = dict(rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=16)


def without(settings, *names):
    return {name: value for name, value in settings.items() if name not in names}


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
    "mistral-window": (hf.MistralForCausalLM, hf.MistralConfig(**SMALL, **WINDOW, head_dim=16)),
    "mistral-no-window": (hf.MistralForCausalLM, hf.MistralConfig(
        **without(SMALL, "pad_token_id"), sliding_window=None, tie_word_embeddings=True, rope_parameters=YARN)),
    "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**SMALL, tie_word_embeddings=True)),
    "qwen2-window": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**SMALL, **WINDOW, use_sliding_window=True, max_window_layers=1)),
    "qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True)),
    "qwen3-biased-window": (hf.Qwen3ForCausalLM, hf.Qwen3Config(
        **SMALL, **WINDOW, head_dim=10, attention_bias=True, use_sliding_window=True, max_window_layers=1)),
    "gemma": (hf.GemmaForCausalLM, hf.GemmaConfig(**without(GEMMA, "num_key_value_heads"), num_key_value_heads=1)),
    "gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config(
        **GEMMA, **WINDOW, query_pre_attn_scalar=10, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma2-uncapped-untied": (hf.Gemma2ForCausalLM, hf.Gemma2Config(
        **without(GEMMA, "head_dim"), **WINDOW, head_dim=16, attn_logit_softcapping=None, final_logit_softcapping=None,
        tie_word_embeddings=False, attention_bias=True)),
    "gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(
        **without(GEMMA, "num_hidden_layers"), num_hidden_layers=3, **WINDOW, query_pre_attn_scalar=10, sliding_window_pattern=2,
        final_logit_softcapping=6.0, rope_parameters={
            "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=800.0),
            "sliding_attention": dict(rope_type="default", rope_theta=50.0)})),
    "phi3": (hf.Phi3ForCausalLM, hf.Phi3Config(**SMALL, **WINDOW)),
    "phi3-longrope": (hf.Phi3ForCausalLM, hf.Phi3Config(
        **without(SMALL, "hidden_size"), hidden_size=32, original_max_position_embeddings=16, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="longrope", rope_theta=500.0, partial_rotary_factor=0.75, short_factor=[1.0, 1.25, 1.5],
                             long_factor=[1.0, 2.0, 4.0]))),
    "gpt-neox": (hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(
        **without(SMALL, "num_key_value_heads", "hidden_size"), hidden_size=32,
        rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5))),
    "gpt-neox-in-turn-tied": (hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(
        **without(SMALL, "num_key_value_heads"), use_parallel_residual=False, tie_word_embeddings=True, attention_bias=False,
        rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=500.0, partial_rotary_factor=1.0))),
    "olmo2": (hf.Olmo2ForCausalLM, hf.Olmo2Config(**SMALL)),
    "smollm3": (hf.SmolLM3ForCausalLM, hf.SmolLM3Config(**SMALL, **WINDOW, use_sliding_window=True, no_rope_layer_interval=2)),
    "starcoder2": (hf.Starcoder2ForCausalLM, hf.Starcoder2Config(**SMALL, **WINDOW)),
    "starcoder2-plain": (hf.Starcoder2ForCausalLM, hf.Starcoder2Config(
        **SMALL, use_bias=False, tie_word_embeddings=False, sliding_window=None)),
    "granite": (hf.GraniteForCausalLM, hf.GraniteConfig(
        **SMALL, **MULTIPLIERS, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "granitemoe": (hf.GraniteMoeForCausalLM, hf.GraniteMoeConfig(
        **SMALL, **MULTIPLIERS, num_local_experts=4, num_experts_per_tok=2, attention_bias=True, tie_word_embeddings=True)),
    "mixtral": (hf.MixtralForCausalLM, hf.MixtralConfig(**SMALL, **WINDOW, num_local_experts=5, num_experts_per_tok=2)),
    # A shared expert, a dense layer in the middle, weights that do not add up to 1.
    "qwen2-moe": (hf.Qwen2MoeForCausalLM, hf.Qwen2MoeConfig(
        **without(SMALL, "num_hidden_layers"), **WINDOW, num_hidden_layers=3, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12,
        shared_expert_intermediate_size=20, mlp_only_layers=[1], use_sliding_window=True, max_window_layers=2)),
    "qwen3-moe": (hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig(
        **without(SMALL, "num_hidden_layers"), **WINDOW, num_hidden_layers=4, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=12,
        head_dim=8, norm_topk_prob=True, decoder_sparse_step=2, use_sliding_window=True)),
    "olmoe": (hf.OlmoeForCausalLM, hf.OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2)),
    "stablelm": (hf.StableLmForCausalLM, hf.StableLmConfig(
        **without(SMALL, "hidden_size"), hidden_size=32, use_qkv_bias=True)),
    "stablelm-parallel": (hf.StableLmForCausalLM, hf.StableLmConfig(
        **without(SMALL, "hidden_size"), hidden_size=32, use_parallel_residual=True,
        rope_parameters=dict(rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5))),
    "phi": (hf.PhiForCausalLM, hf.PhiConfig(**without(SMALL, "hidden_size"), hidden_size=32)),
    "olmo": (hf.OlmoForCausalLM, hf.OlmoConfig(**SMALL)),
    "gptj": (hf.GPTJForCausalLM, hf.GPTJConfig(
        vocab_size=64, n_embd=24, n_inner=40, n_layer=2, n_head=4, n_positions=32, rotary_dim=4, bos_token_id=1, eos_token_id=2)),
    "bloom": (hf.BloomForCausalLM, hf.BloomConfig(
        vocab_size=64, hidden_size=24, n_layer=2, n_head=6, bos_token_id=1, eos_token_id=2)),
    "falcon-one-key-head": (hf.FalconForCausalLM, hf.FalconConfig(
        **without(SMALL, "num_key_value_heads", "intermediate_size", "pad_token_id"), ffn_hidden_size=40)),
    "falcon-groups": (hf.FalconForCausalLM, hf.FalconConfig(
        **without(SMALL, "num_key_value_heads", "intermediate_size", "pad_token_id"), ffn_hidden_size=40, num_kv_heads=2,
        new_decoder_architecture=True, bias=True, tie_word_embeddings=False)),
    "falcon-groups-one-norm": (hf.FalconForCausalLM, hf.FalconConfig(
        **without(SMALL, "num_key_value_heads", "intermediate_size", "pad_token_id"), ffn_hidden_size=40, num_kv_heads=2,
        new_decoder_architecture=True, num_ln_in_parallel_attn=1)),
}


def randomize(model, generator):
    """Values of ordinary size everywhere: biases and norms too, which start as zeros and ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.dim() == 1 and "bias" not in name
            centre = 1.0 if is_norm and "gemma" not in model.config.model_type else 0.0  # Gemma's w stands for 1 + w
            parameter.copy_(centre + noise)


@contextlib.contextmanager
def in_float64(model):
    """The model in float64 without its detours over float32 (norms, softmax), which would limit it to 7 digits.
    Rotary angles stay as they are: float32."""
    model.double()
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if "inv_freq" in name:
                setattr(module, name, buffer.float())

    def is_detour(tensor, dtype):
        return tensor.dtype == torch.float64 and dtype == torch.float32

    to, to_float, softmax = torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax

    def exact_to(self, *args, **kwargs):
        return self if any(is_detour(self, value) for value in (*args, *kwargs.values())) else to(self, *args, **kwargs)

    def exact_softmax(x, dim=None, dtype=None, **kwargs):
        return softmax(x, dim=dim, dtype=None if is_detour(x, dtype) else dtype, **kwargs)

    with mock.patch.object(torch.Tensor, "to", exact_to), \
            mock.patch.object(torch.Tensor, "float", lambda self: self if self.dtype == torch.float64 else to_float(self)), \
            mock.patch.object(torch.nn.functional, "softmax", exact_softmax):
        yield model


def is_mixture(config):
    return hasattr(config, "router_aux_loss_coef")


def gradients(model, loss):
    model.zero_grad()
    loss.backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def run(model, rows):
    """One unpadded row at a time: nothing but the model's own mask can matter."""
    targets = sum(int((labels[1:] != -100).sum()) for _, labels in rows)
    losses, logits, routers = [], [], []
    for ids, labels in rows:
        result = model(input_ids=ids[None], **({"output_router_logits": True} if is_mixture(model.config) else {}))
        out = result.logits[0]
        logits.append(out.detach())
        losses.append(torch.nn.functional.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum"))
        routers.append(getattr(result, "router_logits", None))
    loss = torch.stack(losses).sum() / targets
    aux = None
    if is_mixture(model.config):
        of_layers = tuple(torch.cat(parts) for parts in zip(*routers))
        balance = sys.modules[type(model).__module__].load_balancing_loss_func
        aux = balance(of_layers, model.num_experts, model.num_experts_per_tok)
    return loss, torch.cat(logits), aux


def make_rows(generator, vocab_size):
    rows = []
    for length in LENGTHS:
        ids = torch.randint(0, vocab_size, (length,), generator=generator)
        ids[::4] = 2  # the padding id occurs among real tokens
        labels = ids.clone()
        labels[torch.rand(length, generator=generator) < 0.3] = -100
        rows.append((ids, labels))
    return rows


def as_saved(model, values):
    """Values by parameter, under the names and in the shapes that save_pretrained gives them. The parameters take them over."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values.get(name, torch.zeros(())))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return {name: tensor.float() for name, tensor in load_file(pathlib.Path(folder) / "model.safetensors").items()}


def make_case(name, model_class, config, folder):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    if is_mixture(config):
        config._experts_implementation = "eager"
    config._attn_implementation = "sdpa" if model_class._supports_sdpa else "eager"
    torch.manual_seed(0)
    model = model_class(config).eval()
    randomize(model, generator)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    rows = make_rows(generator, config.vocab_size)

    loss32, _, _ = run(model, rows)
    grads32 = gradients(model, loss32)
    with in_float64(model):
        loss64, logits, aux = run(model, rows)
        grads64 = gradients(model, loss64)
        aux_grads = gradients(model, aux) if aux is not None else {}
    golden = {
        "input_ids": torch.cat([ids for ids, _ in rows]).float(),
        "labels": torch.cat([labels for _, labels in rows]).float(),
        "lengths": torch.tensor(LENGTHS).float(),
        "logits": logits.float(),
        "loss.float64": loss64.detach(),
        "loss.float32": loss32.detach(),
    }
    golden |= {"grad." + tensor: grad for tensor, grad in as_saved(model, grads64).items()}
    if aux is not None:
        golden["aux_loss.float64"] = aux.detach()
        golden |= {"aux_grad." + tensor: grad for tensor, grad in as_saved(model, aux_grads).items() if grad.any()}
    errors = []
    for tensor, grad in grads64.items():
        if grad.norm() > 1e-12:  # key biases without rotary positions have no gradient
            errors.append(float((grads32[tensor].double() - grad).norm() / grad.norm()))
    save_file(golden, folder / "golden.safetensors")
    print(f"{name}: loss {loss64.item():.6f}, transformers' own float32 gradients are off by up to {max(errors):.1e}, "
          f"{sum(f.stat().st_size for f in folder.iterdir())} bytes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "models")
    parser.add_argument("cases", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    for name in arguments.cases:
        make_case(name, *CASES[name], arguments.out / name)


if __name__ == "__main__":
    main()
