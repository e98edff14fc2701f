"""sft-prepare: sources, the file it writes, what it refuses, and that it leaves nothing half done."""

import csv
import errno
import gzip
import hashlib
import json
import shutil
import subprocess
import sys

import datasets
import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import xxhash
from prepare_support import content_hash, prepare, read_labels, read_rows, tiny_model, write_jsonl

from prepare import errors, make_python_chats
from prepare.chat import TRAINING_TEMPLATES
from prepare.dataset_file import DatasetWriter
from prepare.encode import Encoder
from prepare.errors import PrepareError
from prepare.pipeline import Part, make_tasks
from prepare.rows import Kind, RowFormat, read_messages
from prepare.sources import FileSource, open_files
from prepare.split_names import KEYWORDS
from prepare.tokenizer import Tokenizer, TokenizerFolder

TEXTS = [f"Row {number}, with \"quotes\", a comma and a word: {'word ' * (number % 7)}ü" for number in range(600)]
ROWS = [{"text": text, "label": number} for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    """Ids of TEXTS by the tokenizers library alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return [tokenizer.encode(text + "<|endoftext|>").ids for text in TEXTS]


def write_csv(path, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_source(kind, folder):
    """The rows in one of the kinds of source; returns the options that name it."""
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        write_jsonl(path, ROWS)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(write_jsonl(folder / "plain.jsonl", ROWS).read_bytes()))
    elif kind == "jsonl.GZ":
        path.write_bytes(gzip.compress(write_jsonl(folder / "plain.jsonl", ROWS).read_bytes()))
    elif kind == "json array":
        path = folder / "rows.json"
        path.write_text(json.dumps(ROWS))
    elif kind == "json data":
        path = folder / "rows.json"
        path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=1))
    elif kind == "json data in one line":
        path = folder / "rows.json"
        path.write_text(json.dumps({"version": 1, "data": ROWS}) + "\n")
    elif kind == "json lines with data":
        path = folder / "rows.json"
        write_jsonl(path, [row | {"data": []} for row in ROWS])
    elif kind == "json lines after blank ones":
        path = folder / "rows.json"
        path.write_bytes(b"\xef\xbb\xbf\n \r\n" + b"\n" * 5000 + write_jsonl(folder / "plain.jsonl", ROWS).read_bytes())
    elif kind == "json array after blank lines":
        path = folder / "rows.json"
        path.write_text("\n" * 5000 + json.dumps(ROWS, indent=1))
    elif kind == "json lines":
        path = folder / "rows.json"
        write_jsonl(path, ROWS)
    elif kind == "csv":
        write_csv(path, ROWS)
    elif kind == "tsv":
        write_csv(path, ROWS, delimiter="\t")
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=100)
    elif kind == "txt":
        path.write_text("\n\n".join(TEXTS))
    elif kind == "folder":
        path = folder / "parts"
        (path / "b").mkdir(parents=True)
        write_jsonl(path / "a.jsonl", ROWS[:100])
        write_csv(path / "b" / "rest.csv", ROWS[100:])
        (path / "README.md").write_text("not a row")
    elif kind == "pattern":
        write_jsonl(folder / "part-1.jsonl", ROWS[:100])
        write_jsonl(folder / "part-2.jsonl", ROWS[100:])
        write_jsonl(folder / "other.jsonl", ROWS)
        path = folder / "part-*.jsonl"
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == "saved splits":
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}).save_to_disk(path)
    elif kind == "dataset_name":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
        return {"train_file": "", "dataset_name": str(path)}
    return {"train_file": str(path)}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.GZ", "json array", "json data", "json data in one line", "json lines", "json lines with data",
                                  "json lines after blank ones", "json array after blank lines", "csv", "tsv", "parquet", "txt", "folder", "pattern",
                                  "saved", "saved splits", "dataset_name"])
def test_every_kind_of_source_gives_the_same_rows(kind, model, reference, tmp_path):
    output = prepare(model, output=tmp_path / "out" / "rows.h5", **write_source(kind, tmp_path))
    assert read_rows(output) == reference


def test_a_pattern_leaves_out_the_tokenizer_beside_the_result(model, tmp_path):
    """vocab.txt and the like would become rows when it is called again."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.txt").write_text("\n".join(TEXTS[:20]))
    output, pattern = tmp_path / "data" / "train.h5", tmp_path / "**" / "*.txt"
    prepare(model, pattern, output)
    (output.with_suffix(".tokenizer") / "vocab.txt").write_text("a\nb\n")
    prepare(model, pattern, output, force=True)
    assert len(read_rows(output)) == 20
    (output.with_suffix(".tokenizer") / "merges.txt").write_text("a\nb\n")
    assert [file.name for file in open_files(str(pattern), "train_file", "train").files] == ["rows.txt"]


def test_pictures_that_are_not_asked_for_are_not_looked_at(model, reference, tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "photo": datasets.Image()})
    rows = [{"text": row["text"], "photo": {"bytes": b"no picture", "path": None}} for row in ROWS[:5]]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    prepare(model, tmp_path / "saved", tmp_path / "rows.h5")
    assert read_rows(tmp_path / "rows.h5") == reference[:5]


