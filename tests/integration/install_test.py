"""cmake --install gives a tree that works away from the clone."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import BUILD_DIR
from prepare_support import tiny_model, write_jsonl


def run(*command, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("SFT_DIST", "SFT_VENV", "PYTHONPATH")}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL, env=clean | environment)


def test_the_installed_tree_prepares_and_trains(tmp_path):
    prefix = tmp_path / "prefix"
    installed = run("cmake", "--install", BUILD_DIR, "--prefix", prefix, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    tiny_model(tmp_path / "tiny")
    write_jsonl(tmp_path / "rows.jsonl", [{"text": f"row {number}"} for number in range(20)])
    (tmp_path / "run.ini").write_text("model_name_or_path = tiny/model\ntrain_file = rows.jsonl\ntrain_dataset = train.h5\nmax_steps = 2\noutput_dir = run\n")

    without = run(prefix / "bin" / "sft-prepare", "--args", "run.ini", cwd=tmp_path)
    assert without.returncode == 92 and f"{prefix}/share/sft-dist/.venv" in without.stderr
    prepared = run(prefix / "bin" / "sft-prepare", "--args", "run.ini", cwd=tmp_path, SFT_VENV=sys.prefix)
    assert prepared.returncode == 0, prepared.stderr
    trained = run(prefix / "bin" / "sft-run", "-n", "2", "--args", "run.ini", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
    # The allocator of src/allocator.cpp is at work.
    version = run(prefix / "bin" / "sft-dist", "--version", cwd=tmp_path, MALLOC_CONF="stats_print:true")
    assert version.returncode == 0 and "opt.narenas: 1\n" in version.stderr and "opt.dirty_decay_ms: -1 " in version.stderr, version.stderr
    for path in ("share/sft-dist/configs/quickstart.ini", "share/sft-dist/src/prepare/chat_templates/chatml.jinja", "share/sft-dist/cluster/slurm/train.sbatch", "share/doc/sft-dist/docs/data-format.md"):
        assert (Path(prefix) / path).is_file(), path
