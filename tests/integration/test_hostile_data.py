"""Damaged and malicious data set files: one message and exit code 89, no signal, no hang, no other file opened."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import hostile_hdf5 as hostile
import small_run as small
from opened_files import OpenedFiles
from parity import models, ours, token_file

DATA = 89
FULL = "SFT_FULL" in os.environ
DAMAGED_FILES = 4000 if FULL else 60  # of each kind of file


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("hostile"))


def verify(*paths) -> tuple[int, str]:
    """Limits: the helper gives every file 4 s of processor time."""
    run = subprocess.run([str(ours.program()), "verify", *map(str, paths)], capture_output=True, text=True, timeout=600)
    return run.returncode, run.stdout + run.stderr


def write_all(folder, files) -> list:
    folder.mkdir(exist_ok=True)
    paths = []
    for name, content in files:
        paths.append(folder / f"{name}.h5")
        paths[-1].write_bytes(content)
    return paths


def assert_refused_or_whole(paths) -> dict[str, int]:
    """Every file is either read as if it were whole, hashes included, or refused with its name. Returns how often what was said."""
    code, output = verify(*paths)
    kinds = {"whole": 0, "refused": 0, "crashed the library": 0, "took too long": 0}
    for path in paths:
        lines = [line for line in output.splitlines() if str(path) in line]
        assert len(lines) == 1, f"{path} is named {len(lines)} times:\n{output[-3000:]}"
        kinds["whole" if lines[0] == f"{path}: ok" else "crashed the library" if "crashed" in lines[0] else
              "took too long" if "took more" in lines[0] else "refused"] += 1
    assert code == (0 if kinds["whole"] == len(paths) else DATA), output[-3000:]
    return kinds


def test_every_allowed_layout_is_read(tmp_path):
    paths = [hostile.write(tmp_path / f"layout-{number}.h5", **layout) for number, layout in enumerate(hostile.LAYOUTS)]
    code, output = verify(*paths)
    assert code == 0 and output.count(": ok") == len(paths) > 40, output


def test_rows_of_compressed_files_are_those_that_were_written(workspace):
    """Training reads them in random order, through the cache of chunks: the same losses as from a contiguous file."""
    options = {"vocab_size": models.VOCAB_SIZE, "bos": small.CONFIG["bos_token_id"], "eos": small.CONFIG["eos_token_id"],
               "pad": small.CONFIG["pad_token_id"], "prepare": {"part": "train"}}
    chunked = token_file.write_token_file(workspace.folder / "chunked.h5", workspace.rows, workspace.model, chunk=37, **options)
    settings = {"max_steps": 3, "save_strategy": "no"}
    plain = ours.run(workspace.settings("plain", **settings))
    other = ours.run(workspace.settings("chunked", train_dataset=chunked, **settings))
    assert [step["loss"] for step in plain.steps] == [step["loss"] for step in other.steps] and len(plain.steps) == 3


@pytest.mark.parametrize("kind", [{}, {"chunks": (16,), "shuffle": True, "compression": "gzip", "fletcher32": True},
                                  {"libver": "v110"}, {"libver": "v110", "chunks": (16,)}, {"libver": "v110", "chunks": (16,), "maxshape": (None,)}],
                         ids=["contiguous", "filtered", "v110", "fixed-array", "extensible-array"])
def test_damaged_structures(tmp_path, kind):
    good = hostile.write(tmp_path / "good.h5", **kind)
    chance = random.Random(7)
    kinds = {}
    for first in range(0, DAMAGED_FILES, 500):
        paths = write_all(tmp_path / "damaged", hostile.damaged(good, chance, min(500, DAMAGED_FILES - first)))
        for name, count in assert_refused_or_whole(paths).items():
            kinds[name] = kinds.get(name, 0) + count
    print(kinds)
    assert kinds["whole"] < DAMAGED_FILES and sum(kinds.values()) == DAMAGED_FILES


@pytest.mark.parametrize("kind", [{}, {"libver": "v110", "chunks": (64,), "compression": "gzip"}], ids=["contiguous", "chunked"])
def test_truncated_at_every_percent(tmp_path, kind):
    paths = write_all(tmp_path / "cut", hostile.truncated(hostile.write(tmp_path / "good.h5", **kind)))
    assert assert_refused_or_whole(paths)["whole"] == 0


def test_chunks_of_nothing_are_refused_once(tmp_path, workspace):
    """In training on two ranks, too: the message comes once, and no rank dies of a signal."""
    good = hostile.write(tmp_path / "good.h5", chunks=(16,), tokenizer_sha256=token_file.tokenizer_sha256(workspace.model))
    bad = tmp_path / "divided.h5"
    bad.write_bytes(hostile.zero_chunk_dimension(good.read_bytes(), 16, 4))
    code, output = verify(bad, good)
    assert code == DATA and output.count("divided.h5") == 1 and f"{good}: ok" in output, output
    for settings in ({"train_dataset": bad}, {"eval_dataset": bad, "eval_strategy": "epoch"}):
        run = ours.run(workspace.settings("crash", **settings), 2, check=False, timeout=60)
        assert run.returncode == DATA and run.output.count("divided.h5") == 1, run.output
        assert "signal: " not in run.output and "Signal" not in run.output, run.output


def test_no_other_file_is_opened(tmp_path, workspace):
    outside = tmp_path / "outside"
    outside.mkdir()
    bait = outside / "secret"
    bait.write_bytes(bytes(range(256)) * 16)
    made = hostile.escapes(tmp_path, bait)
    watch = OpenedFiles(outside, bait, bait.with_suffix(".h5"))
    bait.read_bytes()
    assert watch.any(), "the watch sees nothing"
    environment = {"HDF5_PLUGIN_PATH": str(outside), "HDF5_PLUGIN_PRELOAD": str(outside), "HDF5_DRIVER": "core"}
    run = subprocess.run([str(ours.program()), "verify", *map(str, made.values())], capture_output=True, text=True,
                         env={**os.environ, **environment}, timeout=60)
    assert run.returncode == DATA, run.stdout + run.stderr
    for name, path in made.items():
        assert len([line for line in run.stderr.splitlines() if line.startswith(f"error: {path}: {name.split('-')[1]} ")]) == 1, run.stderr
    done = ours.run(workspace.settings("escape", train_dataset=made["external_storage-input_ids"]), check=False, env=environment, timeout=60)
    assert done.returncode == DATA and "another file" in done.output, done.output
    assert not watch.any(), "a file was opened that a data set named"


@pytest.mark.parametrize("make", [hostile.bombs, hostile.other_types], ids=lambda f: f.__name__)
def test_what_declares_too_much_or_something_else(tmp_path, make):
    made = make(tmp_path)
    assert assert_refused_or_whole(made.values())["refused"] == len(made)


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    for path in (tmp_path / "pipe.h5", "/dev/zero"):
        code, output = verify(path)
        assert code == DATA and f"{path} is not a regular file" in output, output


def test_sft_inspect_is_missing(tmp_path, workspace):
    run = subprocess.run([str(ours.program()), "verify", str(workspace.train)], capture_output=True, text=True,
                         env={**os.environ, "SFT_INSPECT": str(tmp_path / "nowhere")})
    assert run.returncode == 92 and f"{tmp_path}/nowhere" in run.stderr, run.stderr
    run = ours.run(workspace.settings("missing"), 2, check=False, env={"SFT_INSPECT": str(tmp_path / "nowhere")}, timeout=60)
    assert run.returncode == 92 and run.output.count("/nowhere") == 1, run.output


@pytest.mark.parametrize("fate, named", [
    ("crash", "crashed the HDF5 library (signal 11"), ("abort", "crashed the HDF5 library (signal 6"), ("exit", "ended the HDF5 library with code 3"),
    ("spin", "took more than 4 s"), ("memory", "takes more than 1024 MiB of memory")])
def test_what_a_file_does_to_the_library_happens_to_the_disposable_process(workspace, fate, named):
    shim = Path(os.environ["SFT_BUILD_DIR"]) / "tests" / "integration" / "libhdf5_shim.so"
    run = subprocess.run([str(ours.program()), "verify", str(workspace.train)], capture_output=True, text=True, timeout=60,
                         env=ours.environment({"LD_PRELOAD": str(shim), "SFT_HDF5": fate}))
    assert run.returncode == DATA and str(workspace.train) in run.stderr and named in " ".join(run.stderr.split()), (run.returncode, run.stderr)


def test_sft_inspect_is_not_believed(tmp_path, workspace):
    """A helper that was taken over: what it answers is checked like any other input."""
    program = tmp_path / "stand-in"
    good = workspace.train.read_bytes()
    answers = ["", "7\nx", "0\n{}", "0\nnull", "0\n[", "-1\n", "0", '0\n{"file_bytes": 99999999999999}', f'0\n{"[" * 100000}']
    for answer in answers:
        program.write_text(f"#!{sys.executable}\n"
                           "import os, socket, struct\n"
                           "connection = socket.socket(fileno=0)\n"
                           "connection.recv(65536)\n"
                           f"answer = {answer!r}.encode()\n"
                           "connection.sendall(struct.pack('<Q', len(answer)) + answer)\n")
        program.chmod(0o755)
        run = subprocess.run([str(ours.program()), "verify", str(workspace.train)], capture_output=True, text=True, timeout=60,
                             env={**os.environ, "SFT_INSPECT": str(program)})
        assert run.returncode in (DATA, 70) and str(workspace.train) in run.stderr, (answer, run.returncode, run.stderr)
    assert workspace.train.read_bytes() == good


def test_links_out_of_a_model_are_not_followed(tmp_path, workspace):
    import shutil

    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    for name in ("generation_config.json", "config.json", "model.safetensors", "additional_chat_templates/tool_use.jinja"):
        folder = tmp_path / f"model-{Path(name).name}"
        shutil.copytree(workspace.model, folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)
        watch = OpenedFiles(outside)
        run = ours.run(workspace.settings("links", model_name_or_path=folder), check=False, timeout=60)
        assert run.returncode == DATA and f"{folder}/{name} is a link to {outside}" in run.output, run.output
        assert not watch.any()
    data = workspace.write_data("linked")
    for name in ("notes.txt", "additional_chat_templates/tool_use.jinja", "additional_chat_templates"):
        link = data.with_suffix(".tokenizer") / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(outside)
        run = ours.run(workspace.settings("links", train_dataset=data), check=False, timeout=60)
        assert run.returncode == DATA and f"{link} is a link" in run.output, run.output
        link.unlink()
        if link.parent != data.with_suffix(".tokenizer"):
            link.parent.rmdir()


def test_links_of_the_hugging_face_cache_are_followed(tmp_path, workspace):
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot, blobs = repository / "snapshots" / "0123abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    local = tmp_path / "downloaded"
    local.mkdir()
    files = {file.name: file.read_bytes() for file in workspace.model.iterdir()} | {"additional_chat_templates/tool_use.jinja": b"{{ tools }}"}
    for number, (name, content) in enumerate(sorted(files.items())):
        blob = blobs / f"{number:040x}"
        blob.write_bytes(content)
        for folder in (snapshot, local):
            (folder / name).parent.mkdir(exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
        (local / name).symlink_to(blob)
    for name in ("org/tiny", snapshot, local):
        settings = workspace.settings("cache", model_name_or_path=name, max_steps=1, save_strategy="no", overwrite_output_dir=True)
        run = ours.run(settings, env={"HF_HUB_CACHE": str(tmp_path / "hub")})
        assert len(run.steps) == 1


def test_deep_json(workspace, tmp_path):
    import shutil
    import struct

    deep = "[" * 100_000 + "]" * 100_000
    header = ('{"a":' * 100_000 + "1" + "}" * 100_000).encode()
    for name, content in (("config.json", deep.encode()), ("model.safetensors", struct.pack("<Q", len(header)) + header),
                          ("model.safetensors.index.json", f'{{"weight_map": {deep}}}'.encode())):
        folder = tmp_path / f"deep-{name}"
        shutil.copytree(workspace.model, folder)
        if name.endswith("index.json"):
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)
        run = ours.run(workspace.settings("deep", model_name_or_path=folder, overwrite_output_dir=True), check=False, timeout=60)
        assert run.returncode == DATA and name in run.output and "nested deeper" in run.output, run.output[-2000:]


def test_inspect_survives_too(tmp_path):
    """sft-prepare inspect reads with h5py: in a process of its own first."""
    from parity.ours import SOURCE_DIR

    good = hostile.write(tmp_path / "good.h5", chunks=(16,))
    bad = tmp_path / "divided.h5"
    bad.write_bytes(hostile.zero_chunk_dimension(good.read_bytes(), 16, 4))
    outside = tmp_path / "outside"
    outside.mkdir()
    made = hostile.escapes(tmp_path, outside / "secret")
    (outside / "secret").write_bytes(bytes(4096))
    watch = OpenedFiles(outside, outside / "secret", outside / "secret.h5")
    for path in (bad, made["external_storage-input_ids"], made["virtual-offsets"], made["external_link-input_ids"]):
        run = subprocess.run([str(SOURCE_DIR / "launch" / "sft-prepare"), "inspect", str(path)], capture_output=True, text=True, timeout=60)
        assert run.returncode == DATA and run.stderr.startswith(f"sft-prepare: error: {path}"), (run.returncode, run.stderr)
    assert not watch.any()