def test_what_is_said_of_rows_cannot_steer_the_terminal(model, tmp_path, capsys):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {"messages": [{"role": "\x1b]0;x\x07", "content": "a"}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(model, tmp_path / "rows.jsonl", tmp_path / "rows.h5", assistant_only_loss=True, chat_template_path=str(TRAINING_TEMPLATES / "chatml.jinja"))
    said = capsys.readouterr().out
    assert "\\x1b]0;x\\x07" in said and "\x1b" not in said


def test_from_and_value_win_over_role_and_content_in_conversations():
    both = {"from": "human", "value": "new", "role": "user", "content": "old"}
    assert read_messages({"conversations": [dict(both)]}, "conversations")[0] == [{"role": "human", "content": "new"}]
    assert read_messages({"messages": [dict(both)]}, "messages")[0][0]["content"] == "old"


def test_eval_and_train_from_one_file_each(model, reference, tmp_path):
    source = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    prepare(model, source, tmp_path / "train.h5", eval_file=str(write_jsonl(tmp_path / "eval.jsonl", ROWS[5:9])),
            eval_dataset=str(tmp_path / "eval.h5"), max_rows=10)
    assert read_rows(tmp_path / "train.h5") == reference[:10]
    assert read_rows(tmp_path / "eval.h5") == reference[5:9]


@pytest.mark.parametrize("names, splits, pattern", [
    (("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"), "test, train", "train*.jsonl"),
    (("my_Train.jsonl", "b/dev/rows1.jsonl"), "train, validation", "*Train*.jsonl"),
    (("a/Train2/rows.jsonl", "a/rows.eval.jsonl"), "test, train", "a/Train2/**/*.jsonl"),
    (("train/test-cases.jsonl", "training.jsonl", "trainer.jsonl", "contest.jsonl", "more/device.jsonl"), "", ""),
    (("test.jsonl", "testing-2.jsonl"), "", ""),
], ids=str)
def test_a_folder_of_several_splits_is_refused(names, splits, pattern, model, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "rows"
    for number, name in enumerate(sorted(names)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / name, [ROWS[number]])
    if not splits:
        prepare(model, folder, tmp_path / "rows.h5")
        assert sorted(read_rows(tmp_path / "rows.h5")) == sorted(reference[:len(names)])
        return
    with pytest.raises(PrepareError) as error:
        prepare(model, folder, tmp_path / "rows.h5")
    assert error.value.code == errors.CONFIG and f"several splits ({splits}): name those of one by a pattern such as {folder}/{pattern}," in str(error.value)
    train = [reference[number] for number, name in enumerate(sorted(names)) if "train" in name.lower()]
    assert read_rows(prepare(model, folder / pattern, tmp_path / "pattern.h5")) == train
    if all("/" not in name for name in names):  # `datasets` wants all names of one kind
        assert read_rows(prepare(model, "", tmp_path / "named.h5", dataset_name=str(folder))) == train
    assert len(read_rows(prepare(model, folder / "**" / "*.jsonl", tmp_path / "all.h5"))) == len(names)


def test_splits_are_named_as_datasets_names_them():
    from datasets.data_files import SPLIT_KEYWORDS

    assert KEYWORDS == {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}


@pytest.mark.parametrize("name", ["rows.jsonl.zst", "more/rows.csv.XZ", "rows.parquet.bz2", "rows.txt.zip"])
def test_compressed_rows_of_a_folder_are_not_skipped(name, model, tmp_path):
    folder = tmp_path / "rows"
    for file in (folder / name, folder / "notes.zip"):  # the second may be anything
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"packed")
    write_jsonl(folder / "rows.jsonl", ROWS[:3])
    with pytest.raises(PrepareError, match=f"the folder holds {name.rpartition('/')[2]}, and of compressed files only .gz is read: decompress") as error:
        prepare(model, folder, tmp_path / "rows.h5")
    assert error.value.code == errors.CONFIG
    (folder / name).unlink()
    assert len(read_rows(prepare(model, folder, tmp_path / "rows.h5"))) == 3


def test_an_evaluation_file_of_splits_is_its_test_split(model, reference, tmp_path):
    """As TRL's dataset_test_split, never the rows that are trained on."""
    parts = {name: datasets.Dataset.from_list(ROWS[begin:begin + 4]) for name, begin in (("train", 0), ("test", 50), ("validation", 90))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    evaluation = {"eval_file": str(tmp_path / "saved"), "eval_dataset": str(tmp_path / "eval.h5")}
    for split, begin in (("", 50), ("validation", 90)):
        prepare(model, tmp_path / "saved", tmp_path / "train.h5", eval_split=split, **evaluation)
        assert read_rows(tmp_path / "train.h5") == reference[:4] and read_rows(tmp_path / "eval.h5") == reference[begin:begin + 4]
    del parts["test"]
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "other")
    with pytest.raises(PrepareError, match="has no split 'test': it has train, validation; set eval_split") as error:
        prepare(model, tmp_path / "other", tmp_path / "train.h5", **evaluation | {"eval_file": str(tmp_path / "other")})
    assert error.value.code == errors.CONFIG
    with pytest.raises(PrepareError, match="has no split 'dev': it has train, validation; set dataset_split"):
        prepare(model, tmp_path / "other", tmp_path / "train.h5", dataset_split="dev")


def test_a_folder_may_be_named_like_a_share(model, reference, tmp_path):
    (tmp_path / "part:12").mkdir()
    write_jsonl(tmp_path / "part:12" / "rows.jsonl", ROWS[:5])
    prepare(model, tmp_path / "part:12", tmp_path / "train.h5")
    assert read_rows(tmp_path / "train.h5") == reference[:5]


@pytest.mark.parametrize("sizes, fractions, max_rows, taken", [
    ((100, 100), (0.7, 0.3), 10, (7, 3)), ((100, 100), (0.7, 0.3), 130, (91, 39)), ((100, 100), (0.7, 0.3), 150, (100, 43)),
    ((40, 50, 60), (1, 1, 1), 10, (3, 4, 3)), ((100, 50, 40), None, 30, (16, 8, 6)), ((100, 50, 40), None, 1000, (100, 50, 40)),
])
def test_rows_of_a_mixture_are_taken_in_its_shares(sizes, fractions, max_rows, taken, model, reference, tmp_path):
    files = [write_jsonl(tmp_path / f"{part}.jsonl", ROWS[100 * part:][:size]) for part, size in enumerate(sizes)]
    text = ", ".join(f"{file}:{fractions[part]}" if fractions else str(file) for part, file in enumerate(files))
    output = prepare(model, text, tmp_path / "rows.h5", max_rows=max_rows)
    assert read_rows(output) == [row for part, rows in enumerate(taken) for row in reference[100 * part:][:rows]]


def test_several_evaluation_sets(model, reference, tmp_path):
    files = [write_jsonl(tmp_path / f"{name}.jsonl", ROWS[begin:begin + 4]) for name, begin in (("one", 5), ("two", 50))]
    prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "train.h5", eval_file=f"one={files[0]}, t-2 = {files[1]}",
            eval_dataset=f"t-2={tmp_path}/e2.h5,one={tmp_path}/e1.h5")
    assert read_rows(tmp_path / "e1.h5") == reference[5:9] and read_rows(tmp_path / "e2.h5") == reference[50:54]


@pytest.mark.parametrize("compress", [False, True])
def test_rows_set_aside(compress, model, reference, tmp_path, capsys):
    """Every row is in one of the two files, with its labels; the same again for the same seed, others for another."""
    rows = [{"input_ids": ids, "labels": [-100] * (number % len(ids)) + ids[number % len(ids):]} for number, ids in enumerate(reference[:200])]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)

    def split(name, **options):
        outputs = tmp_path / f"{name}-train.h5", tmp_path / f"{name}-test.h5"
        prepare(model, source, outputs[0], compress=compress, eval_dataset=str(outputs[1]), **({"test_split_size": 0.13} | options))
        return [list(zip(map(tuple, read_rows(output)), map(tuple, read_labels(output)))) for output in outputs]

    train, test = split("first")
    assert len(test) == 26 and sorted(train + test) == sorted((tuple(row["input_ids"]), tuple(row["labels"])) for row in rows)
    assert split("again") == [train, test]
    assert split("other", seed=7) != [train, test]
    assert len(split("rows", test_split_size=5)[1]) == 5
    capsys.readouterr()
    assert split("again") == [train, test] and "up to date" in capsys.readouterr().out
    split("again", seed=7)
    assert capsys.readouterr().out.count("prepared again (split_seed)") == 2
    with h5py.File(tmp_path / "again-test.h5") as file:
        config = json.loads(file["prepare_config"][()])
        assert (config["part"], config["test_split_size"], config["split_seed"]) == ("eval", 0.13, 7) and config["source_file"] == str(source)
        assert file.attrs["num_tokens"] == len(file["input_ids"]) and file.attrs["num_target_tokens"] == file["loss_mask"][()].sum()
    with pytest.raises(PrepareError, match="leaves no row to train on"):
        split("none", test_split_size=200)


