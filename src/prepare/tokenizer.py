"""The run's tokenizer: where its files are, what identifies it, and text to ids as TRL does it."""

import hashlib
import logging
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import CONFIG, PrepareError

# What identifies a tokenizer (docs/data-format.md): the first alone, else those that exist of the others in this order.
IDENTITY_FILES = ["tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"]
SIDE_FILES = IDENTITY_FILES + [
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
]


@dataclass(frozen=True)
class TokenizerFolder:
    name: str  # as the user gave it
    path: Path

    def sha256(self) -> str:
        digest = hashlib.sha256()
        files = [self.path / name for name in IDENTITY_FILES if (self.path / name).is_file()]
        for file in files[:1] if files[0].name == "tokenizer.json" else files:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def copy_side_files(self, target: Path, model_folder: Path | None) -> None:
        """The files as they are, so that a checkpoint carries the very tokenizer it was trained with."""
        target.mkdir(parents=True)
        for name in SIDE_FILES:
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, target / name)
        if (self.path / "chat_templates").is_dir():
            shutil.copytree(self.path / "chat_templates", target / "chat_templates")
        generation = "generation_config.json"
        if model_folder and not (target / generation).exists() and (model_folder / generation).is_file():
            shutil.copyfile(model_folder / generation, target / generation)


def find_tokenizer(name: str, folder: Path) -> TokenizerFolder:
    if not any((folder / file).is_file() for file in IDENTITY_FILES):
        raise PrepareError(f"{folder} holds no tokenizer ({', '.join(IDENTITY_FILES)}): give tokenizer_name_or_path.", CONFIG)
    return TokenizerFolder(name, folder)


def import_auto_tokenizer():
    """transformers imports PyTorch where it is installed: seconds, and an error where only its libraries are (launch/setup)."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are ours
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # "PyTorch was not found"
    if "torch" in sys.modules:
        from transformers import AutoTokenizer
    else:
        sys.modules["torch"] = None
        try:
            from transformers import AutoTokenizer
        finally:
            del sys.modules["torch"]
    return AutoTokenizer


class Tokenizer:
    """transformers' tokenizer, without PyTorch."""

    def __init__(self, folder: TokenizerFolder):
        auto_tokenizer = import_auto_tokenizer()

        logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)  # "longer than the maximum"
        try:
            self.tokenizer = auto_tokenizer.from_pretrained(str(folder.path), local_files_only=True)
        except Exception as error:  # the library raises many types
            raise PrepareError(f"the tokenizer in {folder.path} cannot be loaded: {type(error).__name__}: {error}.", CONFIG) from None
        if self.tokenizer.eos_token is None:
            raise PrepareError(f"the tokenizer in {folder.path} has no eos_token, which ends every row: set it in its "
                               "tokenizer_config.json.", CONFIG)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id it can give."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def special_ids(self) -> dict[str, int]:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: getattr(self.tokenizer, name) for name in names if getattr(self.tokenizer, name) is not None}

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """As TRL: the EOS string is added where the text does not end with it, then `tokenizer(text)` on each."""
        eos = self.tokenizer.eos_token
        ended = [text if text.endswith(eos) else text + eos for text in texts]
        encoded = self.tokenizer(ended, return_attention_mask=False, return_token_type_ids=False)
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]
