"""What a run leaves behind opens in transformers: the model with the same logits, the tokenizer, the trainer's state."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parity import cases, models, ours


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> cases.Workspace:
    return cases.Workspace(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module", params=sorted(models.CONFIGS))
def run(request, workspace) -> tuple[str, ours.Run]:
    """Two ranks, three shards, checkpoints at 3 and 6, evaluation at 3 and 6."""
    model = request.param
    settings = {
        "model_name_or_path": workspace.model(model), "train_dataset": workspace.token_file("train", model),
        "eval_dataset": workspace.token_file("eval", model), "output_dir": workspace.folder / "out" / model, "max_length": cases.MAX_LENGTH,
        "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 6, "save_steps": 3, "eval_strategy": "steps",
        "eval_steps": 3, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1, "max_shard_size": "200KB"}
    return model, ours.run(settings, ranks=2)


def mean_loss(folder, rows) -> float:
    """Token-weighted mean over the rows, by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    total = count = 0.0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row[:cases.MAX_LENGTH]])
            loss = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].double(), ids[0, 1:], reduction="sum")
            total, count = total + loss.item(), count + ids.shape[1] - 1
    return total / count


def test_checkpoints_load_in_transformers(workspace, run):
    """The loss transformers finds with the saved weights is the one the run found with those in memory."""
    model, run = run
    rows = models.tokenize(workspace.model(model), workspace.eval_texts)
    for folder, evaluation in ((run.output_dir / "checkpoint-3", run.evaluations[0]), (run.output_dir / "checkpoint-6", run.evaluations[1]),
                               (run.output_dir, run.evaluations[1])):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1
        assert sorted(index["weight_map"]) == sorted(models.tensor_shapes(models.CONFIGS[model]))
        assert mean_loss(folder, rows) == pytest.approx(evaluation["eval_loss"], abs=1e-5)


