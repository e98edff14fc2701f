"""Runs with adapters: what the options do, stopped and resumed, at other world sizes, over the wrong base model, and with bad options."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import small_run as small
from parity import ours

LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "lora_target_modules": "all-linear", "max_steps": 8}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("lora"))


def settings(workspace, ranks, output, **more):
    """Six rows a step on 1 (2 x 3) or 2 (1 x 3) ranks."""
    return workspace.settings(output, **LORA | {"per_device_train_batch_size": {1: 2, 2: 1}[ranks], "gradient_accumulation_steps": 3} | more)


@pytest.fixture(scope="module")
def whole(workspace) -> dict[int, ours.Run]:
    return {ranks: ours.run(settings(workspace, ranks, f"whole-{ranks}"), ranks) for ranks in (1, 2)}


def copy_checkpoint(run: ours.Run, step: int, to) -> None:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run.output_dir / f"checkpoint-{step}", to / f"checkpoint-{step}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_resumed_run_has_the_same_bits(workspace, whole, ranks):
    more = settings(workspace, ranks, f"resumed-{ranks}", resume_from_checkpoint=True)
    copy_checkpoint(whole[ranks], 4, more["output_dir"])
    run = ours.run(more, ranks)
    assert small.by_step(run.log) == {s: v for s, v in small.by_step(whole[ranks].log).items() if s > 4}
    small.assert_same_state(whole[ranks].output_dir / "checkpoint-8", run.output_dir / "checkpoint-8")
    small.assert_same_weights(whole[ranks].output_dir, run.output_dir)


@pytest.mark.parametrize("variant", [{"use_dora": True}, {"lora_modules_to_save": "lm_head", "gradient_checkpointing": True},
                                     {"base_dtype": "bfloat16", "bf16": True, "init_lora_weights": "false"}], ids=lambda v: next(iter(v)))
def test_variants_resume_with_the_same_bits(workspace, variant):
    first = ours.run(settings(workspace, 1, f"variant-{next(iter(variant))}", **variant))
    more = settings(workspace, 1, f"variant-resumed-{next(iter(variant))}", resume_from_checkpoint=True, **variant)
    copy_checkpoint(first, 4, more["output_dir"])
    run = ours.run(more)
    small.assert_same_state(first.output_dir / "checkpoint-8", run.output_dir / "checkpoint-8")


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_resumes_at_another_world_size(workspace, whole, before, after):
    more = settings(workspace, after, f"elastic-{before}-{after}", resume_from_checkpoint=True)
    copy_checkpoint(whole[before], 4, more["output_dir"])
    run = ours.run(more, after)
    expected = {entry["step"]: entry["loss"] for entry in whole[before].steps}
    for entry in run.steps:
        assert entry["loss"] == pytest.approx(expected[entry["step"]], abs=1e-5)


def test_checkpoints_hold_the_adapter_alone(workspace, whole):
    run = whole[1]
    assert small.checkpoints(run.output_dir) == [4, 8]
    checkpoint = run.output_dir / "checkpoint-8"
    model, state = load_file(checkpoint / "adapter_model.safetensors"), load_file(checkpoint / "state" / "optimizer.safetensors")
    layers, modules = small.CONFIG["num_hidden_layers"], 7
    assert len(model) == layers * modules * 2 and all(name.startswith("base_model.model.model.layers.") for name in model)
    assert sorted(state) == sorted(f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in model)
    assert not (checkpoint / "config.json").exists() and (checkpoint / "tokenizer.json").exists()
    for folder in (checkpoint, run.output_dir):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["r"] == 4 and config["base_model_name_or_path"] == str(workspace.model)
        assert subprocess.run([str(ours.program()), "verify", str(folder)], capture_output=True).returncode == 0


@pytest.mark.parametrize("option, tensors", [("use_rslora", "lora_B"), ("use_dora", "lora_magnitude_vector")])
def test_peft_evaluates_a_variant_alike(workspace, option, tensors):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = ours.run(settings(workspace, 1, f"evaluated-{option}", eval_dataset=workspace.eval, eval_strategy="steps", eval_steps=8, eval_on_start=True,
                            learning_rate=1e-2, save_strategy="no", **{option: True}))
    assert json.loads((run.output_dir / "adapter_config.json").read_text())[option] is True
    assert sum(tensors in name for name in run.weights()) == small.CONFIG["num_hidden_layers"] * 7
    before, after = (entry["eval_loss"] for entry in run.evaluations)
    assert abs(after - before) > 1e-2, "the adapter says nothing yet"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(workspace.model, dtype=torch.float32), run.output_dir).eval()
    total, targets = 0.0, 0
    for row in workspace.rows[:9]:
        ids = torch.tensor([row[:small.MAX_LENGTH]])
        with torch.no_grad():
            total += model(ids, labels=ids).loss.item() * (ids.numel() - 1)
        targets += ids.numel() - 1
    assert after == pytest.approx(total / targets, rel=1e-5)


def test_gaussian_first_values(workspace):
    """PEFT's: A normal with deviation 1 / r, B zero."""
    run = ours.run(settings(workspace, 1, "gaussian", init_lora_weights="gaussian", learning_rate=0, max_steps=1, save_strategy="no"))
    a = np.concatenate([values.ravel() for name, values in run.weights().items() if "lora_A" in name])
    assert not any(values.any() for name, values in run.weights().items() if "lora_B" in name)
    assert a.mean() == pytest.approx(0, abs=0.02) and a.std() == pytest.approx(1 / LORA["lora_r"], rel=0.05)
    assert abs(a).max() > 3 * a.std(), "uniform values"


