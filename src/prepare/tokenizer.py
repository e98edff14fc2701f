"""The run's tokenizer: where its files are, what identifies it, and text to ids as TRL does it."""

import hashlib
import importlib
import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .dataset_file import SPECIAL_IDS
from .errors import CONFIG, PrepareError
from .model import IDENTITY_FILES

NAMED_TEMPLATES = "additional_chat_templates"  # folder of .jinja files: transformers' templates besides the default one
SIDE_FILES = IDENTITY_FILES + [
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
]


@dataclass(frozen=True)
class TokenizerFolder:
    """A tokenizer's files, and what the run changes about it: unset where it stays as it is."""

    name: str  # as the user gave it
    path: Path
    eos_token: str | None = None
    pad_token: str | None = None
    chat_template: str | None = None
    is_only_eos: bool = False  # eos_token takes the place of all tokens that end a generation

    def sha256(self) -> str:
        digest = hashlib.sha256()
        files = [self.path / name for name in IDENTITY_FILES if (self.path / name).is_file()]
        for file in files[:1] if files[0].name == "tokenizer.json" else files:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def configured_eos_token(self) -> str | None:
        """eos_token as tokenizer_config.json has it."""
        file = self.path / "tokenizer_config.json"
        token = json.loads(file.read_text(encoding="utf-8")).get("eos_token") if file.is_file() else None
        return token.get("content") if isinstance(token, dict) else token

    def copy_side_files(self, target: Path, model_folder: Path | None) -> None:
        """The files as they are, so that a checkpoint carries the very tokenizer it was trained with; changes are written into the copies."""
        target.mkdir(parents=True)
        for name in SIDE_FILES:
            if (self.path / name).is_file():
                shutil.copyfile(self.path / name, target / name)
        for file in (self.path / NAMED_TEMPLATES).glob("*.jinja"):
            (target / NAMED_TEMPLATES).mkdir(exist_ok=True)
            shutil.copyfile(file, target / NAMED_TEMPLATES / file.name)
        generation = "generation_config.json"
        if model_folder and (model_folder / generation).is_file():
            shutil.copyfile(model_folder / generation, target / generation)
        self.write_changes(target)

    def side_files_sha256(self, model_folder: Path | None) -> str:
        """folder_sha256 of what copy_side_files writes."""
        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / "tokenizer"
            self.copy_side_files(target, model_folder)
            return folder_sha256(target)

    def write_changes(self, target: Path) -> None:
        tokens = {name: token for name, token in (("eos_token", self.eos_token), ("pad_token", self.pad_token)) if token}
        change_json(target / "tokenizer_config.json", tokens)
        if (target / "special_tokens_map.json").is_file():
            change_json(target / "special_tokens_map.json", tokens)
        if self.chat_template is not None:
            shutil.rmtree(target / NAMED_TEMPLATES, ignore_errors=True)
            (target / "chat_template.json").unlink(missing_ok=True)
            change_json(target / "tokenizer_config.json", {"chat_template": None})
            (target / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
        if tokens:
            self.write_generation_config(target / "generation_config.json", Tokenizer(self).special_ids())

    def write_generation_config(self, path: Path, ids: dict[str, int]) -> None:
        """As TRL: a new end-of-sequence token comes in front of those that end a generation already; that of a template's tokenizer replaces them."""
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        changes = {}
        if self.eos_token:
            existing = values.get("eos_token_id")
            existing = [] if existing is None else existing if isinstance(existing, list) else [existing]
            if self.is_only_eos:
                changes["eos_token_id"] = ids["eos_token_id"]
            elif ids["eos_token_id"] not in existing:
                changes["eos_token_id"] = [ids["eos_token_id"], *existing]
        if self.pad_token:
            changes["pad_token_id"] = ids["pad_token_id"]
        change_json(path, changes)


def folder_sha256(folder: Path) -> str:
    """Of the names and contents of its files."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def change_json(path: Path, changes: dict) -> None:
    """Sets keys of a JSON object in a file; None removes one."""
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = {key: value for key, value in (values | changes).items() if value is not None or key not in changes}
    if changed != values:
        path.write_text(json.dumps(changed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def load_tokenizer(path: Path):
    """transformers' tokenizer, without PyTorch."""
    auto_tokenizer = import_auto_tokenizer()
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)  # "longer than the maximum"
    refuse_without_sentencepiece(path)
    try:
        return auto_tokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # the library raises many types
        raise PrepareError(f"the tokenizer in {path} cannot be loaded: {type(error).__name__}: {error}.", CONFIG) from None


def refuse_without_sentencepiece(path: Path) -> None:
    """transformers asks for tiktoken instead, which does not read these files, or makes an empty tokenizer."""
    files = [path / name for name in IDENTITY_FILES if (path / name).is_file()]
    if not files or any(file.suffix != ".model" for file in files) or not is_sentencepiece(files[0]):
        return
    missing = [package for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")) if not is_importable(module)]
    if missing:
        raise PrepareError(f"the tokenizer in {path} is {files[0].name} alone, and reading it needs the packages sentencepiece and protobuf "
                           f"(missing: {', '.join(missing)}): put a tokenizer.json beside it, as AutoTokenizer.from_pretrained(...)"
                           ".save_pretrained(...) writes it where both are installed, or install them: "
                           ".venv/bin/python -m pip install sentencepiece protobuf.", CONFIG)


def is_sentencepiece(file: Path) -> bool:
    """A message of pieces; tiktoken's files, under the same name, are lines of Base64."""
    with open(file, "rb") as stream:
        return stream.read(1) == b"\n"


def is_importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


class Tokenizer:
    """transformers' tokenizer with the run's changes."""

    def __init__(self, folder: TokenizerFolder):
        self.tokenizer = load_tokenizer(folder.path)
        for name in ("eos_token", "pad_token"):
            if token := getattr(folder, name):
                if token not in self.tokenizer.get_vocab():
                    raise PrepareError(f"{name} = {token}: the tokenizer in {folder.path} has no such token.", CONFIG)
                setattr(self.tokenizer, name, token)
        if folder.chat_template is not None:
            self.tokenizer.chat_template = folder.chat_template
        if self.tokenizer.eos_token is None:
            raise PrepareError(f"the tokenizer in {folder.path} has no eos_token, which ends every row: set eos_token.", CONFIG)
        self.path = folder.path

    def require_chat_template(self) -> None:
        if not self.tokenizer.chat_template:
            raise PrepareError(f"the rows are chats, and the tokenizer in {self.path} has no chat template: name one in chat_template_path "
                               "(a .jinja file, or another model's tokenizer).", CONFIG)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id it can give."""
        return 1 + max(self.tokenizer.get_vocab().values())

    def special_ids(self) -> dict[str, int]:
        return {name: getattr(self.tokenizer, name) for name in SPECIAL_IDS if getattr(self.tokenizer, name) is not None}

    def with_eos(self, text: str) -> str:
        """As TRL: the EOS string is added where the text does not end with it."""
        eos = self.tokenizer.eos_token
        return text if text.endswith(eos) else text + eos

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        encoded = self.tokenizer(texts, return_attention_mask=False, return_token_type_ids=False)
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]
