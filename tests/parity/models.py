"""Tiny models of true architecture, a tokenizer, texts and token files for tests. Deterministic, and light to import:
transformers is only needed by `write_tokenizer`.

A model is a Hugging Face folder: config.json and model.safetensors with random weights from numpy's frozen
RandomState streams, one per tensor name, so that a stored golden can be compared without storing weights.
Biases and norm weights are random too: zeros and ones would hide mistakes.
"""

import json
import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

VOCAB_SIZE = 480
PAD, BOS, EOS, UNK = range(4)
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<unk>"]

_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB_SIZE, "hidden_size": 64,
    "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "silu",
    "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False,
    "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
}
_OPT = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": VOCAB_SIZE, "hidden_size": 64, "ffn_dim": 160,
    "word_embed_proj_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 256,
    "do_layer_norm_before": True, "_remove_final_layer_norm": False, "activation_function": "relu", "dropout": 0.0,
    "attention_dropout": 0.0, "layerdrop": 0.0, "enable_bias": True, "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
}
_GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": VOCAB_SIZE, "n_embd": 64, "n_head": 4, "n_layer": 3,
    "n_inner": None, "n_positions": 256, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "resid_pdrop": 0.0, "scale_attn_weights": True, "tie_word_embeddings": True,
    "pad_token_id": PAD, "bos_token_id": EOS, "eos_token_id": EOS,
}
_GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": VOCAB_SIZE, "hidden_size": 64,
    "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 20, "attn_logit_softcapping": None,
    "final_logit_softcapping": 5.0, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 20000.0},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}},
    "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True,
    "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
}

CONFIGS = {
    # Llama 2/3 kind: grouped heads, own head.
    "llama": _LLAMA,
    # SmolLM2 kind: tied, pad = eos (whose row then takes no gradient from the input side), with Llama 3's rope.
    "llama-tied": _LLAMA | {
        "tie_word_embeddings": True, "pad_token_id": EOS, "num_attention_heads": 8, "head_dim": 12,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64},
    },
    "llama-linear": _LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "num_key_value_heads": 4},
    # OPT-125m kind.
    "opt-pre": _OPT,
    # OPT-350m kind: norms after the residual, no final norm, smaller embedding with projections.
    "opt-post": _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 32},
    "gpt2": _GPT2,
    # Scaled embeddings, norms of 1 + w around each sublayer and of q and k, windows, two rotary bases, capped logits.
    "gemma3": _GEMMA3,
}

# Mixtures of experts. How a batch is cut matters to their load-balancing loss, so that no stored run serves for several layouts.
MIXTURES = {
    "mixtral": _LLAMA | {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "intermediate_size": 80, "num_local_experts": 4,
        "num_experts_per_tok": 2, "router_aux_loss_coef": 0.05, "sliding_window": None},
    # A shared expert, a dense layer in the middle, weights of experts that do not add up to 1.
    "qwen2-moe": _LLAMA | {
        "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "qkv_bias": True, "num_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48, "mlp_only_layers": [1], "norm_topk_prob": False,
        "router_aux_loss_coef": 0.1},
}
ALL_CONFIGS = CONFIGS | MIXTURES


