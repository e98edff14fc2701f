"""python -m prepare.make_tiny FOLDER: a small random Llama, its tokenizer and text to learn, all made by this script.

For launch/quickstart --offline and for tests: the architecture and file formats are the real ones, only small. FOLDER/model is a
Hugging Face model folder, FOLDER/train.jsonl (2,000 rows) and FOLDER/test.jsonl (96) hold short stories put together from parts.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np

from .errors import CONFIG
from .fetch_smollm2 import write_json
from .model import write_atomically

SEED, NUM_TRAIN, NUM_TEST, VOCAB_SIZE = 42, 2000, 96, 512
EOS = "<|endoftext|>"

PEOPLE = ["the baker", "an old sailor", "the young doctor", "my neighbour", "a tired teacher", "the mayor", "a travelling clown", "our postman"]
PLACES = ["in the market", "behind the mill", "on the bridge", "at the harbour", "in a quiet library", "under the oak", "near the station"]
FINDS = ["a silver key", "three green bottles", "a letter without a name", "a lame dog", "the lost map", "a box of old photographs"]
ACTS = ["carried it home", "hid it under the bed", "sold it for five coins", "gave it to a child", "threw it into the river", "kept it for years"]
FEELINGS = ["happy", "ashamed", "proud", "worried", "curious", "calm"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def story(generator: random.Random) -> str:
    sentences = []
    for _ in range(generator.randint(1, 5)):
        person, find = generator.choice(PEOPLE), generator.choice(FINDS)
        sentences.append(f"On {generator.choice(DAYS)} {person} found {find} {generator.choice(PLACES)}.")
        if generator.random() < 0.7:
            sentences.append(f"{person.capitalize()} {generator.choice(ACTS)} and felt {generator.choice(FEELINGS)}.")
        if generator.random() < 0.4:
            first, second = generator.randint(2, 40), generator.randint(2, 40)
            sentences.append(f"There were {first} people on one side and {second} on the other, {first + second} in all.")
    return " ".join(sentences)


def write_texts(folder: Path) -> list[str]:
    generator = random.Random(SEED)
    stories = [story(generator) for _ in range(NUM_TRAIN + NUM_TEST)]
    for name, texts in (("train.jsonl", stories[:NUM_TRAIN]), ("test.jsonl", stories[NUM_TRAIN:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        write_atomically(folder / name, lambda temporary: temporary.write_text(lines, encoding="utf-8"))
    return stories[:NUM_TRAIN]


def write_tokenizer(folder: Path, texts: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "pad_token": EOS, "model_max_length": 512,
        "clean_up_tokenization_spaces": False})


def write_model(folder: Path, hidden=64, intermediate=176, layers=2, heads=4, kv_heads=2) -> None:
    from safetensors.numpy import save_file

    generator = np.random.default_rng(SEED)
    matrix = lambda rows, columns: generator.normal(0.0, 0.02, (rows, columns)).astype(np.float32)  # noqa: E731
    ones = lambda: np.ones(hidden, dtype=np.float32)  # noqa: E731
    kv_size = hidden // heads * kv_heads
    tensors = {"model.embed_tokens.weight": matrix(VOCAB_SIZE, hidden), "model.norm.weight": ones()}
    for layer in range(layers):
        name = f"model.layers.{layer}."
        tensors |= {
            name + "input_layernorm.weight": ones(), name + "post_attention_layernorm.weight": ones(),
            name + "self_attn.q_proj.weight": matrix(hidden, hidden), name + "self_attn.k_proj.weight": matrix(kv_size, hidden),
            name + "self_attn.v_proj.weight": matrix(kv_size, hidden), name + "self_attn.o_proj.weight": matrix(hidden, hidden),
            name + "mlp.gate_proj.weight": matrix(intermediate, hidden), name + "mlp.up_proj.weight": matrix(intermediate, hidden),
            name + "mlp.down_proj.weight": matrix(hidden, intermediate),
        }
    write_json(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": hidden // heads, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": True,
        "attention_dropout": 0.0, "initializer_range": 0.02, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0})
    write_json(folder / "generation_config.json", {"eos_token_id": 0, "pad_token_id": 0})
    write_atomically(folder / "model.safetensors", lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return CONFIG
    folder = Path(arguments[0])
    if (folder / "model" / "model.safetensors").is_file():  # written last
        print(f"{folder}: there already")
        return 0
    (folder / "model").mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "model", write_texts(folder))
    write_model(folder / "model")
    print(f"{folder}: a small Llama with random weights, {NUM_TRAIN:,} stories to train on, {NUM_TEST} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
