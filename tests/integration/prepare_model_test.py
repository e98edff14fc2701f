"""Making a model ready: pickled weights to safetensors, the Hugging Face cache, and no PyTorch where it is not needed."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from prepare_support import tiny_model, write_jsonl
from safetensors.torch import load_file

from prepare.errors import PrepareError
from prepare.model import find_folder, make_ready


@pytest.fixture
def pickled(tmp_path):
    """A model with pytorch_model.bin only, its two weight matrices tied."""
    folder = tiny_model(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder, tensors


def test_pickled_weights_are_converted_once(pickled):
    folder, tensors = pickled
    make_ready(folder)
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == tensors.keys() and all(torch.equal(converted[name], tensors[name]) for name in tensors)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    make_ready(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert not list(folder.glob(".*"))


def test_pickled_weights_of_old_are_converted(pickled):
    """As PyTorch wrote them before version 1.6."""
    folder, tensors = pickled
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    make_ready(folder)
    converted = load_file(folder / "model.safetensors")
    assert converted.keys() == tensors.keys() and all(torch.equal(converted[name], tensors[name]) for name in tensors)


def test_pickled_shards_are_converted(pickled):
    folder, tensors = pickled
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for file, part in parts.items():
        torch.save({name: tensors[name] for name in part}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}))
    make_ready(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: f"model-0000{1 + (name in names[5:])}-of-00002.safetensors" for name in names}
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in tensors.values())
    for file in set(index["weight_map"].values()):
        for name, tensor in load_file(folder / file).items():
            assert torch.equal(tensor, tensors[name])


def test_a_pickle_that_runs_code_is_refused(pickled, tmp_path):
    folder, _ = pickled

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(PrepareError, match="cannot be loaded"):
        make_ready(folder)
    assert not (tmp_path / "ran").exists()


def test_an_index_that_leaves_its_folder_is_refused(pickled):
    folder, _ = pickled
    (folder / "pytorch_model.bin").rename(folder.parent / "outside.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../outside.bin"}}))
    with pytest.raises(PrepareError, match="names ../outside.bin"):
        make_ready(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(PrepareError, match="holds no weights"):
        make_ready(tmp_path)


def run_python(code, *arguments, **environment):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment})


def test_conversion_without_pytorch_says_what_to_do(pickled):
    result = run_python("import sys; sys.modules['torch'] = None\nfrom pathlib import Path\nfrom prepare.model import make_ready\n"
                        "from prepare.errors import PrepareError\n"
                        "try: make_ready(Path(sys.argv[1]))\nexcept PrepareError as error: print(error); sys.exit(error.code)", pickled[0])
    assert result.returncode == 92, result.stderr
    assert "launch/setup --full" in result.stdout


def test_preparing_text_does_not_load_pytorch(tmp_path):
    model = tiny_model(tmp_path / "tiny")
    source = write_jsonl(tmp_path / "rows.jsonl", [{"text": "one"}, {"text": "two"}])
    result = run_python("import sys\nfrom prepare_support import prepare\nprepare(*sys.argv[1:3], __import__('pathlib').Path(sys.argv[3]))\n"
                        "print('torch' in sys.modules)", model, source, tmp_path / "rows.h5")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "False"


def test_a_model_in_the_cache_is_found(tmp_path):
    model = tiny_model(tmp_path / "tiny")
    repository = tmp_path / "home" / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(model, snapshot)
    result = run_python("from prepare.model import find_folder\nprint(find_folder('someone/tiny', 'model_name_or_path', with_weights=True))",
                        HF_HOME=str(tmp_path / "home"))
    assert result.stdout.strip() == str(snapshot), result.stderr


@pytest.mark.parametrize("lost, missing", [("tokenizer.json", "a tokenizer"), ("config.json", "config.json"), ("model.safetensors", "weights"),
                                           ("a shard", "model-00002-of-00002.safetensors")])
def test_half_a_model_in_the_cache_is_none(lost, missing, tmp_path):
    repository = tmp_path / "home" / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_model(tmp_path / "tiny"), snapshot)
    if lost == "a shard":
        (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
        (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: f"model-0000{name}-of-00002.safetensors" for name in "12"}}))
    else:
        (snapshot / lost).unlink()
    result = run_python("from prepare.model import find_folder\nfind_folder('someone/tiny', 'model_name_or_path', with_weights=True)",
                        HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    assert f"in the Hugging Face cache without {missing}, and it cannot be fetched" in result.stderr


def test_a_folder_is_itself(tmp_path):
    assert find_folder(str(tmp_path), "model_name_or_path", with_weights=True) == tmp_path