def tensor_shapes(config: dict) -> dict[str, list[int]]:
    """Names and shapes as transformers saves them (tied heads are not saved)."""
    kind, vocab = config["model_type"], config["vocab_size"]
    shapes: dict[str, list[int]] = {}

    def linear(name, rows, columns, bias=True):
        shapes[f"{name}.weight"] = [rows, columns]
        if bias:
            shapes[f"{name}.bias"] = [rows]

    def norm(name, size, bias=True):
        shapes[f"{name}.weight"] = [size]
        if bias:
            shapes[f"{name}.bias"] = [size]

    def mlp(name, hidden, inner, parts=("gate_proj", "up_proj", "down_proj")):
        gate, up, down = parts
        linear(f"{name}.{gate}", inner, hidden, bias=False)
        linear(f"{name}.{up}", inner, hidden, bias=False)
        linear(f"{name}.{down}", hidden, inner, bias=False)

    if kind in ("llama", "gemma3_text", "mixtral", "qwen2_moe"):
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        heads, kv_heads, head_dim = (config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        shapes["model.embed_tokens.weight"] = [vocab, hidden]
        for i in range(config["num_hidden_layers"]):
            at = f"model.layers.{i}"
            norm(f"{at}.input_layernorm", hidden, bias=False)
            linear(f"{at}.self_attn.q_proj", heads * head_dim, hidden, bias=kind == "qwen2_moe")
            linear(f"{at}.self_attn.k_proj", kv_heads * head_dim, hidden, bias=kind == "qwen2_moe")
            linear(f"{at}.self_attn.v_proj", kv_heads * head_dim, hidden, bias=kind == "qwen2_moe")
            linear(f"{at}.self_attn.o_proj", hidden, heads * head_dim, bias=False)
            norm(f"{at}.post_attention_layernorm", hidden, bias=False)
            if kind == "gemma3_text":
                norm(f"{at}.self_attn.q_norm", head_dim, bias=False)
                norm(f"{at}.self_attn.k_norm", head_dim, bias=False)
                norm(f"{at}.pre_feedforward_layernorm", hidden, bias=False)
                norm(f"{at}.post_feedforward_layernorm", hidden, bias=False)
            if kind == "mixtral":
                linear(f"{at}.block_sparse_moe.gate", config["num_local_experts"], hidden, bias=False)
                for expert in range(config["num_local_experts"]):
                    mlp(f"{at}.block_sparse_moe.experts.{expert}", hidden, inner, ("w1", "w3", "w2"))
            elif kind == "qwen2_moe" and i not in config["mlp_only_layers"]:
                linear(f"{at}.mlp.gate", config["num_experts"], hidden, bias=False)
                for expert in range(config["num_experts"]):
                    mlp(f"{at}.mlp.experts.{expert}", hidden, config["moe_intermediate_size"])
                mlp(f"{at}.mlp.shared_expert", hidden, config["shared_expert_intermediate_size"])
                linear(f"{at}.mlp.shared_expert_gate", 1, hidden, bias=False)
            else:
                mlp(f"{at}.mlp", hidden, inner)
        norm("model.norm", hidden, bias=False)
        if not config["tie_word_embeddings"]:
            shapes["lm_head.weight"] = [vocab, hidden]
    elif kind == "opt":
        hidden, embedding = config["hidden_size"], config["word_embed_proj_dim"]
        at = "model.decoder"
        shapes[f"{at}.embed_tokens.weight"] = [vocab, embedding]
        shapes[f"{at}.embed_positions.weight"] = [config["max_position_embeddings"] + 2, hidden]
        if embedding != hidden:
            linear(f"{at}.project_in", hidden, embedding, bias=False)
            linear(f"{at}.project_out", embedding, hidden, bias=False)
        for i in range(config["num_hidden_layers"]):
            layer = f"{at}.layers.{i}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(f"{layer}.self_attn.{name}", hidden, hidden)
            norm(f"{layer}.self_attn_layer_norm", hidden)
            linear(f"{layer}.fc1", config["ffn_dim"], hidden)
            linear(f"{layer}.fc2", hidden, config["ffn_dim"])
            norm(f"{layer}.final_layer_norm", hidden)
        if config["do_layer_norm_before"] and not config["_remove_final_layer_norm"]:
            norm(f"{at}.final_layer_norm", hidden)
    elif kind == "gpt2":
        hidden = config["n_embd"]
        inner = config["n_inner"] or 4 * hidden
        shapes["transformer.wte.weight"] = [vocab, hidden]
        shapes["transformer.wpe.weight"] = [config["n_positions"], hidden]
        for i in range(config["n_layer"]):
            at = f"transformer.h.{i}"
            norm(f"{at}.ln_1", hidden)
            norm(f"{at}.ln_2", hidden)
            for name, rows, columns in (("attn.c_attn", hidden, 3 * hidden), ("attn.c_proj", hidden, hidden),
                                        ("mlp.c_fc", hidden, inner), ("mlp.c_proj", inner, hidden)):
                shapes[f"{at}.{name}.weight"] = [rows, columns]  # Conv1D: [in, out]
                shapes[f"{at}.{name}.bias"] = [columns]
        norm("transformer.ln_f", hidden)
    else:
        raise ValueError(f"no tensor list for model_type {kind}")
    return shapes


def random_weights(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    weights = {}
    for name, shape in tensor_shapes(config).items():
        noise = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(shape).astype(np.float32)
        is_norm_weight = len(shape) == 1 and name.endswith(".weight")
        weights[name] = 1 + np.float32(0.1) * noise if is_norm_weight else np.float32(0.08) * noise
    return weights


def write_model(folder: Path, config: dict, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": config["eos_token_id"]}))
    save_file(random_weights(config, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_adapter(folder: Path, config: dict, lora: dict, seed: int = 0) -> Path:
    """A PEFT adapter on every linear of a Llama's layers; `lora`: r and lora_alpha. Its values are bf16 numbers: casting changes nothing."""
    weights, targets = {}, set()
    for name, shape in tensor_shapes(config).items():
        if not name.endswith("_proj.weight"):
            continue
        module = name.removesuffix(".weight")
        targets.add(module.split(".")[-1])
        for part, part_shape in (("A", [lora["r"], shape[1]]), ("B", [shape[0], lora["r"]])):
            tensor = f"base_model.model.{module}.lora_{part}.weight"
            noise = np.random.RandomState(zlib.crc32(f"{seed}:{tensor}".encode())).standard_normal(part_shape).astype(np.float32)
            weights[tensor] = ((np.float32(0.08) * noise).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(lora | {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": sorted(targets), "lora_dropout": 0.0, "bias": "none"}))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def texts(rows: int, seed: int = 1, longest: int = 40) -> list[str]:
    """Made-up reviews of 1 to `longest` words, length skewed to short ones, no two alike."""
    random = np.random.RandomState(seed)
    syllables = ["ka", "lo", "mi", "ter", "an", "vor", "sil", "en", "du", "rah", "pe", "qui", "no", "st", "ba", "gre"]
    words = ["".join(random.choice(syllables, size=random.randint(1, 4))) for _ in range(160)]
    result = []
    for row in range(rows):
        count = 1 + int((longest - 1) * random.beta(1.2, 2.5))
        chosen = [words[min(int(random.exponential(25)), len(words) - 1)] for _ in range(count)]
        result.append(f"{' '.join(chosen).capitalize()}, {row}{random.choice(['.', '!', '?'])}")
    return result


def write_tokenizer(folder: Path, corpus: list[str], pad_token: str = "<pad>") -> Path:
    """A byte-level BPE trained on `corpus`; ids 0-3 are SPECIAL_TOKENS. Returns the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=SPECIAL_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    folder.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token=pad_token,
                            unk_token="<unk>", model_max_length=256).save_pretrained(folder)
    return folder


def tokenize(tokenizer_folder: Path, rows: list[str]) -> list[list[int]]:
    """What TRL makes of language-modelling rows before it cuts them: the text with the EOS token's text behind it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(tokenizer_folder) / "tokenizer.json"))
    return [tokenizer.encode(text + SPECIAL_TOKENS[EOS]).ids for text in rows]