@pytest.mark.parametrize("compress", [False, True])
def test_the_file_is_as_specified(compress, model, tmp_path):
    """docs/data-format.md, checked with h5py and hashlib, not with sft-prepare's own code."""
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "rows.h5", compress=compress)
    with h5py.File(output) as file:
        attributes, hashes = dict(file.attrs), {}
        for name, dtype in (("input_ids", "<i4"), ("offsets", "<i8")):
            assert file[name].dtype == np.dtype(dtype)
            assert (file[name].chunks is not None) == compress
            hashes[name] = xxhash.xxh3_128(file[name][()].astype(dtype).tobytes()).hexdigest()
            assert file[name].attrs["xxh3"].decode() == hashes[name]
        config = file["prepare_config"][()]
        assert file["prepare_config"].attrs["xxh3"].decode() == xxhash.xxh3_128(config).hexdigest()
        assert {name: len(file[name].shape) for name in file} == {"input_ids": 1, "offsets": 1, "prepare_config": 0}
        for name in ("format", "tokenizer_sha256", "content_xxh3"):
            assert file.attrs.get_id(name).dtype.kind == "S" and file.attrs.get_id(name).shape == ()
        for name in ("version", "vocab_size", "num_tokens"):
            assert file.attrs.get_id(name).dtype == np.dtype("<i8")
        tokens, rows, largest = len(file["input_ids"]), len(file["offsets"]) - 1, file["input_ids"][()].max()
    assert rows == len(ROWS)
    assert attributes["tokenizer_sha256"].decode() == hashlib.sha256((model / "tokenizer.json").read_bytes()).hexdigest()
    text = (f"format=sft-dist-dataset\nversion=1\nvocab_size={largest + 1}\nbos_token_id=none\neos_token_id=0\npad_token_id=0\nnum_tokens={tokens}\n"
            f"num_target_tokens={tokens}\ntokenizer_sha256={attributes['tokenizer_sha256'].decode()}\n"
            f"input_ids={hashes['input_ids']}\noffsets={hashes['offsets']}\n")
    assert attributes["content_xxh3"].decode() == xxhash.xxh3_128(text.encode()).hexdigest()
    prepared = json.loads(config)
    assert prepared["source_file"].endswith("rows.jsonl") and prepared["part"] == "train" and prepared["dataset_name"] is None
    assert prepared["dataset_text_field"] == "text" and prepared["formatting_func"] is None and prepared["max_rows"] is None


