"""sft-dist bench: its figures agree with one another and with a count by hand; it leaves nothing behind."""

import json
import re
import subprocess

import pytest

import small_run as small
from parity import models, ours

STEPS = 2


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("bench"))


def bench(settings: dict, ranks: int, *more) -> subprocess.CompletedProcess:
    launcher, program, *arguments = ["mpirun", "-np", str(ranks)], str(ours.program()), "--args", str(small.write_ini(settings))
    return subprocess.run([*launcher, program, "bench", *arguments, *more], capture_output=True, text=True, timeout=120, env=ours.environment(),
                          stdin=subprocess.DEVNULL)


def lengths_of_steps(workspace, rows_a_step: int) -> list[int]:
    """Of the rows of the measured steps: those after the first, in torch's order of the first epoch."""
    import torch

    order = torch.randperm(len(workspace.rows), generator=torch.Generator().manual_seed(42)).tolist()
    return [min(len(workspace.rows[row]), small.MAX_LENGTH) for row in order[rows_a_step:rows_a_step * (1 + STEPS)]]


@pytest.mark.parametrize("ranks, more", [(1, {"bf16": True, "gradient_checkpointing": True}), (2, {"micro_batch_tokens": 60})])
def test_figures_are_consistent(workspace, ranks, more):
    settings = workspace.settings(f"bench-{ranks}", **more)
    done = bench(settings, ranks, "--steps", str(STEPS), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert not settings["output_dir"].exists(), "bench wrote to output_dir"

    config = small.CONFIG
    hidden, heads, head_dim, layers, inner = (
        config[k] for k in ("hidden_size", "num_attention_heads", "head_dim", "num_hidden_layers", "intermediate_size"))
    kv_heads = config["num_key_value_heads"]
    lengths = lengths_of_steps(workspace, 6 * ranks)
    tokens, targets = sum(lengths), sum(lengths) - len(lengths)
    linear = layers * (2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim + 3 * hidden * inner)
    flops = (6 * linear * tokens + 6 * hidden * models.VOCAB_SIZE * targets + 6 * layers * heads * head_dim * sum(n * n for n in lengths))
    assert (report["tokens"], report["targets"], report["steps"], report["num_ranks"]) == (tokens, targets, STEPS, ranks)
    assert report["flops"] == pytest.approx(flops, rel=1e-12)
    assert report["tokens_per_second"] == pytest.approx(tokens / report["seconds"], rel=1e-9)
    assert report["flops_per_second"] == pytest.approx(flops / report["seconds"], rel=1e-9)

    compute = "bf16" if more.get("bf16") else "fp32"
    assert report["compute"] == compute
    assert set(report["product_flops_per_second"]) == {"fp32", compute}
    assert report["fraction_of_ceiling"] == pytest.approx(report["flops_per_second"] / report["product_flops_per_second"][compute], rel=1e-9)
    assert 0 < report["fraction_of_ceiling"]

    phases = report["phases"]
    assert sum(phases.values()) == pytest.approx(1, abs=1e-9)
    assert all(share >= -1e-3 for share in phases.values()), phases
    assert phases["forward"] > 0 and phases["backward"] > 0 and phases["optimizer"] > 0
    assert phases["checkpoint"] == phases["logging"] == phases["evaluation"] == 0

    assert [part["tokens"] for part in report["ranks"]] and sum(part["tokens"] for part in report["ranks"]) == tokens
    for part in report["ranks"]:
        assert sum(part["phases"].values()) <= part["seconds"] * (1 + 1e-6)
        shapes = part["products"][compute]
        # The products are the model's: together as many weights as it has in its linears.
        assert sum(s["count"] * s["in"] * s["out"] for s in shapes) == linear + hidden * models.VOCAB_SIZE
        assert all(s["flops"] == 3 * 2 * s["tokens"] * s["in"] * s["out"] and s["seconds"] > 0 for s in shapes)


def test_prints_a_table(workspace):
    done = bench(workspace.settings("table"), 1, "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"GFLOP/s +[\d.]+ +useful; [\d.]+ % of the products' [\d.]+", done.stdout), done.stdout
    shares = [float(share) for share in re.findall(r"^  \w+ +([\d.-]+) %$", done.stdout, re.MULTILINE)]
    assert sum(shares) == pytest.approx(100, abs=0.5), done.stdout


def test_adapters_and_what_it_refuses(workspace):
    done = bench(workspace.settings("adapter", use_peft=True, lora_r=4), 1, "--steps", "1", "--json")
    assert done.returncode == 0, done.stderr
    shapes = json.loads(done.stdout)["ranks"][0]["products"]["fp32"]
    assert all(s["flops"] == 2 * 2 * s["tokens"] * s["in"] * s["out"] for s in shapes), "frozen weights have no gradient"
    refused = bench(workspace.settings("no-data", train_dataset=workspace.folder / "absent.h5"), 2)
    assert refused.returncode == 89 and "absent.h5" in refused.stderr, refused.stderr