def test_first_values_that_are_not_identity(workspace):
    """PEFT's init_lora_weights = False, for tests: A and B uniform, so that the adapter changes the model from the start."""
    run = ours.run(settings(workspace, 1, "not-identity", init_lora_weights="false", learning_rate=0, max_steps=1, save_strategy="no"))
    for name, values in run.weights().items():
        if "lora_B" in name:
            assert values.std() > 0.01 and abs(values).max() <= 1 / np.sqrt(LORA["lora_r"]) * (1 + 1e-6), name


def test_a_head_that_is_trained_as_a_whole_is_saved(workspace):
    run = ours.run(settings(workspace, 1, "head", lora_modules_to_save="lm_head", max_steps=4, save_strategy="no"))
    assert json.loads((run.output_dir / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]
    head, base = run.weights()["base_model.model.lm_head.weight"], ours.read_weights(workspace.model)["model.embed_tokens.weight"]
    assert head.shape == base.shape and 0 < abs(head - base).max() < 0.01


def test_dropout_before_an_adapter_changes_the_loss(workspace, whole):
    without = ours.run(settings(workspace, 1, "no-dropout", lora_dropout=0, save_strategy="no"))
    for run, share in ((whole[1], LORA["lora_dropout"]), (without, 0)):
        assert json.loads((run.output_dir / "adapter_config.json").read_text())["lora_dropout"] == share
    assert without.steps[0]["loss"] == whole[1].steps[0]["loss"]  # the adapter is zero yet
    assert 1e-4 < abs(without.steps[-1]["loss"] - whole[1].steps[-1]["loss"]) < 0.1


NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022833234, -0.09105003625154495, 0.0,
                0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], np.float32)


def through_nf4(weight: np.ndarray) -> np.ndarray:
    """What is left of a weight after 4 bits: nearest of 16 levels times the largest of each 64 values. Sizes here are multiples of 64."""
    blocks = weight.reshape(-1, 64)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs((blocks / largest)[:, :, None] - NF4).argmin(axis=2)
    return (NF4[nearest] * largest).reshape(weight.shape)


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}, {"bf16": True, "gradient_checkpointing": True}], ids=["lora", "dora", "bf16"])
def test_4_bit_base_is_the_model_with_its_linears_through_nf4(workspace, variant):
    folder = workspace.folder / "through-nf4"
    if not folder.exists():
        shutil.copytree(workspace.model, folder)
        weights = load_file(folder / "model.safetensors")
        for name in weights:
            if name.endswith("proj.weight"):
                weights[name] = through_nf4(weights[name])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    name = "-".join(["4bit", *variant])
    packed = ours.run(settings(workspace, 1, name, load_in_4bit=True, **variant))
    plain = ours.run(settings(workspace, 1, name + "-plain", model_name_or_path=folder, **variant))
    for a, b in zip(packed.steps, plain.steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5 if "bf16" not in variant else 3e-3)
    full = ours.run(settings(workspace, 1, name + "-full", max_steps=1, **variant))
    assert abs(full.steps[0]["loss"] - packed.steps[0]["loss"]) > 1e-4, "four bits leave a trace"
    assert "4 bits (NF4)" in " ".join(packed.output.split())


