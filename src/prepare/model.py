"""The model's folder: found locally, in the Hugging Face cache or fetched into it; weights made safetensors once."""

import json
import os
import re
from pathlib import Path

from .errors import CONFIG, PrepareError

# Everything that sft-dist or the tokenizer reads; pickled weights only where there are no others.
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


def find_folder(name: str, option: str, with_weights: bool) -> Path:
    """`name` is a folder or a hub id; an id is looked up in the local cache first, then fetched where the network allows."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise PrepareError(f"{option} = {name}: there is no such folder.", CONFIG)
    from huggingface_hub import snapshot_download

    patterns = SMALL_FILES + (["*.safetensors"] if with_weights else [])
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if not with_weights or has_safetensors(folder) or pickled_weights(folder):
            return folder
    except Exception:  # not in the cache: whatever the reason, fetching it is what is left
        pass
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns))
        if with_weights and not has_safetensors(folder):
            folder = Path(snapshot_download(name, allow_patterns=SMALL_FILES + ["pytorch_model*.bin"]))
        return folder
    except Exception as error:  # network, name, permission: one message each from the library
        raise PrepareError(f"{option} = {name}: neither a folder, nor in the Hugging Face cache, and it cannot be fetched "
                           f"({type(error).__name__}: {str(error).strip().splitlines()[0]}).", CONFIG) from None


def has_safetensors(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file()


def pickled_weights(folder: Path) -> list[Path]:
    """pytorch_model.bin, or the files its index names."""
    if (folder / "pytorch_model.bin").is_file():
        return [folder / "pytorch_model.bin"]
    index = folder / "pytorch_model.bin.index.json"
    if not index.is_file():
        return []
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise PrepareError(f"{index} names {name}, which is not in its folder.")
    return [folder / name for name in names]


def make_ready(folder: Path, say=print) -> None:
    """After this, folder holds weights that sft-dist reads."""
    if has_safetensors(folder):
        return
    pickles = pickled_weights(folder)
    if not pickles:
        raise PrepareError(f"{folder} holds no weights: neither model.safetensors (or its index) nor pytorch_model.bin.")
    try:
        import torch
        from safetensors.torch import save_file
    except (ImportError, OSError):
        raise PrepareError(f"{folder} has only {pickles[0].name}; making safetensors of it needs the whole of PyTorch: "
                           "run launch/setup --full, then sft-prepare again.", CONFIG) from None

    say(f"model: writing the weights of {folder} as safetensors, once")
    weight_map, total_size = {}, 0
    for pickle in pickles:
        try:
            tensors = torch.load(pickle, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # unpickling raises many types
            raise PrepareError(f"{pickle} cannot be loaded: {type(error).__name__}: {error}.") from None
        name = "model.safetensors" if len(pickles) == 1 else re.sub(r"^pytorch_model(.*)\.bin$", r"model\1.safetensors", pickle.name)
        # clone: tied weights share memory, which the format does not have
        tensors = {key: value.contiguous().clone() for key, value in tensors.items() if isinstance(value, torch.Tensor)}
        weight_map.update(dict.fromkeys(tensors, name))
        total_size += sum(value.numel() * value.element_size() for value in tensors.values())
        write_atomically(folder / name, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
    if len(pickles) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        write_atomically(folder / "model.safetensors.index.json", lambda temporary: temporary.write_text(json.dumps(index, indent=2)))


def write_atomically(path: Path, write) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()  # with the user's usual permissions, which safetensors narrows
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
