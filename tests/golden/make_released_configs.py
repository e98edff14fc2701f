#!/usr/bin/env python3
"""Configurations as released models carry them (keys of transformers 4 and of 5), and what transformers makes of them: released_configs.json.

    .venv/bin/python tests/golden/make_released_configs.py

num_parameters counts a model built without memory; windows and rotary frequencies are read from its modules and configuration. Each model is
there twice: as on the Hub, and as transformers 5 saves it.
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

LLAMA_LIKE = dict(hidden_act="silu", rms_norm_eps=1e-6, attention_dropout=0.0)
CONFIGS = {
    "Llama-3.2-1B": dict(
        model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True,
        rope_scaling=dict(factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=8192, rope_type="llama3")),
    "Mistral-7B-v0.1": dict(
        model_type="mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=4096,
        tie_word_embeddings=False),
    "Mixtral-8x7B-v0.1": dict(
        model_type="mixtral", vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=32768, num_experts_per_tok=2, num_local_experts=8, output_router_logits=False,
        rms_norm_eps=1e-5, rope_theta=1000000.0, router_aux_loss_coef=0.02, sliding_window=None, tie_word_embeddings=False),
    "Qwen1.5-MoE-A2.7B": LLAMA_LIKE | dict(
        model_type="qwen2_moe", vocab_size=151936, hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=16,
        num_key_value_heads=16, max_position_embeddings=8192, max_window_layers=21, rope_theta=1000000.0, sliding_window=32768,
        use_sliding_window=False, decoder_sparse_step=1, moe_intermediate_size=1408, shared_expert_intermediate_size=5632,
        num_experts_per_tok=4, num_experts=60, norm_topk_prob=False, output_router_logits=False, router_aux_loss_coef=0.001,
        tie_word_embeddings=False),
    "Qwen3-30B-A3B": LLAMA_LIKE | dict(
        model_type="qwen3_moe", vocab_size=151936, hidden_size=2048, intermediate_size=6144, num_hidden_layers=48, num_attention_heads=32,
        num_key_value_heads=4, head_dim=128, attention_bias=False, max_position_embeddings=40960, max_window_layers=48, rope_scaling=None,
        rope_theta=1000000.0, sliding_window=None, use_sliding_window=False, decoder_sparse_step=1, mlp_only_layers=[],
        moe_intermediate_size=768, norm_topk_prob=True, num_experts=128, num_experts_per_tok=8, output_router_logits=False,
        router_aux_loss_coef=0.001, tie_word_embeddings=False),
    "OLMoE-1B-7B": dict(
        model_type="olmoe", vocab_size=50304, hidden_size=2048, intermediate_size=1024, num_hidden_layers=16, num_attention_heads=16,
        num_key_value_heads=16, clip_qkv=None, max_position_embeddings=4096, norm_topk_prob=False, num_experts=64, num_experts_per_tok=8,
        output_router_logits=False, rms_norm_eps=1e-5, rope_scaling=None, rope_theta=10000.0, router_aux_loss_coef=0.01, pad_token_id=1,
        tie_word_embeddings=False),
    "granite-3.0-1b-a400m": LLAMA_LIKE | dict(
        model_type="granitemoe", vocab_size=49155, hidden_size=1024, intermediate_size=512, num_hidden_layers=24, num_attention_heads=16,
        num_key_value_heads=8, attention_bias=False, attention_multiplier=0.015625, embedding_multiplier=12.0, logits_scaling=6.0,
        residual_multiplier=0.22, max_position_embeddings=4096, num_experts_per_tok=8, num_local_experts=32, output_router_logits=False,
        rope_theta=10000, rope_scaling=None, router_aux_loss_coef=0.0, tie_word_embeddings=True, pad_token_id=0),
    "Qwen2.5-0.5B": LLAMA_LIKE | dict(
        model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768, max_window_layers=24, rope_theta=1000000.0, sliding_window=32768,
        tie_word_embeddings=True, use_sliding_window=False),
    "Qwen2.5-7B-with-yarn": LLAMA_LIKE | dict(
        model_type="qwen2", vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=32768, max_window_layers=14, rope_theta=1000000.0, sliding_window=131072,
        tie_word_embeddings=False, use_sliding_window=True,
        rope_scaling=dict(factor=4.0, original_max_position_embeddings=32768, type="yarn")),
    "Qwen3-0.6B": LLAMA_LIKE | dict(
        model_type="qwen3", vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, attention_bias=False, max_position_embeddings=40960, max_window_layers=28, rope_scaling=None,
        rope_theta=1000000, sliding_window=None, tie_word_embeddings=True, use_sliding_window=False),
    "gemma-2b": dict(
        model_type="gemma", vocab_size=256000, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8,
        num_key_value_heads=1, head_dim=256, hidden_act="gelu", max_position_embeddings=8192, rms_norm_eps=1e-6, rope_theta=10000.0,
        rope_scaling=None, pad_token_id=0),
    "gemma-2-2b": dict(
        model_type="gemma2", vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=8192, rms_norm_eps=1e-6, rope_theta=10000.0, query_pre_attn_scalar=256, sliding_window=4096,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0, cache_implementation="hybrid", pad_token_id=0),
    "gemma-3-1b": dict(
        model_type="gemma3_text", vocab_size=262144, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=32768, rms_norm_eps=1e-6,
        rope_theta=1000000, rope_local_base_freq=10000, rope_scaling=None, query_pre_attn_scalar=256, sliding_window=512,
        sliding_window_pattern=6, attn_logit_softcapping=None, final_logit_softcapping=None, pad_token_id=0),
    "gemma-3-4b-text": dict(
        model_type="gemma3_text", vocab_size=262208, hidden_size=2560, intermediate_size=10240, num_hidden_layers=34, num_attention_heads=8,
        num_key_value_heads=4, head_dim=256, max_position_embeddings=131072, sliding_window=1024,
        rope_scaling=dict(factor=8.0, rope_type="linear")),
    "Phi-3-mini-4k": dict(
        model_type="phi3", vocab_size=32064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, original_max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0,
        rope_scaling=None, sliding_window=2047, pad_token_id=32000, tie_word_embeddings=False),
    "Phi-4-mini": dict(
        model_type="phi3", vocab_size=200064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, num_attention_heads=24,
        num_key_value_heads=8, max_position_embeddings=131072, original_max_position_embeddings=4096, partial_rotary_factor=0.75,
        rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=262144, pad_token_id=199999, tie_word_embeddings=True,
        rope_scaling=dict(type="longrope", short_factor=[1.0 + 0.01 * i for i in range(48)], long_factor=[1.0 + i for i in range(48)])),
    "pythia-160m": dict(
        model_type="gpt_neox", vocab_size=50304, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        hidden_act="gelu", layer_norm_eps=1e-5, max_position_embeddings=2048, rotary_emb_base=10000, rotary_pct=0.25,
        use_parallel_residual=True, tie_word_embeddings=False),
    "OLMo-2-1B": LLAMA_LIKE | dict(
        model_type="olmo2", vocab_size=100352, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=16,
        num_key_value_heads=16, max_position_embeddings=4096, rope_theta=500000, rope_scaling=None, pad_token_id=100277,
        tie_word_embeddings=False),
    "OLMo-1B": dict(
        model_type="olmo", vocab_size=50304, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=16,
        clip_qkv=None, max_position_embeddings=2048, rope_theta=10000.0, pad_token_id=1, tie_word_embeddings=True),
    "SmolLM3-3B": LLAMA_LIKE | dict(
        model_type="smollm3", vocab_size=128256, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=4, max_position_embeddings=65536, no_rope_layers=[int((i + 1) % 4 != 0) for i in range(36)],
        layer_types=["full_attention"] * 36, rope_scaling=None, rope_theta=5000000.0, sliding_window=None, use_sliding_window=False,
        pad_token_id=128004),
    "starcoder2-3b": dict(
        model_type="starcoder2", vocab_size=49152, hidden_size=3072, intermediate_size=12288, num_hidden_layers=30, num_attention_heads=24,
        num_key_value_heads=2, hidden_act="gelu_pytorch_tanh", max_position_embeddings=16384, norm_epsilon=1e-5, norm_type="layer_norm",
        rope_theta=999999.4420358813, sliding_window=4096, use_bias=True, residual_dropout=0.1, embedding_dropout=0.1,
        attention_dropout=0.1),
    "granite-3.1-2b": LLAMA_LIKE | dict(
        model_type="granite", vocab_size=49155, hidden_size=2048, intermediate_size=8192, num_hidden_layers=40, num_attention_heads=32,
        num_key_value_heads=8, attention_bias=False, attention_multiplier=0.015625, embedding_multiplier=12.0, logits_scaling=8.0,
        residual_multiplier=0.22, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=5000000.0, rope_scaling=None,
        tie_word_embeddings=True, pad_token_id=0),
    "stablelm-2-1_6b": dict(
        model_type="stablelm", vocab_size=100352, hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=32, layer_norm_eps=1e-5, max_position_embeddings=4096, partial_rotary_factor=0.25, rope_theta=10000,
        use_qkv_bias=True, tie_word_embeddings=False),
    "phi-2": dict(
        model_type="phi", vocab_size=51200, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, hidden_act="gelu_new", max_position_embeddings=2048, partial_rotary_factor=0.4, rope_theta=10000.0,
        rope_scaling=None, qk_layernorm=False, resid_pdrop=0.1, tie_word_embeddings=False),
    "gpt-j-6b": dict(
        model_type="gptj", vocab_size=50400, n_embd=4096, n_head=16, n_inner=None, n_layer=28, n_positions=2048, rotary_dim=64,
        activation_function="gelu_new", tie_word_embeddings=False),
    "bloom-560m": dict(
        model_type="bloom", vocab_size=250880, n_embed=1024, n_layer=24, num_attention_heads=16, attention_softmax_in_fp32=True,
        layer_norm_epsilon=1e-5, masked_softmax_fusion=True, seq_length=2048, pad_token_id=3),
    "falcon-7b": dict(
        model_type="falcon", vocab_size=65024, hidden_size=4544, num_hidden_layers=32, num_attention_heads=71, alibi=False, bias=False,
        multi_query=True, new_decoder_architecture=False, parallel_attn=True, layer_norm_epsilon=1e-5),
    "falcon-40b": dict(
        model_type="falcon", vocab_size=65024, hidden_size=8192, num_hidden_layers=60, num_attention_heads=128, num_kv_heads=8, alibi=False,
        bias=False, new_decoder_architecture=True, parallel_attn=True, layer_norm_epsilon=1e-5),
}


def windows(config) -> list:
    """Per layer, as the masks of transformers' models have it."""
    layers, window = config.num_hidden_layers, getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if config.model_type in ("mistral", "phi3", "starcoder2") or not kinds:
        return [window] * layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def frequencies(model) -> dict:
    """First and last inverse frequency of each rotary embedding, and how many there are."""
    found = {}
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and "original" not in name:
            found[name.rsplit(".", 1)[-1]] = [buffer.numel(), float(buffer[0]), float(buffer[-1])]
    return found


def main() -> None:
    result = {}
    for name, released in CONFIGS.items():
        config = AutoConfig.for_model(**released)
        with torch.device("meta"):
            num_parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        small = AutoConfig.for_model(**released | {"vocab_size": 8, "pad_token_id": None})
        for size in ("num_hidden_layers", "n_layer"):
            if hasattr(small, size):
                setattr(small, size, 0)
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            saved = json.loads((Path(folder) / "config.json").read_text())
        result[name] = {"released": released, "saved": saved, "num_parameters": num_parameters, "windows": windows(config),
                        "frequencies": frequencies(AutoModelForCausalLM.from_config(small))}
        print(name, num_parameters, result[name]["frequencies"])
    path = Path(__file__).with_name("released_configs.json")
    path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in result.items()) + "\n}\n")


if __name__ == "__main__":
    main()
