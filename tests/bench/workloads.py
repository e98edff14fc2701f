"""The models and data of the benchmarks."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

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
    adapter: Path | None = None  # folder of the PEFT adapter that both sides train


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


def uneven(work: Workload, folder: Path) -> Workload:
    """The same model on rows of very uneven lengths, up to 2048 tokens or what the model has positions for."""
    config = json.loads((work.model / "config.json").read_text())
    longest = min(2048, config["max_position_embeddings"])
    random = np.random.RandomState(4)
    lengths = np.clip(np.exp(np.log(longest / 34) + 1.3 * random.standard_normal(400)), 8, longest).astype(int)
    rows = [random.randint(4, config["vocab_size"], size=length).tolist() for length in lengths]
    work.data = token_file.write_token_file(folder / f"{work.name}-uneven.h5", rows, work.model, vocab_size=config["vocab_size"],
                                            eos=config["eos_token_id"])
    work.settings["max_length"] = longest
    return work


PROMPT_SHARE = 0.65


def chat_labels(row: list[int]) -> list[int]:
    """As a chat of turns of 120 tokens (a shorter row is one turn), of which the first 65 % are not learnt."""
    turn = min(len(row), 120)
    return [-100 if at % turn < PROMPT_SHARE * turn else token for at, token in enumerate(row)]


def as_chat(work: Workload, folder: Path) -> None:
    path = folder / f"{work.data.stem}-chat.h5"
    if not path.exists():
        with h5py.File(work.data) as file:
            ids, offsets = file["input_ids"][:].tolist(), file["offsets"][:].tolist()
            special = {key: file.attrs.get(f"{key}_token_id") for key in ("bos", "eos", "pad")}
            vocab_size = int(file.attrs["vocab_size"])
        rows = [ids[a:b] for a, b in zip(offsets, offsets[1:])]
        token_file.write_token_file(path, rows, work.model, labels=list(map(chat_labels, rows)), vocab_size=vocab_size,
                                    **{key: None if value is None else int(value) for key, value in special.items()})
    work.data = path


def as_packed(work: Workload, folder: Path) -> None:
    work.settings |= {"packing": True, "packing_strategy": "bfd"}


def as_recomputed(work: Workload, folder: Path) -> None:
    work.settings["gradient_checkpointing"] = True


def as_lora(work: Workload, folder: Path) -> None:
    """r = 16 on queries and values, PEFT's choice for these models: A random, B zero, as new adapters are."""
    work.adapter = folder / f"{work.model.name}-lora"
    if (work.adapter / "adapter_config.json").exists():
        return
    work.adapter.mkdir(parents=True, exist_ok=True)
    rank, random, tensors = 16, np.random.RandomState(5), {}
    for file in sorted(work.model.glob("*.safetensors")):
        with safe_open(file, "numpy") as weights:
            for name in weights.keys():
                module = name.removesuffix(".weight")
                if module.endswith((".q_proj", ".v_proj")):
                    outputs, inputs = weights.get_slice(name).get_shape()
                    bound = inputs ** -0.5
                    tensors[f"base_model.model.{module}.lora_A.weight"] = random.uniform(-bound, bound, (rank, inputs)).astype(np.float32)
                    tensors[f"base_model.model.{module}.lora_B.weight"] = np.zeros((outputs, rank), np.float32)
    save_file(tensors, work.adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    (work.adapter / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(work.model), "r": rank, "lora_alpha": 32,
        "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj", "v_proj"], "init_lora_weights": True}, indent=1))


# What a workload can be changed to, one after the other, on both sides alike.
CHANGES = {"chat": as_chat, "packed": as_packed, "lora": as_lora, "recomputed": as_recomputed}


def changed(work: Workload, changes: list[str], folder: Path) -> Workload:
    for name in changes:
        CHANGES[name](work, folder)
    work.name = ", ".join([work.name, *changes])
    return work