@pytest.mark.parametrize("labels, written", [
    ([[-100, 6, 7], [-100], [9, -100]], {"loss_mask": [0, 1, 1, 0, 1, 0], "first_target": [1, 1, 0]}),
    ([[-100, 6, 12], [-100], [9, -100]], {"labels": [-100, 6, 12, -100, 9, -100], "first_target": [1, 1, 0]}),
    ([[5, 6, 7], [8], [9, 10]], {}),
])
def test_labels_are_written_as_specified(labels, written, tmp_path):
    rows = [[5, 6, 7], [8], [9, 10]]
    with DatasetWriter(tmp_path / "labelled.h5", labelled=True) as writer:
        writer.append([np.array(row, np.int32) for row in rows], [np.array(row, np.int32) for row in labels])
        writer.commit({"tokenizer_sha256": "0" * 64}, {})
    with h5py.File(tmp_path / "labelled.h5") as file:
        assert {name: file[name][()].tolist() for name in ("loss_mask", "labels", "first_target") if name in file} == written
        assert file.attrs["num_target_tokens"] == sum(label != -100 for row in labels for label in row) and file.attrs["num_tokens"] == 6
        assert file.attrs["vocab_size"] == 1 + max(map(max, rows + labels))


def test_the_result_does_not_depend_on_the_number_of_processes(model, tmp_path):
    source = write_jsonl(tmp_path / "rows.jsonl", ROWS * 3)
    hashes = {content_hash(prepare(model, source, tmp_path / f"{processes}.h5", dataset_num_proc=processes)) for processes in (1, 2, 3)}
    assert len(hashes) == 1


def test_rows_of_ids_do_not_each_build_the_vocabulary(model):
    tokenizer = Tokenizer(TokenizerFolder("tiny", model))
    build, built = tokenizer.tokenizer.get_vocab, []
    tokenizer.tokenizer.get_vocab = lambda: built.append(1) or build()
    rows = [({"input_ids": [number]}, f"row {number}") for number in range(5)]
    assert len(Encoder(tokenizer, RowFormat(Kind.IDS)).encode(rows).ids) == 5
    assert len(built) == 1


def test_tokenizer_files_lie_beside_the_data_set(model, tmp_path):
    prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "rows.h5")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "rows.tokenizer" / name).read_bytes() == (model / name).read_bytes()


def test_named_chat_templates_lie_there_too_until_one_is_chosen(model, tmp_path):
    mine = shutil.copytree(model, tmp_path / "model")
    tokenizer = Tokenizer(TokenizerFolder("", mine)).tokenizer
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "tool_use": "{{ tools | length }}"}
    tokenizer.save_pretrained(mine)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "There."}]}])
    prepare(mine, rows, tmp_path / "rows.h5")
    assert Tokenizer(TokenizerFolder("", tmp_path / "rows.tokenizer")).tokenizer.chat_template == tokenizer.chat_template
    (tmp_path / "mine.jinja").write_text("{{ messages[1].content }}")
    prepare(mine, rows, tmp_path / "chosen.h5", chat_template_path=str(tmp_path / "mine.jinja"))
    assert Tokenizer(TokenizerFolder("", tmp_path / "chosen.tokenizer")).tokenizer.chat_template == "{{ messages[1].content }}"


