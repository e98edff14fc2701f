"""sft-prepare --args run.ini [--option value ...] [--force] [--compress]

Turns the run's text into token ids, once: writes the files that run.ini names as train_dataset and eval_dataset, and makes
the model ready for sft-dist. Options are those of run.ini (`sft-dist --help`); of them it uses
  train_file, eval_file                       files (.jsonl .json .csv .tsv .parquet .txt, also .gz), folders or patterns
  dataset_name, dataset_split, eval_split     instead of files: a folder saved by the datasets library, or a hub id
  train_dataset, eval_dataset                 what to write
  tokenizer_name_or_path, model_name_or_path  the tokenizer is the model's unless named
  dataset_text_field, formatting_func         where a row's text is, or file.py:function that makes it
  max_rows, dataset_num_proc, max_length      the first rows only; processes; for the summary: what a run will cut

  --force     prepare again although the files are up to date
  --compress  smaller files, slower to read
  --help      this text
"""

import errno
import os
import sys
from pathlib import Path

from .errors import CONFIG, STORAGE, PrepareError
from .model import find_folder, make_ready
from .options import read_options


def main(arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__.strip())
        return 0
    flags = {flag: flag in arguments for flag in ("--force", "--compress")}
    try:
        options = read_options([argument for argument in arguments if argument not in flags])
        run(options, force=flags["--force"], compress=flags["--compress"])
        return 0
    except PrepareError as error:
        print(f"sft-prepare: error: {error}", file=sys.stderr)
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
    sources = [choose_source(options, "train"), choose_source(options, "eval")]
    model_folder = find_folder(model, "model_name_or_path", with_weights=True) if model else None
    if model_folder:
        make_ready(model_folder)

    # Imported late: h5py and the tokenizer are not needed to report a mistake in the options.
    from .pipeline import Part, prepare
    from .rows import FormattingFunction, RowReader
    from .tokenizer import find_tokenizer

    folder = find_folder(tokenizer_name, "tokenizer_name_or_path", with_weights=False) if tokenizer_name else model_folder
    tokenizer_folder = find_tokenizer(tokenizer_name or model, folder)
    formatting = FormattingFunction(options["formatting_func"]) if options["formatting_func"] else None
    if formatting:
        formatting.load()
    for name, chosen in zip(("train", "eval"), sources):
        if chosen is not None:
            source, record = chosen
            prepare(Part(name=name, output=Path(options[f"{name}_dataset"]), source=source(), record=record,
                         reader=RowReader(options["dataset_text_field"], formatting), tokenizer_folder=tokenizer_folder,
                         model_folder=model_folder, max_rows=options["max_rows"], num_proc=options["dataset_num_proc"],
                         max_length=options["max_length"], compress=compress), force=force)


def choose_source(options: dict, name: str):
    """(function that opens the source, what prepare_config records of it); None when this part is not wanted."""
    from .sources import open_files, open_named

    file_option, output_option = f"{name}_file", f"{name}_dataset"
    split_option = "dataset_split" if name == "train" else "eval_split"
    file, output, split = options[file_option], options[output_option], options[split_option]
    by_name = options["dataset_name"] if name == "train" or split else None
    if file and by_name:
        raise PrepareError(f"{file_option} and dataset_name are both set: one source only.", CONFIG)
    if not file and not by_name:
        if name == "train":
            raise PrepareError("no source: set train_file, or dataset_name (and dataset_split).", CONFIG)
        if output and not Path(output).exists():
            raise PrepareError(f"{output_option} = {output} does not exist and has no source: set eval_file, or dataset_name with eval_split.", CONFIG)
        return None
    if not output:
        raise PrepareError(f"{output_option} must name the file to write, e.g. {output_option} = data/{name}.h5.", CONFIG)
    if Path(output).suffix != ".h5":
        raise PrepareError(f"{output_option} = {output}: the name must end in .h5.", CONFIG)
    if file:
        return lambda: open_files(file, file_option, split or "train"), {"source_file": file}
    return lambda: open_named(by_name, split), {"dataset_name": by_name, "dataset_split": split}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
