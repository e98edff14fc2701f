"""The benchmarks run and print their ratios. Nothing is asserted about time."""

import json
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_vs_trl(tmp_path):
    done = subprocess.run([HERE / "vs_trl", "--case", "tiny", "--folder", tmp_path, "--json", tmp_path / "figures.json"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ours / trl: tokens/s [\d.]+x, memory [\d.]+x, launch to first forward [\d.]+x", done.stdout), done.stdout
    medians = json.loads((tmp_path / "figures.json").read_text())["medians"]
    for figures in medians.values():
        assert all(value > 0 for value in figures.values())
    # Both did the same work.
    assert abs(medians["ours"]["loss"] - medians["trl"]["loss"]) <= 1e-4


def test_scaling(tmp_path):
    done = subprocess.run([HERE / "scaling", "--case", "tiny", "--folder", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["1 ranks x 1 threads", "1 ranks x 2 threads", "2 ranks x 1 threads"]
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in lines]
    assert max(losses) - min(losses) <= 2e-5  # the same rows a step
