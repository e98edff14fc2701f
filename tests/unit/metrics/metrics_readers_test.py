"""What the logs hold, as the libraries that people use read it: json, transformers, TensorBoard."""

import json
import math
import os
import subprocess
from pathlib import Path

import pytest

STEPS = range(1, 7)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    program = Path(os.environ["SFT_BUILD_DIR"]) / "tests/unit/metrics/metrics_write_sample"
    result = subprocess.run([program, folder], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return folder


def strict(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_jsonl(run):
    lines = [strict(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["event"] == "train"]
    assert [line["step"] for line in train] == list(STEPS)
    assert all(line["loss"] == 4.0 / line["step"] and line["learning_rate"] == 2e-5 / line["step"] for line in train)
    assert [line["grad_norm"] for line in train if line["step"] == 3] == ["NaN"]
    assert all(type(line["num_tokens"]) is int for line in train)
    assert [line["eval_loss"] for line in lines if line["event"] == "eval"] == [1.5, 0.75, 0.5]
    assert [line["path"] for line in lines if line["event"] == "checkpoint"] == ["checkpoint-3"]


def test_trainer_state_is_transformers(run):
    import dataclasses

    from transformers import TrainerState

    state = TrainerState.load_from_json(str(run / "trainer_state.json"))
    assert (state.global_step, state.max_steps, state.epoch, state.total_flos) == (6, 6, 1.5, 2e15)
    assert (state.num_input_tokens_seen, state.num_train_epochs, state.train_batch_size) == (6000, 2, 4)
    assert (state.logging_steps, state.eval_steps, state.save_steps) == (1, 2, 3)
    assert [entry["loss"] for entry in state.log_history if "loss" in entry] == [4.0 / step for step in STEPS]
    assert [(entry["step"], entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry] == [(2, 1.5), (4, 0.75), (6, 0.5)]
    assert all({"step", "epoch"} <= set(entry) for entry in state.log_history)
    # Exactly the keys transformers writes, and what it writes it reads.
    assert set(strict((run / "trainer_state.json").read_text())) == {field.name for field in dataclasses.fields(TrainerState)}
    state.save_to_json(str(run / "again.json"))
    assert json.loads((run / "again.json").read_text()) == strict((run / "trainer_state.json").read_text())
    from transformers.trainer_callback import TrainerControl
    control = TrainerControl.from_state(state.stateful_callbacks["TrainerControl"])
    assert control.should_training_stop


def scalars(run, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in sorted((run / "runs").iterdir()):
        events = EventAccumulator(str(folder))
        events.Reload()
        found |= {event.step: event.value for event in events.Scalars(tag)}
    return found


def test_tensorboard(run):
    folders = sorted((run / "runs").iterdir())
    assert len(folders) == 2
    assert any(folder.name.endswith("_resumed_run_2") for folder in folders)
    assert scalars(run, "train/loss") == pytest.approx({step: 4.0 / step for step in STEPS}, rel=1e-6)
    assert scalars(run, "train/learning_rate") == pytest.approx({step: 2e-5 / step for step in STEPS}, rel=1e-6)
    assert scalars(run, "eval/loss") == pytest.approx({2: 1.5, 4: 0.75, 6: 0.5}, rel=1e-6)
    assert scalars(run, "train/epoch") == pytest.approx({step: step / 4 for step in STEPS}, rel=1e-6)
    grad_norm = scalars(run, "train/grad_norm")
    assert math.isnan(grad_norm[3]) and grad_norm[6] == pytest.approx(0.6)
