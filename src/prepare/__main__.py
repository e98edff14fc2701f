"""sft-prepare --args run.ini [--option value ...] [--force] [--compress]
sft-prepare inspect FILE.h5 [--row N] [--tokens] [--max_length L]     what a prepared file holds, learnt tokens marked

Turns the run's text into token ids, once: writes the files that run.ini names as train_dataset and eval_dataset, and makes
the model ready for sft-dist. Options are those of run.ini (`sft-dist --help`); of them it uses
  train_file, eval_file                       files (.jsonl .json .csv .tsv .parquet .txt, also .gz), folders or patterns
  train_file = a.jsonl:0.7, b.jsonl:0.3       a mixture; eval_file, eval_dataset = name=path, name=path: several evaluation sets
  dataset_name, dataset_split, eval_split     instead of files: a folder saved by the datasets library, or a hub id
  test_split_size                             instead of an evaluation source: this share or number of the training rows
  train_dataset, eval_dataset                 what to write
  tokenizer_name_or_path, model_name_or_path  the tokenizer is the model's unless named
  dataset_text_field, formatting_func         where a row's text is, or file.py:function that makes it
  completion_only_loss, assistant_only_loss   learn only the completion, or only what the assistant says
  chat_template_path, eos_token, pad_token    instead of the tokenizer's own
  max_rows, dataset_num_proc, max_length      the first rows only; processes; for the summary: what a run will cut

  --force     prepare again although the files are up to date
  --compress  smaller files, slower to read
  --help      this text
"""

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import CONFIG, STORAGE, PrepareError, printable
from .model import find_folder, make_ready
from .options import read_options


def main(arguments: list[str]) -> int:
    if arguments[:1] != ["inspect"] and ("--help" in arguments or "-h" in arguments):
        print(__doc__.strip())
        return 0
    flags = {flag: flag in arguments for flag in ("--force", "--compress")}
    try:
        if arguments[:1] == ["inspect"]:
            from .inspect_dataset import main as inspect

            return inspect(arguments[1:])
        options = read_options([argument for argument in arguments if argument not in flags])
        run(options, force=flags["--force"], compress=flags["--compress"])
        return 0
    except PrepareError as error:
        print(f"sft-prepare: error: {printable(str(error))}", file=sys.stderr)
        return error.code
    except BrokenPipeError:  # nobody reads what we print, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        print(f"sft-prepare: error: {error}{full}", file=sys.stderr)
        return STORAGE
    except KeyboardInterrupt:
        print("sft-prepare: interrupted; nothing was changed", file=sys.stderr)
        return 130


def run(options: dict, force: bool = False, compress: bool = False) -> None:
    model, tokenizer_name = options["model_name_or_path"], options["tokenizer_name_or_path"]
    if not model and not tokenizer_name:
        raise PrepareError("model_name_or_path (or tokenizer_name_or_path) must say whose tokenizer to use.", CONFIG)
    sources = [training_source(options), *evaluation_sources(options)]
    model_folder = find_folder(model, "model_name_or_path", with_weights=True, with_tokenizer=not tokenizer_name) if model else None
    if model_folder:
        make_ready(model_folder)

    # Imported late: h5py and the tokenizer are not needed to report a mistake in the options.
    from .pipeline import Part, prepare
    from .rows import FormattingFunction, RowOptions
    from .tokenizer import find_tokenizer

    folder = find_folder(tokenizer_name, "tokenizer_name_or_path", with_weights=False) if tokenizer_name else model_folder
    tokenizer_folder = with_changes(find_tokenizer(tokenizer_name or model, folder), options)
    formatting = FormattingFunction(options["formatting_func"]) if options["formatting_func"] else None
    if formatting:
        formatting.load()
    row_options = RowOptions(options["dataset_text_field"], formatting, options["completion_only_loss"], options["assistant_only_loss"])
    split, first_training = split_of(options), None
    refuse_same_output([*((chosen.name, chosen.output) for chosen in sources), *([("eval", split.output)] if split else [])])
    for chosen in sources:
        source = chosen.open()
        first = next(iter(source), None)
        first_training = first_training or first
        prepare(Part(name=chosen.name, output=chosen.output, source=source, record=chosen.record | recorded(options),
                     row_format=row_options.format_of(first, first_training) if first else None, tokenizer_folder=tokenizer_folder,
                     model_folder=model_folder, max_rows=options["max_rows"], num_proc=options["dataset_num_proc"], max_length=options["max_length"],
                     compress=compress, split=split if chosen.name == "train" else None), force=force)


