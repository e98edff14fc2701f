"""The benchmarks run and print their ratios. Nothing is asserted about time."""

import json
import re
import subprocess
from pathlib import Path

import h5py
import numpy as np

HERE = Path(__file__).resolve().parent


def ratios(tmp_path, *changes: str) -> dict:
    """The medians of both sides, which have done the same work."""
    figures = tmp_path / "figures.json"
    done = subprocess.run([HERE / "vs_trl", "--case", "tiny", "--folder", tmp_path, "--json", figures, *changes], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ours / trl: tokens/s [\d.]+x, memory [\d.]+x, launch to first forward [\d.]+x", done.stdout), done.stdout
    medians = json.loads(figures.read_text())["medians"]
    for side in medians.values():
        assert all(value > 0 for value in side.values())
    assert abs(medians["ours"]["loss"] - medians["trl"]["loss"]) <= 1e-4
    return medians


def test_vs_trl(tmp_path):
    ratios(tmp_path)


def test_vs_trl_on_a_changed_workload(tmp_path):
    ratios(tmp_path, "--with", "chat", "packed", "lora", "recomputed")
    with h5py.File(tmp_path / "tiny-chat.h5") as file:
        assert np.mean(file["labels"][:] == -100) >= 0.6, "fewer prompt tokens than the workload says"
    assert json.loads((tmp_path / "tiny-lora" / "adapter_config.json").read_text())["r"] == 16


def test_scaling(tmp_path):
    done = subprocess.run([HERE / "scaling", "--case", "tiny", "--folder", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["1 ranks x 1 threads", "1 ranks x 2 threads", "2 ranks x 1 threads"]
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in lines]
    assert max(losses) - min(losses) <= 2e-5  # the same rows a step


def test_micro_batches(tmp_path):
    done = subprocess.run([HERE / "micro_batches", "--case", "tiny", "--folder", tmp_path, "--steps", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in done.stdout.strip().splitlines()]
    assert len(losses) == 5 and max(losses) - min(losses) <= 2e-5  # the same rows a step


def test_slow_storage(tmp_path):
    done = subprocess.run([HERE / "slow_storage", "--case", "tiny", "--milliseconds", "50", "--folder", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"18 steps before the save [\d.]+ s, \d+ during the save [\d.]+ s: [\d.]+ x; peak [\d.]+ GB", done.stdout), done.stdout


def test_checkpoints(tmp_path):
    done = subprocess.run([HERE / "checkpoints", "--case", "tiny", "--rounds", "1", "--folder", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"checkpoints of \d+ MB by 2 ranks: \d+ MB/s; as many plain writers \d+ MB/s: [\d.]+ x", done.stdout), done.stdout
