"""The model's folder: found locally, in the Hugging Face cache or fetched into it; weights made safetensors once."""

import json
import os
import re
import zipfile
from pathlib import Path

from .errors import CONFIG, PrepareError

# Everything that sft-dist or the tokenizer reads; pickled weights only where there are no others.
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
DUPLICATES = ["consolidated*"]  # Mistral's own form of the same weights
# What identifies a tokenizer (docs/data-format.md): the first alone, else those that exist of the others in this order.
IDENTITY_FILES = ["tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"]


def find_folder(name: str, option: str, with_weights: bool, with_tokenizer: bool = True) -> Path:
    """`name` is a folder or a hub id; an id is looked up in the local cache first, then fetched where the network allows."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise PrepareError(f"{option} = {name}: there is no such folder.", CONFIG)
    from huggingface_hub import snapshot_download

    patterns = {"allow_patterns": SMALL_FILES + (["*.safetensors"] if with_weights else []), "ignore_patterns": DUPLICATES}
    cached = cached_snapshot(name, patterns)
    missing = missing_from(cached, with_weights, with_tokenizer) if cached else ""
    if cached and not missing:
        return cached
    try:
        folder = Path(snapshot_download(name, **patterns))
        if with_weights and not has_safetensors(folder):
            folder = Path(snapshot_download(name, allow_patterns=SMALL_FILES + ["pytorch_model*.bin"]))
    except Exception as error:  # network, name, permission: one message each from the library
        found = f"in the Hugging Face cache without {missing}" if missing else "neither a folder, nor in the Hugging Face cache"
        raise PrepareError(f"{option} = {name}: {found}, and it cannot be fetched "
                           f"({type(error).__name__}: {str(error).strip().splitlines()[0]}).", CONFIG) from None
    # Without a network the library gives what it has, whole or not.
    if missing and (missing := missing_from(folder, with_weights, with_tokenizer)):
        raise PrepareError(f"{option} = {name}: in the Hugging Face cache without {missing}, and it cannot be fetched.", CONFIG)
    return folder


def cached_snapshot(name: str, patterns: dict) -> Path | None:
    """What the cache has of it, also where files that nobody needs here are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    try:
        return Path(snapshot_download(name, local_files_only=True, **patterns))
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)
    except Exception:  # not in the cache: whatever the reason, fetching it is what is left
        return None


def missing_from(folder: Path, with_weights: bool, with_tokenizer: bool) -> str:
    if with_weights and not (folder / "config.json").is_file():
        return "config.json"
    if with_tokenizer and not any((folder / name).is_file() for name in IDENTITY_FILES):
        return "a tokenizer"
    if not with_weights or (folder / "model.safetensors").is_file():
        return ""
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            except (ValueError, LookupError, TypeError, AttributeError):
                return f"a readable {index.name}"
            return next((name for name in names if not (folder / name).is_file()), "")
    return "" if (folder / "pytorch_model.bin").is_file() else "weights"


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
            # Files of before PyTorch 1.6 are no zip archives, and cannot be mapped.
            tensors = torch.load(pickle, map_location="cpu", mmap=zipfile.is_zipfile(pickle), weights_only=True)
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