def split_of(options: dict):
    from .pipeline import Split

    size = options["test_split_size"]
    return None if size is None else Split(evaluation_output(options), size, options["seed"])


def recorded(options: dict) -> dict:
    """What prepare_config says of the options that decide ids and labels (docs/data-format.md)."""
    names = ("dataset_text_field", "formatting_func", "completion_only_loss", "assistant_only_loss", "chat_template_path", "eos_token", "pad_token")
    return {name: None if options[name] == "" else options[name] for name in names}


def with_changes(folder, options: dict):
    """The tokenizer as the run wants it: eos_token, pad_token, chat_template_path."""
    from .chat import read_template_choice
    from .tokenizer import load_tokenizer

    eos_token, template, is_only_eos = options["eos_token"] or None, None, False
    if path := options["chat_template_path"]:
        choice = read_template_choice(path, lambda name: load_tokenizer(find_folder(name, "chat_template_path", with_weights=False)))
        template, eos_token, is_only_eos = choice.text, choice.eos_token or eos_token, choice.eos_token is not None
        vocabulary = load_tokenizer(folder.path).get_vocab()
        if missing := [token for token in choice.added_tokens if token not in vocabulary]:
            raise PrepareError(f"chat_template_path = {path}: that tokenizer has tokens that this one has not ({', '.join(missing[:5])}), and the "
                               "model's embedding has no rows for them: use a template of tokens that exist.", CONFIG)
    return replace(folder, eos_token=eos_token, pad_token=options["pad_token"] or None, chat_template=template, is_only_eos=is_only_eos)


@dataclass
class Chosen:
    name: str             # "train", "eval" or "eval NAME"
    output: Path
    open: Callable        # gives the source
    record: dict          # what prepare_config says of it


def training_source(options: dict) -> Chosen:
    from .sources import open_mixture, open_named

    file, name, split = options["train_file"], options["dataset_name"], options["dataset_split"]
    if file and name:
        raise PrepareError("train_file and dataset_name are both set: one source only.", CONFIG)
    if not file and not name:
        raise PrepareError("no source: set train_file, or dataset_name (and dataset_split).", CONFIG)
    output = checked_output("train_dataset", options["train_dataset"])
    if file:
        return Chosen("train", output, lambda: open_mixture(file, "train_file", split or "train", options["max_rows"]), {"source_file": file})
    return Chosen("train", output, lambda: open_named(name, split, "dataset_split"), {"dataset_name": name, "dataset_split": split})


def evaluation_sources(options: dict) -> list[Chosen]:
    from .sources import named_paths, open_files, open_named

    if options["test_split_size"] is not None:  # written with the training set
        return []
    outputs, split = dict(named_paths(options["eval_dataset"])), options["eval_split"]
    if files := named_paths(options["eval_file"]):
        if split and options["dataset_name"]:
            raise PrepareError("eval_file and dataset_name with eval_split are both set: one source only.", CONFIG)
        return [Chosen(f"eval {name}".strip(), checked_output("eval_dataset", outputs.get(name)),
                       lambda path=path: open_files(path, "eval_file", split or "test"), {"source_file": path}) for name, path in files]
    if options["dataset_name"] and split:
        return [Chosen("eval", evaluation_output(options), lambda: open_named(options["dataset_name"], split, "eval_split"),
                       {"dataset_name": options["dataset_name"], "dataset_split": split})]
    for output in outputs.values():
        if not Path(output).exists():
            raise PrepareError(f"eval_dataset = {output} does not exist and has no source: set eval_file, dataset_name with eval_split, or "
                               "test_split_size.", CONFIG)
    return []


def evaluation_output(options: dict) -> Path:
    """Of the only evaluation set."""
    from .sources import named_paths

    return checked_output("eval_dataset", next((path for _, path in named_paths(options["eval_dataset"])), None))


def refuse_same_output(outputs: list[tuple[str, Path]]) -> None:
    names = {}
    for name, path in outputs:
        other = names.setdefault(path.resolve(), name)
        if other != name:
            raise PrepareError(f"{path} is to hold both the rows of {other} and those of {name}: give each a file of its own.", CONFIG)


def checked_output(option: str, output: str | None) -> Path:
    if not output:
        raise PrepareError(f"{option} must name the file to write, e.g. {option} = data/{option.split('_')[0]}.h5.", CONFIG)
    if Path(output).suffix != ".h5":
        raise PrepareError(f"{option} = {output}: the name must end in .h5.", CONFIG)
    return Path(output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