def test_nested_scales_change_little_and_resume(workspace):
    plain = ours.run(settings(workspace, 1, "4bit-scales", load_in_4bit=True, max_steps=1))
    nested = settings(workspace, 2, "4bit-nested", load_in_4bit=True, use_bnb_nested_quant=True, base_dtype="bfloat16")
    first = ours.run(nested, 2)
    assert 0 < abs(first.steps[0]["loss"] - plain.steps[0]["loss"]) < 0.02
    more = nested | {"output_dir": workspace.folder / "4bit-nested-resumed", "resume_from_checkpoint": True}
    copy_checkpoint(first, 4, more["output_dir"])
    run = ours.run(more, 2)
    small.assert_same_state(first.output_dir / "checkpoint-8", run.output_dir / "checkpoint-8")


def test_save_total_limit_keeps_the_newest(workspace):
    run = ours.run(settings(workspace, 1, "limit", save_steps=2, save_total_limit=2))
    assert small.checkpoints(run.output_dir) == [6, 8]


def test_a_flipped_bit_in_an_adapter_is_found(workspace, whole):
    copy = workspace.folder / "flipped"
    copy_checkpoint(whole[1], 8, copy)
    path = copy / "checkpoint-8" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    done = subprocess.run([str(ours.program()), "verify", str(copy / "checkpoint-8")], capture_output=True, text=True)
    assert done.returncode == 89 and "adapter_model.safetensors" in done.stdout + done.stderr


def test_another_base_model_is_refused(workspace, whole):
    """Same architecture, one weight moved; then another size of file for the same weights, which is no other model."""
    other = workspace.folder / "other-model"
    shutil.copytree(workspace.model, other)
    weights = load_file(other / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] = weights["model.layers.1.mlp.down_proj.weight"] * np.float32(1.01)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    more = settings(workspace, 1, "other-base", resume_from_checkpoint=True, model_name_or_path=other)
    copy_checkpoint(whole[1], 4, more["output_dir"])
    run = ours.run(more, ranks=0, check=False)
    assert run.returncode == 92 and "another base model" in run.output and "sampled weights" in run.output

    shutil.copy(workspace.model / "model.safetensors", other / "model.safetensors")
    weights = load_file(other / "model.safetensors")
    save_file(weights, other / "model.safetensors", metadata={"format": "pt", "note": "stored anew"})
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    assert ours.run(more).returncode == 0


@pytest.mark.parametrize("change, word", [({"lora_r": 8}, "adapter was"), ({"use_peft": False}, "adapter was"), ({"lora_alpha": 4}, "adapter was")])
def test_another_adapter_is_refused(workspace, whole, change, word):
    more = settings(workspace, 1, "other-adapter", resume_from_checkpoint=True, **change)
    copy_checkpoint(whole[1], 4, more["output_dir"])
    run = ours.run(more, ranks=0, check=False)
    assert run.returncode == 92 and word in run.output


@pytest.mark.parametrize("change, code, words", [
    ({"lora_target_modules": "c_attn"}, 92, ["c_attn", "q_proj"]),
    ({"lora_target_modules": "embed_tokens"}, 92, ["embed_tokens", "lora_modules_to_save"]),
    ({"lora_target_modules": "q_proj,,v_proj"}, 92, ["lora_target_modules", "separated by commas"]),
    ({"lora_r": 0}, 92, ["lora_r", "1 or more"]),
    ({"lora_dropout": 1}, 92, ["lora_dropout"]),
    ({"init_lora_weights": "pissa"}, 92, ["init_lora_weights", "gaussian"]),
    ({"use_peft": False, "base_dtype": "bfloat16"}, 92, ["base_dtype", "use_peft"]),
    ({"use_peft": False, "load_in_4bit": True}, 92, ["load_in_4bit", "use_peft"]),
    ({"use_peft": False, "adapter_name_or_path": "x"}, 92, ["adapter_name_or_path", "use_peft"]),
    ({"adapter_name_or_path": "no-such-folder"}, 92, ["no-such-folder", "adapter_config.json"]),
])
def test_bad_adapter_options(workspace, change, code, words):
    run = ours.run(settings(workspace, 1, "bad", **change), ranks=0, check=False)
    assert run.returncode == code, run.output
    assert all(word in run.output for word in words), run.output