def test_logits_are_those_of_the_saved_weights(workspace, run):
    """from_pretrained puts every tensor in its place: against the same weights set by hand, name by name."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model, run = run
    loaded = AutoModelForCausalLM.from_pretrained(run.output_dir / "checkpoint-6").eval()
    by_hand = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(workspace.model(model)), dtype=torch.float32).eval()
    weights = {name: torch.from_numpy(values) for name, values in run.weights(run.output_dir / "checkpoint-6").items()}
    report = by_hand.load_state_dict(weights, strict=False)
    assert not report.unexpected_keys and all("lm_head" in key for key in report.missing_keys)
    by_hand.tie_weights()
    ids = torch.arange(4, 4 + 40).reshape(1, -1)
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, by_hand(ids).logits, atol=1e-5, rtol=0)
    original = models.random_weights(models.CONFIGS[model])
    assert max(float(np.abs(weights[name].numpy() - original[name]).max()) for name in original) > 1e-3, "nothing was learnt"


def test_tokenizer_and_state_load(workspace, run):
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig, TrainerState

    model, run = run
    for folder in (run.output_dir / "checkpoint-6", run.output_dir):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for text in workspace.eval_texts:
            assert tokenizer(text + tokenizer.eos_token)["input_ids"] == models.tokenize(workspace.model(model), [text])[0]
        assert AutoConfig.from_pretrained(folder).to_dict()["vocab_size"] == models.VOCAB_SIZE
        assert GenerationConfig.from_pretrained(folder).eos_token_id == models.EOS
    state = TrainerState.load_from_json(str(run.output_dir / "checkpoint-6" / "trainer_state.json"))
    assert (state.global_step, state.max_steps, state.train_batch_size) == (6, 6, 4)
    assert state.epoch == run.steps[-1]["epoch"]
    logged = [entry for entry in state.log_history if "loss" in entry]
    assert [(e["step"], e["loss"], e["grad_norm"], e["learning_rate"]) for e in logged] == [
        (e["step"], e["loss"], e["grad_norm"], e["learning_rate"]) for e in run.steps]
    assert [e["eval_loss"] for e in state.log_history if "eval_loss" in e] == [e["eval_loss"] for e in run.evaluations]
    final = TrainerState.load_from_json(str(run.output_dir / "trainer_state.json"))
    assert final.log_history[-1]["train_loss"] == run.summary["train_loss"]


def test_named_chat_templates_go_along(workspace, tmp_path):
    from transformers import AutoTokenizer

    templates = {"default": "{{ messages[0].content }}", "tool_use": "{{ tools | length }}"}
    data = Path(shutil.copy(workspace.token_file("train", "llama-tied"), tmp_path / "train.h5"))
    tokenizer = shutil.copytree(workspace.token_file("train", "llama-tied").with_suffix(".tokenizer"), data.with_suffix(".tokenizer"))
    (tokenizer / "chat_template.jinja").write_text(templates["default"])
    (tokenizer / "additional_chat_templates").mkdir()
    (tokenizer / "additional_chat_templates" / "tool_use.jinja").write_text(templates["tool_use"])
    settings = settings_of(workspace, workspace.model("llama-tied"), tmp_path / "out", train_dataset=data, use_peft=True, save_strategy="steps", save_steps=3)
    run = ours.run(settings, ranks=2)
    merged = subprocess.run([str(ours.program()), "export", "--merge", str(run.output_dir), str(tmp_path / "merged")], env=ours.environment())
    assert merged.returncode == 0
    for folder in (run.output_dir / "checkpoint-3", run.output_dir, tmp_path / "merged"):
        assert AutoTokenizer.from_pretrained(folder).chat_template == templates
    assert subprocess.run([str(ours.program()), "verify", str(run.output_dir)], env=ours.environment()).returncode == 0


def settings_of(workspace, model_folder, out, **more) -> dict:
    return {"model_name_or_path": model_folder, "train_dataset": workspace.token_file("train", "llama-tied"),
            "eval_dataset": workspace.token_file("eval", "llama-tied"), "output_dir": out, "max_length": cases.MAX_LENGTH,
            "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 3, "save_strategy": "no", "eval_strategy": "steps",
            "eval_steps": 3, "eval_on_start": True, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1} | more


@pytest.mark.parametrize("stored", ["a head of its own", "a copy of it", "the head alone"])
def test_a_tied_head_is_what_the_weights_say(workspace, stored, tmp_path):
    """tie_word_embeddings = true, and files that converters and trainers leave: both sides take the same for the head."""
    folder = shutil.copytree(workspace.model("llama-tied"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding[::-1].copy() if stored == "a head of its own" else embedding.copy()
    if stored == "the head alone":
        del weights["model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    run = ours.run(settings_of(workspace, folder, tmp_path / "out"), ranks=2)
    rows = models.tokenize(folder, workspace.eval_texts)
    assert mean_loss(folder, rows) == pytest.approx(run.evaluations[0]["eval_loss"], abs=1e-5)
    assert mean_loss(run.output_dir, rows) == pytest.approx(run.evaluations[1]["eval_loss"], abs=1e-5)
    assert run.evaluations[1]["eval_loss"] < run.evaluations[0]["eval_loss"] - 1e-3
    apart = stored == "a head of its own"
    assert ("does not tie them" in " ".join(run.output.split())) == apart
    assert ("lm_head.weight" in load_file(run.output_dir / "model.safetensors")) == apart
    assert json.loads((run.output_dir / "config.json").read_text())["tie_word_embeddings"] == (not apart)


def test_modules_of_an_adapter_have_the_names_of_transformers(workspace, tmp_path):
    """GPT-NeoX's head is lm_head to transformers and PEFT, and embed_out in files."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    folder = shutil.copytree(workspace.model("llama-tied"), tmp_path / "model")
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                                     max_position_embeddings=128)).save_pretrained(folder)
    adapter = {"use_peft": True, "lora_target_modules": "query_key_value", "lora_modules_to_save": "lm_head", "lora_r": 4}
    run = ours.run(settings_of(workspace, folder, tmp_path / "out", **adapter))
    rows = models.tokenize(folder, workspace.eval_texts)
    assert mean_loss(run.output_dir, rows) == pytest.approx(run.evaluations[1]["eval_loss"], abs=1e-5)
    assert run.evaluations[1]["eval_loss"] < run.evaluations[0]["eval_loss"] - 1e-3
    merged = tmp_path / "merged"
    subprocess.run([ours.program(), "export", "--merge", run.output_dir, merged], check=True, capture_output=True)
    assert "embed_out.weight" in load_file(merged / "model.safetensors")
    assert mean_loss(merged, rows) == pytest.approx(run.evaluations[1]["eval_loss"], abs=1e-5)


def test_a_run_goes_on_without_the_weights_it_began_with(workspace, tmp_path):
    folder = shutil.copytree(workspace.model("llama-tied"), tmp_path / "model")
    settings = settings_of(workspace, folder, tmp_path / "out", save_strategy="steps", save_steps=2)
    whole = ours.run(settings)
    (folder / "model.safetensors").unlink()
    shutil.rmtree(tmp_path / "out" / "checkpoint-3", ignore_errors=True)
    resumed = ours.run(settings | {"resume_from_checkpoint": True})
    assert resumed.steps[-1]["step"] == 3 and resumed.steps[-1]["loss"] == whole.steps[-1]["loss"]
