"""Adapters: training beside TRL and PEFT, and what a run leaves behind opened by PEFT."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from parity import compare, models, ours, trl_side
from parity.cases import Case, Workspace

PLAIN = {"max_steps": 14, "lr_scheduler_type": "linear", "warmup_steps": 2, "learning_rate": 5e-3, "max_grad_norm": 0.5}
LLAMA = dict(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
# Both sides start from the same adapter: A and B random, so that no gradient is zero.
CASES = {
    "llama": (Case("llama", "llama", "8x1x1", PLAIN), LLAMA),
    "llama-recomputed": (Case("llama-recomputed", "llama", "8x1x1", PLAIN | {"gradient_checkpointing": True}),
                         dict(r=4, lora_alpha=8, target_modules=["v_proj", "down_proj"], use_rslora=True, init_lora_weights=False)),
    "llama-head": (Case("llama-head", "llama-tied", "8x1x1", PLAIN),
                   dict(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"], init_lora_weights=False)),
    "llama-dora": (Case("llama-dora", "llama", "8x1x1", PLAIN), LLAMA | dict(use_dora=True)),
    "gpt2": (Case("gpt2", "gpt2", "8x1x1", PLAIN), dict(r=8, lora_alpha=16, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True,
                                                        init_lora_weights=False)),
    "opt": (Case("opt", "opt-post", "8x1x1", PLAIN | {"learning_rate": 1e-3}, trl_compat=False), LLAMA),
}
BF16 = Case("llama-bf16", "llama", "8x1x1", PLAIN | {"bf16": True})


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("lora"))


def adapter_of(workspace, name: str) -> Path:
    return workspace.folder / "adapters" / name


@pytest.fixture(scope="session")
def trl(workspace) -> dict[str, trl_side.TrlResult]:
    jobs = [workspace.trl_job(case, "sdpa") | {"adapter": str(adapter_of(workspace, name)), "lora": lora, "save_rows": False}
            for name, (case, lora) in CASES.items()]
    jobs.append(workspace.trl_job(BF16, "sdpa") | {"adapter": str(adapter_of(workspace, "llama")), "save_rows": False})
    return dict(zip([*CASES, BF16.name], trl_side.run(jobs, 1)))


@pytest.fixture(scope="session")
def runs(workspace, trl) -> dict[str, ours.Run]:
    """Each case run by sft-dist, from the adapter that TRL started from; OPT on two ranks, four of the eight rows each."""
    def run(name: str, case: Case) -> ours.Run:
        settings = {"use_peft": True, "adapter_name_or_path": adapter_of(workspace, name), "save_strategy": "steps", "save_steps": 7}
        if name != "opt":
            return workspace.run_ours(case, **settings)
        return workspace.run_ours(replace(case, layout="2x2x2"), **settings, per_device_train_batch_size=4, gradient_accumulation_steps=1)

    return {name: run(name, case) for name, (case, _) in CASES.items()}


def adapter_weights(folder: Path) -> dict:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_follows_trl_with_peft(workspace, trl, runs, name):
    case, reference, run = CASES[name][0], trl[name], runs[name]
    assert len(run.steps) == 14
    expected, final = adapter_weights(reference.folder), adapter_weights(run.output_dir)
    start = adapter_weights(adapter_of(workspace, name))
    assert all(np.linalg.norm(expected[t] - start[t]) > 1e-3 * np.linalg.norm(start[t]) for t in expected), "an adapter did not move"
    difference = compare.between(run.steps, final, reference.steps, expected)
    print(f"{name}: loss {difference.loss:.2g}, grad_norm {difference.grad_norm:.2g}, weights {max(difference.weights.values()):.2g}")
    nothing = compare.Difference(weights=dict.fromkeys(difference.weights, 0.0))
    compare.check(name, difference, nothing, case.bounds)


def test_bf16_rounds_no_more_than_trl(workspace, trl):
    """From the same adapter: what bf16 changes in our run is at most what it changes in TRL's, whose products are rounded to bf16 too."""
    run = workspace.run_ours(BF16, use_peft=True, adapter_name_or_path=adapter_of(workspace, "llama"))
    fp32, bf16 = trl["llama"], trl[BF16.name]
    exact = adapter_weights(fp32.folder)
    ours_rounding = compare.between(run.steps, adapter_weights(run.output_dir), fp32.steps, exact)
    trl_rounding = compare.between(bf16.steps, adapter_weights(bf16.folder), fp32.steps, exact)
    print(f"loss {ours_rounding.loss:.2g} and {trl_rounding.loss:.2g}, grad_norm {ours_rounding.grad_norm:.2g} and {trl_rounding.grad_norm:.2g}")
    assert 1e-6 < ours_rounding.loss <= 1.5 * trl_rounding.loss <= 1.5 * 3e-3
    assert ours_rounding.grad_norm <= 1.5 * trl_rounding.grad_norm


