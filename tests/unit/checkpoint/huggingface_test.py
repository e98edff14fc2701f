"""What transformers saves, sft-dist reads; what sft-dist saves, safetensors and transformers read: bit for bit, both ways."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TOOL = Path(os.environ["SFT_BUILD_DIR"]) / "tests/unit/checkpoint/checkpoint_tool"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def copy_model(tmp_path):
    """copy_model(dtype, shard size there, shard size here) -> (the original's tensors as fp32, our output folder)"""

    def run(dtype: str, saved_shard_size: str, written_shard_size: str):
        torch.manual_seed(3)
        config = LlamaConfig(vocab_size=101, hidden_size=32, intermediate_size=56, num_hidden_layers=3,
                             num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
        model = LlamaForCausalLM(config).to(DTYPES[dtype])
        model.save_pretrained(tmp_path / "model", max_shard_size=saved_shard_size)
        for command in ("save", "final"):
            subprocess.run([TOOL, command, tmp_path / "model", tmp_path / "out", written_shard_size, "3"], check=True, timeout=60)
        return {name: tensor.float() for name, tensor in model.state_dict().items()}, tmp_path / "out"

    return run


def assert_same(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [("5GB", "5GB"), ("30KB", "5GB"), ("5GB", "30KB")])
def test_weights_go_both_ways(copy_model, dtype, sizes):
    expected, out = copy_model(dtype, *sizes)
    for folder in (out / "checkpoint-3", out):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        files = sorted(set(index["weight_map"].values()))
        assert (len(files) > 1) == (sizes[1] == "30KB")
        assert sorted(path.name for path in folder.glob("*.safetensors")) == files
        stored = {}
        for file in files:
            tensors = load_file(folder / file)
            assert all(index["weight_map"][name] == file for name in tensors)
            stored.update(tensors)
        assert_same(stored, expected)
        assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in expected.values())
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert_same(loaded.state_dict(), expected)


def test_optimizer_state_is_plain_safetensors(copy_model):
    expected, out = copy_model("float32", "5GB", "30KB")
    state = {}
    for path in (out / "checkpoint-3" / "state").glob("optimizer*.safetensors"):
        state.update(load_file(path))
    assert_same(state, {f"exp_avg.{name}": tensor * 0.5 for name, tensor in expected.items()})


def test_manifest_is_what_the_documentation_says(copy_model):
    """docs/checkpoint-format.md, implemented once more."""
    _, out = copy_model("float32", "5GB", "30KB")
    folder = out / "checkpoint-3"
    text = (folder / "state/MANIFEST.json").read_bytes()
    tail = re.search(rb',\n  "manifest_xxh3": "([0-9a-f]{32})"\n}\n\Z', text)
    assert tail and tail[1].decode() == xxhash.xxh3_128_hexdigest(text[: tail.start()])
    manifest = json.loads(text)
    assert (manifest["format"], manifest["version"], manifest["step"]) == ("sft-dist-checkpoint", 1, 3)
    on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert on_disk == set(manifest["files"]) | {"state/MANIFEST.json"}
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert len(content) == entry["bytes"] == sum(size for size, _ in entry["ranges"])
        position, digits = 0, ""
        for size, digests in entry["ranges"]:
            chunk_starts = range(position, position + size, manifest["chunk_bytes"])
            chunks = [content[start : min(start + manifest["chunk_bytes"], position + size)] for start in chunk_starts]
            assert digests == "".join(xxhash.xxh3_128_hexdigest(chunk) for chunk in chunks)
            position, digits = position + size, digits + digests
        assert entry["xxh3"] == xxhash.xxh3_128_hexdigest(digits.encode())