def test_unusable_rows_are_counted_and_named(model, tmp_path, capsys):
    rows = [{"text": "good"}, {"text": None}, {"text": 3}, {"other": 1}, {"text": ["list"]}, {"text": None}, {"text": "\ud800"}, {"text": ""}]
    output = prepare(model, write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.h5")
    assert len(read_rows(output)) == 2  # an empty text is a row with only EOS, as in TRL
    said = capsys.readouterr().out
    for line in ("2 null (rows.jsonl:2, rows.jsonl:6)", "1 not a string but int (rows.jsonl:3)", "1 without field 'text' (rows.jsonl:4)",
                 "1 not a string but list (rows.jsonl:5)", "1 not valid Unicode (half a surrogate pair) (rows.jsonl:7)"):
        assert f"dropped: {line}" in said


def test_summary(model, reference, tmp_path, capsys):
    prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "rows.h5", max_length=40)
    said = capsys.readouterr().out
    lengths = np.array([len(row) for row in reference])
    cut = np.minimum(lengths, 40)
    assert f"600 rows (text), {lengths.sum():,} tokens" in said
    assert f"longest {lengths.max():,}" in said and f"mean {lengths.mean():,.0f}" in said
    assert f"max_length = 40 cuts {(lengths > 40).sum():,} rows" in said
    assert f"leaves out {(lengths - cut).sum():,} tokens" in said
    assert f"target tokens in an epoch after the cut: {(cut - 1).sum():,}" in said


def test_up_to_date_files_are_left_alone(model, tmp_path, capsys):
    source, output = write_jsonl(tmp_path / "rows.jsonl", ROWS[:20]), tmp_path / "rows.h5"
    said = lambda: capsys.readouterr().out  # noqa: E731
    prepare(model, source, output)
    written = output.stat().st_mtime_ns
    said()
    prepare(model, source, output)
    assert "up to date" in said() and output.stat().st_mtime_ns == written
    prepare(model, source, output, max_length=7)  # a matter of the run, not of the file
    assert "up to date" in said()
    prepare(model, source, output, force=True)
    assert "prepared again (--force)" in said() and output.stat().st_mtime_ns > written
    prepare(model, source, output, max_rows=5)
    assert "prepared again (max_rows)" in said() and len(read_rows(output)) == 5
    shutil.copytree(tmp_path, tmp_path.parent / "moved", copy_function=shutil.copy2)  # keeps the times
    prepare(model, tmp_path.parent / "moved" / "rows.jsonl", tmp_path.parent / "moved" / "rows.h5", max_rows=5)
    assert "up to date" in said()
    write_jsonl(source, ROWS[:21])
    prepare(model, source, output, max_rows=5)
    assert "source_fingerprint" in said()


