"""The models and data of the benchmarks."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity import models, token_file

SMOLLM2_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_theta": 100000, "rope_scaling": None, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
    "attention_dropout": 0.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}
OPT_350M_CONFIG = models.CONFIGS["opt-post"] | {
    "vocab_size": 50272, "hidden_size": 1024, "ffn_dim": 4096, "word_embed_proj_dim": 512, "num_hidden_layers": 24,
    "num_attention_heads": 16, "max_position_embeddings": 2048, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2,
}


@dataclass
class Workload:
    name: str
    model: Path
    data: Path
    settings: dict
    steps: int


def settings(batch: int, accumulation: int, max_length: int, steps: int) -> dict:
    return {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_length": max_length,
            "max_steps": steps, "learning_rate": 2e-5, "logging_steps": 1, "seed": 42}


def random_rows(count: int, vocab_size: int, seed: int = 3) -> list[list[int]]:
    """Rows with the lengths of IMDB reviews in SmolLM2's tokens: median 228, mean about 307, at most 3291."""
    random = np.random.RandomState(seed)
    lengths = np.clip(np.exp(np.log(228) + 0.77 * random.standard_normal(count)), 12, 3291).astype(int)
    return [random.randint(4, vocab_size, size=length).tolist() for length in lengths]


def _model_of_shape(folder: Path, config: dict) -> Path:
    """Random weights; ids only, so its tokenizer is a placeholder that both sides can load."""
    if not (folder / "model.safetensors").exists():
        models.write_tokenizer(folder, models.texts(200))
        small = {"initializer_range": 0.02, "init_std": 0.02}
        weights = {name: values * np.float32(0.25) if values.ndim > 1 else values
                   for name, values in models.random_weights(config).items()}
        from safetensors.numpy import save_file

        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config | small | {"dtype": "float32"}, indent=1))
    return folder


def _random_data(path: Path, model: Path, rows: int, vocab_size: int) -> Path:
    if not path.exists():
        token_file.write_token_file(path, random_rows(rows, vocab_size), model, vocab_size=vocab_size, eos=2)
    return path


def tiny(folder: Path, steps: int) -> Workload:
    model = folder / "tiny"
    if not (model / "tokenizer.json").exists():
        models.write_model(model, models.CONFIGS["llama"])
        models.write_tokenizer(model, models.texts(100))
    data = folder / "tiny.h5"
    if not data.exists():
        token_file.write_token_file(data, models.tokenize(model, models.texts(64)), model, vocab_size=models.VOCAB_SIZE, eos=models.EOS)
    return Workload("tiny", model, data, settings(2, 2, 32, steps), steps)


def smollm2(folder: Path, steps: int, model: Path | None, data: Path | None) -> Workload:
    """The real model and IMDB where given (launch/quickstart makes both), else the same shape and the same lengths."""
    model = model or _model_of_shape(folder / "smollm2-shape", SMOLLM2_CONFIG)
    data = data or _random_data(folder / "smollm2-shape.h5", model, 400, SMOLLM2_CONFIG["vocab_size"])
    return Workload("smollm2-135m", model, data, settings(4, 8, 512, steps), steps)


def opt_350m(folder: Path, steps: int, tokenizer: Path | None, data: Path | None) -> Workload:
    """tokenizer: the folder of the tokenizer `data` was prepared with."""
    model = _model_of_shape(folder / "opt-350m-shape", OPT_350M_CONFIG)
    if data:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (tokenizer / name).exists():
                shutil.copy(tokenizer / name, model / name)
    else:
        data = _random_data(folder / "opt-350m-shape.h5", model, 400, OPT_350M_CONFIG["vocab_size"])
    return Workload("opt-350m", model, data, settings(4, 8, 512, steps), steps)


def make(case: str, folder: Path, steps: int, model: Path | None = None, data: Path | None = None) -> Workload:
    """For opt-350m `model` is only where the tokenizer of `data` is."""
    if case == "tiny":
        return tiny(folder, steps)
    return {"smollm2-135m": smollm2, "opt-350m": opt_350m}[case](folder, steps, model, data)