def test_export_refuses_what_is_no_adapter_and_a_folder_in_use(workspace, whole):
    def export(*words):
        done = subprocess.run([str(ours.program()), "export", *map(str, words)], capture_output=True, text=True, env=ours.environment())
        return done.returncode, done.stdout + done.stderr

    code, message = export("--merge", workspace.model, workspace.folder / "merged")
    assert code == 92 and "adapter_config.json" in message
    code, message = export("--merge", whole[1].output_dir, whole[2].output_dir)
    assert code == 92 and "holds a model already" in message
    code, message = export(whole[1].output_dir, workspace.folder / "merged")
    assert code == 92 and "--merge" in message


def test_export_takes_what_belongs_to_the_model_and_the_tokens_of_the_training(workspace, whole):
    def command(*words):
        done = subprocess.run([str(ours.program()), *map(str, words)], capture_output=True, text=True, env=ours.environment())
        return done.returncode, done.stdout, " ".join(done.stderr.split())

    folder = shutil.copytree(whole[1].output_dir, workspace.folder / "littered")
    for name in ("my notes.txt", "._tokenizer.json", "goodput.json"):
        (folder / name).write_text("{}")
    first = int(command("generate", folder, "--ids", "5,6,7", "--max-new-tokens", "1")[1].replace(",", " ").split()[0])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": first, "pad_token_id": 3}))
    code, ids, _ = command("generate", folder, "--ids", "5,6,7", "--max-new-tokens", "1")
    assert code == 0 and not ids.strip(), "it goes on after the end of sequence that it was trained with"
    code, _, message = command("export", "--merge", folder, workspace.folder / "merged-littered")
    assert code == 0, message
    config = json.loads((workspace.folder / "merged-littered" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (first, 3)
    assert not {"my notes.txt", "._tokenizer.json", "goodput.json"} & {path.name for path in (workspace.folder / "merged-littered").iterdir()}

    (folder / "leak.txt").symlink_to("/etc/hostname")
    for words in (("export", "--merge", folder, workspace.folder / "merged-leak"), ("generate", folder, "--ids", "5")):
        code, _, message = command(*words)
        assert code == 89 and "leak.txt is a link to /etc/hostname" in message


def test_an_adapter_with_more_than_the_model_has_a_place_for_is_refused(workspace, whole):
    folder, name = workspace.folder / "stray", "base_model.model.lm_head.lora_A.weight"
    shutil.copytree(whole[1].output_dir, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {name: np.zeros((4, 8), np.float32)}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    run = ours.run(settings(workspace, 1, "from-stray", adapter_name_or_path=folder), check=False)
    assert run.returncode == 89 and name in run.output
    done = subprocess.run([str(ours.program()), "export", "--merge", str(folder), str(workspace.folder / "merged-stray")],
                          capture_output=True, text=True, env=ours.environment())
    assert done.returncode == 89 and name in done.stderr


def test_8_bit_moments_are_those_of_every_layer(workspace):
    """Matrices of 4096 elements or more, none of which is the embedding, for which bitsandbytes keeps 32-bit moments."""
    run = ours.run(settings(workspace, 1, "8-bit", optim="adamw_8bit", lora_r=128, max_steps=2, save_steps=2))
    names = [name for path in (run.output_dir / "checkpoint-2" / "state").glob("*.safetensors") for name in load_file(path)]
    of_layer = [sorted(name.replace(f"layers.{layer}.", "") for name in names if f"layers.{layer}." in name) for layer in (0, 1)]
    assert of_layer[0] == of_layer[1] and of_layer[0]