def test_another_end_of_sequence_is_noticed_and_so_is_another_tokenizer_folder(model, tmp_path, capsys):
    mine = shutil.copytree(model, tmp_path / "model")
    source, output = write_jsonl(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "rows.h5"
    prepare(mine, source, output)
    config = json.loads((mine / "tokenizer_config.json").read_text())
    other = next(token for token in Tokenizer(TokenizerFolder("", mine)).tokenizer.get_vocab() if token != config["eos_token"])
    (mine / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": other}))
    capsys.readouterr()
    prepare(mine, source, output)
    assert "prepared again (tokenizer_eos_token, tokenizer_folder_sha256)" in capsys.readouterr().out
    (output.with_suffix(".tokenizer") / "tokenizer_config.json").write_text("{}")
    prepare(mine, source, output)
    assert "its tokenizer folder is not the one that was written with it" in capsys.readouterr().out
    prepare(mine, source, output)
    assert "up to date" in capsys.readouterr().out


def test_an_evaluation_set_follows_the_kind_of_the_training_rows(model, tmp_path):
    """As TRL, which masks prompts where the first training row has one."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "One, two, ", "completion": "three."}] * 3)
    texts = write_jsonl(tmp_path / "texts.jsonl", ROWS[:3])
    for training, masked in ((texts, False), (pairs, True), (texts, False)):
        prepare(model, training, tmp_path / "train.h5", eval_file=str(pairs), eval_dataset=str(tmp_path / "eval.h5"))
        assert all((-100 in labels) == masked for labels in read_labels(tmp_path / "eval.h5"))


def test_a_folder_of_rows_may_hold_the_data_set_too(model, reference, tmp_path, capsys):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for file in (tmp_path / "rows.jsonl", tmp_path / ".ipynb_checkpoints" / "rows-checkpoint.jsonl"):
        write_jsonl(file, ROWS[:3])
    prepare(model, tmp_path, tmp_path / "train.h5")
    assert read_rows(tmp_path / "train.h5") == reference[:3] and (tmp_path / "train.tokenizer" / "tokenizer.json").is_file()
    capsys.readouterr()
    prepare(model, tmp_path, tmp_path / "train.h5")
    assert "up to date" in capsys.readouterr().out


def test_the_only_evaluation_set_may_have_a_name(model, tmp_path):
    source = write_jsonl(tmp_path / "rows.jsonl", ROWS[:20])
    prepare(model, source, tmp_path / "train.h5", eval_dataset=f"held={tmp_path}/eval.h5", test_split_size=5)
    assert len(read_rows(tmp_path / "eval.h5")) == 5


@pytest.mark.parametrize("options", [{"test_split_size": 5, "eval_dataset": "train.h5"}, {"eval_file": "rows.jsonl", "eval_dataset": "./train.h5"},
                                     {"eval_file": "a=rows.jsonl,b=rows.jsonl", "eval_dataset": "a=eval.h5,b=eval.h5"}], ids=str)
def test_no_file_is_written_twice(options, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", ROWS[:20])
    with pytest.raises(PrepareError, match="give each a file of its own"):
        prepare(model, "rows.jsonl", "train.h5", **options)
    assert not (tmp_path / "train.h5").exists()


def test_columns_of_one_name_are_told_apart_as_pandas_does(model, reference, tmp_path):
    with open(tmp_path / "rows.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "text"], [ROWS[0]["text"], "another"]])
    assert read_rows(prepare(model, tmp_path / "rows.csv", tmp_path / "rows.h5")) == reference[:1]


@pytest.mark.parametrize("suffix, delimiter", [("csv", ","), ("tsv", "\t")])
def test_cells_that_a_row_lacks_are_null_as_to_pandas(suffix, delimiter, model, tmp_path, capsys):
    file = tmp_path / f"rows.{suffix}"
    file.write_text("id,text,label\n1,one,a\n2,two\n3\n".replace(",", delimiter))
    rows = [row for row, _ in FileSource([file])]
    read = datasets.load_dataset("csv", data_files=str(file), sep=delimiter, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows == [row | {"id": str(row["id"])} for row in read] and rows[2] == {"id": "3", "text": None, "label": None}
    assert len(read_rows(prepare(model, file, tmp_path / "rows.h5"))) == 2
    assert f"dropped: 1 null (rows.{suffix}:4)" in capsys.readouterr().out


def test_a_full_disk_changes_neither_part_of_a_split(model, tmp_path, monkeypatch):
    outputs = [tmp_path / "train.h5", tmp_path / "eval.h5"]
    make = lambda **options: prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS[:20]), outputs[0],  # noqa: E731
                                     eval_dataset=str(outputs[1]), test_split_size=5, **options)
    make()
    files = [*outputs, *(output.with_suffix(".tokenizer") / "tokenizer_config.json" for output in outputs)]
    before = [file.read_bytes() for file in files]
    written = DatasetWriter.write_rows

    def fill(self, path, rows, *more):
        if rows.num_rows == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(self, path, rows, *more)

    monkeypatch.setattr(DatasetWriter, "write_rows", fill)
    with pytest.raises(OSError, match="No space"):
        make(seed=7, pad_token="<|endoftext|>")
    assert [file.read_bytes() for file in files] == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_tasks_of_long_rows_are_short(tmp_path):
    texts = [{"text": "x" * (1 << 20)}] * 10
    part = Part("train", tmp_path / "rows.h5", FileSource([write_jsonl(tmp_path / "rows.jsonl", texts)]), RowFormat(Kind.TEXT), None)
    assert [len(task) for task in make_tasks(part)] == [4, 4, 2]


def test_a_killed_process_is_taken_for_want_of_memory(model, tmp_path):
    (tmp_path / "kill.py").write_text("import os\n\ndef f(row):\n    os.kill(os.getpid(), 9)\n")
    with pytest.raises(PrepareError, match="for want of memory: set dataset_num_proc .now 2. lower") as error:
        prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "rows.h5", formatting_func=f"{tmp_path}/kill.py:f", dataset_num_proc=2)
    assert error.value.code == errors.OUT_OF_MEMORY


def test_a_failure_leaves_the_old_file_and_no_litter(model, tmp_path):
    source, output = write_jsonl(tmp_path / "rows.jsonl", ROWS), prepare(model, write_jsonl(tmp_path / "old.jsonl", ROWS[:3]), tmp_path / "rows.h5")
    before = output.read_bytes()
    (tmp_path / "bad.py").write_text("def f(row):\n    assert row['label'] < 599\n    return 'x'\n")
    with pytest.raises(PrepareError, match=r"formatting_func f failed on rows.jsonl:600: AssertionError"):
        prepare(model, source, output, formatting_func=f"{tmp_path}/bad.py:f", dataset_num_proc=2)
    assert output.read_bytes() == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_a_killed_writer_left_is_removed(model, tmp_path):
    source, output = write_jsonl(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "rows.h5"
    code = ("import os, sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]; from prepare.dataset_file import DatasetWriter; "
            "DatasetWriter(Path(sys.argv[1])); os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", code, str(output), *sys.path]).returncode == -9
    assert list(tmp_path.glob(".rows.h5.*"))
    with DatasetWriter(output) as living:
        prepare(model, source, output)
        assert list(tmp_path.glob(".rows.h5.*")) == [living.folder]


@pytest.mark.parametrize(("name", "content", "options", "code", "message"), [
    ("rows.jsonl", '{"text": "a"}\n{"text": \n', {}, errors.INVALID_DATA, "rows.jsonl:2: not JSON"),
    ("rows.jsonl", '["a"]\n', {}, errors.INVALID_DATA, "rows.jsonl:1: a row must be a JSON object"),
    ("rows.jsonl", b'{"text": "\xff"}\n', {}, errors.INVALID_DATA, "is not UTF-8"),
    ("rows.jsonl", "\n", {}, errors.INVALID_DATA, "no row is left"),
    ("rows.jsonl", '{"text": null}\n', {}, errors.INVALID_DATA, "1 null"),
    ("rows.jsonl", '{"txt": "a"}\n', {}, errors.CONFIG, "has no field 'text' (fields: txt): set dataset_text_field"),
    ("rows.jsonl", '{"messages": [{"role": "user", "content": "a"}]}\n', {}, errors.CONFIG, "has no chat template: name one in chat_template_path"),
    ("rows.jsonl", '{"messages": []}\n', {"chat_template_path": "CHATML"}, errors.INVALID_DATA, "1 without a list of messages in 'messages'"),
    ("rows.jsonl", '{"prompt": "a"}\n', {}, errors.CONFIG, "has prompt alone (fields: prompt)"),
    ("rows.jsonl", '{"prompt": "a", "completion": []}\n', {}, errors.CONFIG, "both be strings or both be lists"),
    ("rows.jsonl", '{"prompt": "a", "completion": "b", "image": 1}\n', {}, errors.CONFIG, "has images"),
    ("rows.jsonl", '{"text": "a"}\n', {"assistant_only_loss": True}, errors.CONFIG, "assistant_only_loss = true needs chat rows"),
    ("rows.jsonl", '{"text": "a"}\n', {"completion_only_loss": True}, errors.CONFIG, "completion_only_loss = true needs rows with prompt"),
    ("rows.jsonl", '{"text": "a"}\n', {"eos_token": "<nope>"}, errors.CONFIG, "eos_token = <nope>: the tokenizer in"),
    ("rows.jsonl", '{"text": "a"}\n', {"pad_token": "<nope>"}, errors.CONFIG, "pad_token = <nope>: the tokenizer in"),
    ("rows.jsonl", '{"text": "a"}\n', {"chat_template_path": "/nowhere/x.jinja"}, errors.CONFIG, "there is no such file"),
    ("rows.jsonl", '{"input_ids": [5, 512]}\n', {}, errors.INVALID_DATA, "has the token id 512; the tokenizer's are below 512"),
    ("rows.jsonl", '{"input_ids": [5], "labels": [-1]}\n', {}, errors.INVALID_DATA, "has the label -1"),
    ("rows.jsonl", '{"input_ids": [5], "assistant_masks": [2]}\n', {}, errors.INVALID_DATA, "holds other values than 0 and 1"),
    ("rows.jsonl", '{"input_ids": [5], "labels": [-100]}\n', {}, errors.INVALID_DATA, "no token of any row is learnt"),
    ("rows.csv", 'text,label\n"a",1\n"b",2,3\n', {}, errors.INVALID_DATA, "row 2 (ending in line 3) has 3 fields, the header has 2"),
    ("rows.csv", 'id,text\n1,fine\n2,"open\n3,lost\n', {}, errors.INVALID_DATA, "row 2 has a quote that is not closed"),
    ("rows.csv.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 30, {}, errors.INVALID_DATA, "cannot be decompressed"),
    ("rows.json", '{"rows": []}', {}, errors.CONFIG, "rows.json:1 has no field 'text'"),
    ("rows.json", '[{"text": "a"}, 7]', {}, errors.INVALID_DATA, "entry 2 is not an object"),
    ("rows.parquet", "PAR1 no", {}, errors.INVALID_DATA, "not a readable Parquet file"),
    ("rows.jsonl.gz", "plain", {}, errors.INVALID_DATA, "cannot be decompressed"),
    ("rows.xml", "<a/>", {}, errors.CONFIG, "the kind of"),
    ("rows.jsonl", '{"text": "a"}\n', {"train_file": "/nowhere/x.jsonl"}, errors.INVALID_DATA, "there is no such file"),
    ("rows.jsonl", '{"text": "a"}\n', {"train_file": ",".join(["/nowhere/x.jsonl:0.5"] * 300)}, errors.INVALID_DATA, "there is no such file"),
    ("rows.jsonl", '{"text": "a"}\n', {"train_file": ""}, errors.CONFIG, "no source"),
    ("rows.jsonl", '{"text": "a"}\n', {"dataset_name": "imdb"}, errors.CONFIG, "both set"),
    ("rows.jsonl", '{"text": "a"}\n', {"train_dataset": ""}, errors.CONFIG, "train_dataset must name"),
    ("rows.jsonl", '{"text": "a"}\n', {"eval_dataset": "missing.h5"}, errors.CONFIG, "set eval_file"),
    ("rows.jsonl", '{"text": "a"}\n', {"eval_file": "a=rows.jsonl", "eval_dataset": "b=b.h5"}, errors.CONFIG, "eval_dataset must name the file to write"),
    ("rows.jsonl", '{"text": "a"}\n', {"formatting_func": "nothing"}, errors.CONFIG, "expected file.py:function"),
    ("rows.jsonl", '{"text": "a"}\n', {"formatting_func": "/etc/hostname:f"}, errors.CONFIG, "is not a Python file"),
    ("rows.jsonl", '{"text": "a"}\n', {"formatting_func": "/nowhere/f.py:f"}, errors.CONFIG, "there is no file"),
    ("rows.jsonl", '{"text": "a"}\n', {"tokenizer_name_or_path": "/nowhere"}, errors.CONFIG, "there is no such folder"),
    ("rows.jsonl", '{"text": "a"}\n', {"model_name_or_path": ""}, errors.CONFIG, "model_name_or_path"),
    ("rows.jsonl", '{"text": "a"}\n', {"model_name_or_path": "nobody/no-such-model"}, errors.CONFIG, "neither a folder, nor in the Hugging Face cache"),
    ("rows.jsonl", '{"text": "a"}\n', {"train_file": "", "dataset_name": "nobody/no-such-data"}, errors.INVALID_DATA, "cannot be loaded"),
])
def test_bad_input_is_refused_by_name(name, content, options, code, message, model, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    call = {"model": model, "train_file": tmp_path / name, "output": tmp_path / "rows.h5"} | options
    if "model_name_or_path" in options:
        call.pop("model_name_or_path")
        call["model"] = options["model_name_or_path"]
    if call.get("chat_template_path") == "CHATML":
        call["chat_template_path"] = str(TRAINING_TEMPLATES / "chatml.jinja")
    with pytest.raises(PrepareError) as error:
        prepare(call.pop("model"), call.pop("train_file"), call.pop("output"), **call)
    assert error.value.code == code
    assert message in str(error.value)
    assert not (tmp_path / "rows.h5").exists()


def test_json_in_parquet_that_is_none_is_refused(model, tmp_path):
    texts = pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(["[1", None]))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "rows.parquet")
    with pytest.raises(PrepareError, match="not a readable Parquet file: Expecting"):
        prepare(model, tmp_path / "rows.parquet", tmp_path / "rows.h5")


def test_a_file_of_someone_else_is_not_overwritten(model, tmp_path):
    (tmp_path / "rows.h5").write_bytes(b"precious")
    with pytest.raises(PrepareError, match="not a data set that sft-prepare wrote"):
        prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "rows.h5")
    assert (tmp_path / "rows.h5").read_bytes() == b"precious"


def test_a_tokenizer_without_eos_is_refused(model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    (other / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(PrepareError, match="has no eos_token"):
        prepare(model, write_jsonl(tmp_path / "rows.jsonl", ROWS[:3]), tmp_path / "rows.h5", tokenizer_name_or_path=str(other))


@pytest.mark.parametrize("file, kind, module, package", [("tokenizer.model", "LlamaTokenizer", "sentencepiece", "sentencepiece"),
                                                         ("spiece.model", "T5Tokenizer", "google.protobuf", "protobuf")])
def test_a_tokenizer_that_only_sentencepiece_reads_says_so(file, kind, module, package, model, tmp_path, monkeypatch):
    """transformers' own message asks for tiktoken."""
    monkeypatch.setitem(sys.modules, module, None)
    other = tmp_path / "other"
    other.mkdir()
    (other / file).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (other / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    source = write_jsonl(tmp_path / "rows.jsonl", ROWS[:3])
    with pytest.raises(PrepareError, match=rf"is {file} alone.*missing: .*{package}.*tokenizer.json beside it.*pip install sentencepiece protobuf") as error:
        prepare(model, source, tmp_path / "rows.h5", tokenizer_name_or_path=str(other))
    assert error.value.code == errors.CONFIG and "tiktoken" not in str(error.value)
    (other / file).write_bytes(b"IQ== 0\n")  # tiktoken's
    with pytest.raises(PrepareError) as error:
        prepare(model, source, tmp_path / "other.h5", tokenizer_name_or_path=str(other))
    assert "sentencepiece" not in str(error.value)


def test_chats_from_the_documentation_of_installed_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(make_python_chats, "PACKAGES", ("numpy",))
    assert make_python_chats.main([str(tmp_path)]) == 0
    train, test = ([json.loads(line)["messages"] for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()] for part in ("train", "test"))
    assert len(train) >= 1000 and len(test) >= 50
    for chat in train + test:
        assert [message["role"] for message in chat] == ["system", "user", "assistant"] and len(chat[2]["content"]) >= 40
    assert not {chat[2]["content"] for chat in train} & {chat[2]["content"] for chat in test}
    questions = {chat[1]["content"]: chat[2]["content"] for chat in train + test}
    import numpy.polynomial.chebyshev as chebyshev

    asked = "In numpy, what does `chebadd(c1, c2)` do?"
    assert questions[asked].startswith("Add one Chebyshev series to another.") and questions[asked].split("\n")[0] in chebyshev.chebadd.__doc__