def logits(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("name", CASES)
def test_opens_in_peft_and_merges_to_the_same_logits(workspace, runs, name):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run, base = runs[name], workspace.model(CASES[name][0].model)
    ids = list(range(4, 40))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), run.output_dir).eval()
    expected = logits(adapted, ids)
    assert np.abs(expected - logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(), ids)).max() > 1e-3
    # The checkpoint of the same step is the same adapter, and transformers opens it by itself.
    checkpoint = run.output_dir / "checkpoint-14"
    if CASES[name][1].get("use_dora"):  # transformers 5.23 does not find DoRA's magnitudes in PEFT's own files
        opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), checkpoint).eval()
    else:
        opened = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    assert np.abs(logits(opened, ids) - expected).max() <= 1e-5
    AutoTokenizer.from_pretrained(checkpoint)
    files = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json", "state/optimizer.safetensors", "state/MANIFEST.json"} <= files
    assert not any(f.startswith("model") for f in files), "no frozen weight is saved"

    merged = workspace.folder / "merged" / name
    command(workspace, "export", "--merge", checkpoint, merged)
    report = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    assert np.abs(logits(report, ids) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    AutoTokenizer.from_pretrained(merged)

    # The run's own evaluation of that adapter, token by token.
    prompt = list(range(5, 12))
    generated = report.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)[0, len(prompt):].tolist()
    eos = models.EOS
    generated = generated[:generated.index(eos)] if eos in generated else generated
    for folder in (checkpoint, merged):
        printed = command(workspace, "generate", folder, "--ids", ",".join(map(str, prompt)), "--max-new-tokens", "12").strip()
        assert [int(i) for i in printed.split(",") if i] == generated


def command(workspace, *words) -> str:
    done = subprocess.run([str(ours.program()), *map(str, words)], capture_output=True, text=True, env=ours.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_adapter_config_is_what_peft_writes(workspace, runs):
    from peft import PeftConfig

    for name in CASES:
        written = PeftConfig.from_pretrained(runs[name].output_dir)
        started = PeftConfig.from_pretrained(adapter_of(workspace, name))
        for key in ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "fan_in_fan_out", "bias"):
            assert getattr(written, key) == getattr(started, key), f"{name}: {key}"
        assert set(written.modules_to_save or []) == set(started.modules_to_save or [])
        text = json.loads((runs[name].output_dir / "adapter_config.json").read_text())
        assert list(text) == sorted(text)


def test_a_new_adapter_starts_as_the_base_model_and_learns(workspace):
    """PEFT's targets for the model type, dropout on; and all linears over a base model held in bf16, with a falling loss."""
    case = Case("fresh", "llama", "8x1x1", {"max_steps": 2, "lr_scheduler_type": "constant", "learning_rate": 5e-3}, trl_compat=False)
    bare = workspace.run_ours(case, "fresh-full", max_steps=1)
    wide = workspace.run_ours(case, use_peft=True)
    narrow = workspace.run_ours(case, "fresh-bf16", use_peft=True, base_dtype="bfloat16", lora_target_modules="all-linear", max_steps=25)
    config = json.loads((wide.output_dir / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"] and (config["r"], config["lora_alpha"], config["lora_dropout"]) == (16, 32, 0.05)
    assert wide.steps[0]["loss"] == pytest.approx(bare.steps[0]["loss"], rel=1e-6)
    assert 0 < abs(wide.steps[0]["loss"] - narrow.steps[0]["loss"]) < 0.02
    assert np.mean([s["loss"] for s in narrow.steps[-5:]]) < narrow.steps[0]["loss"] - 0.1
    trained = sum(t.size for t in adapter_weights(wide.output_dir).values())
    total = sum(int(np.prod(s)) for s in models.tensor_shapes(models.CONFIGS["llama"]).values()) + trained
    assert f"{trained} trainable of {total}" in " ".join(wide.output.split())
    assert "frozen weights in bfloat16" in " ".join(narrow.output.split())


def test_one_adapter_goes_on_from_another(workspace, runs):
    """A second run starts at the first one's loss."""
    case = Case("go-on", "llama", "8x1x1", PLAIN | {"max_steps": 1, "learning_rate": 0.0, "warmup_steps": 0}, evaluate=False)
    first = runs["llama"].output_dir
    copy = workspace.folder / "copied"
    shutil.copytree(first, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    run = workspace.run_ours(case, use_peft=True, adapter_name_or_path=copy)
    before, after = adapter_weights(first), adapter_weights(run.output_dir)
    assert sorted(before) == sorted(after)
    assert all(before[t].tobytes() == after[t].tobytes() for t in before)


