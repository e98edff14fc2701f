"""Options of loss, logging and optimizer: each is changed once, and what it must do is seen."""

import math
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

import small_run as small
from parity import models, ours

QUICK = {"max_steps": 4, "save_strategy": "no"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("options"))


@pytest.fixture(scope="module")
def plain(workspace):
    return ours.run(workspace.settings("plain", **QUICK))


def test_token_metrics_can_be_left_out_and_change_nothing(workspace, plain):
    evaluation = {"eval_dataset": workspace.eval, "eval_strategy": "steps", "eval_steps": 2}
    run = ours.run(workspace.settings("quiet", log_token_metrics=False, **QUICK, **evaluation))
    assert [e["loss"].hex() for e in run.steps] == [e["loss"].hex() for e in plain.steps]
    assert all("entropy" in e and "mean_token_accuracy" in e for e in plain.steps)
    assert not any("entropy" in key or "accuracy" in key for e in run.log for key in e)
    assert [e["num_tokens"] for e in run.steps] == [e["num_tokens"] for e in plain.steps]


def test_token_metrics_of_a_window_are_means_over_its_targets(workspace, plain):
    """One entry for four steps against the four; weights are the steps' targets."""
    run = ours.run(workspace.settings("one-window", logging_steps=4, **QUICK))
    (entry,) = run.steps
    # Rows of the first epoch in torch's order; six a step.
    import torch

    order = torch.randperm(len(workspace.rows), generator=torch.Generator().manual_seed(42)).tolist()
    targets = [sum(min(len(workspace.rows[i]), small.MAX_LENGTH) - 1 for i in order[6 * step:6 * step + 6]) for step in range(4)]
    for key in ("entropy", "mean_token_accuracy"):
        expected = sum(e[key] * n for e, n in zip(plain.steps, targets)) / sum(targets)
        assert entry[key] == pytest.approx(expected, rel=1e-9), key


def test_work_per_second(workspace):
    run = ours.run(workspace.settings("flops", peak_tflops_per_rank=0.25, logging_steps=2, **QUICK), ranks=2)
    config = small.CONFIG
    hidden, heads, head_dim, layers = (config[k] for k in ("hidden_size", "num_attention_heads", "head_dim", "num_hidden_layers"))
    linear = layers * (2 * hidden * heads * head_dim + 2 * hidden * config["num_key_value_heads"] * head_dim
                       + 3 * hidden * config["intermediate_size"])
    import torch

    order = torch.randperm(len(workspace.rows), generator=torch.Generator().manual_seed(42)).tolist()
    tokens_before = 0
    for i, entry in enumerate(run.steps):
        seconds = (entry["num_tokens"] - tokens_before) / entry["tokens_per_second"]  # the same stretch of time
        tokens_before = entry["num_tokens"]
        lengths = [min(len(workspace.rows[row]), small.MAX_LENGTH) for row in order[24 * i:24 * i + 24]]  # 2 steps x 2 ranks x 6
        flops = (6 * linear * sum(lengths) + 6 * hidden * models.VOCAB_SIZE * (sum(lengths) - len(lengths))
                 + 6 * layers * heads * head_dim * sum(n * n for n in lengths))
        if 24 * i + 24 <= len(order):
            assert entry["tflops"] == pytest.approx(flops / seconds / 1e12, rel=1e-9)
        assert entry["mfu"] == pytest.approx(entry["tflops"] / (2 * 0.25), rel=1e-12)
    assert len(run.steps) == 2


def test_mfu_needs_a_peak(plain):
    assert all(math.isfinite(e["tflops"]) and e["tflops"] > 0 and "mfu" not in e for e in plain.steps)


@pytest.mark.parametrize("change", [{"neftune_noise_alpha": 5}, {"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_loss_options_change_training_and_are_resumed_with_a_warning(workspace, plain, change):
    run = ours.run(workspace.settings("changed", overwrite_output_dir=True, save_steps=2, max_steps=4, **change))
    assert run.steps[0]["loss"] != plain.steps[0]["loss"]
    resumed = ours.run(workspace.settings("changed", max_steps=6, save_strategy="no", resume_from_checkpoint=run.output_dir / "checkpoint-4"))
    (name,) = change
    assert f"{name} was" in resumed.output, resumed.output


def test_schedule_free_evaluates_and_saves_its_average(workspace):
    evaluation = {"eval_dataset": workspace.eval, "eval_strategy": "steps", "eval_steps": 6}
    settings = {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant", "warmup_steps": 0, "max_steps": 6, "save_steps": 3}
    run = ours.run(workspace.settings("averaged", **settings, **evaluation))
    again = ours.run(workspace.settings("averaged-again", model_name_or_path=run.output_dir, max_steps=1, save_strategy="no",
                                        eval_on_start=True, **{**evaluation, "eval_strategy": "no"}))
    assert again.evaluations[0]["eval_loss"] == run.evaluations[-1]["eval_loss"]
    checkpoint = ours.read_weights(run.output_dir / "checkpoint-6")
    training_point = ours.run(workspace.settings("averaged", resume_from_checkpoint=run.output_dir / "checkpoint-3", **settings, **evaluation))
    assert small.by_step(training_point.log) == small.by_step(run.log)
    import numpy as np

    assert all(np.array_equal(checkpoint[name], values) for name, values in training_point.weights().items())


def test_schedule_free_stopped_before_its_first_step_goes_on(workspace):
    options = {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant", "warmup_steps": 2, "max_steps": 4, "save_strategy": "no"}
    settings = workspace.settings("not-begun", **options)
    stopped = ours.run(settings | {"max_run_minutes": 1e-9}, check=False)
    assert stopped.returncode == 85 and small.checkpoints(settings["output_dir"]) == [0]
    resumed = ours.run(settings | {"resume_from_checkpoint": True})
    plain = ours.run(workspace.settings("begun", **options))
    small.assert_same_weights(plain.output_dir, resumed.output_dir)


def test_data_seed_draws_the_rows_and_nothing_else(workspace):
    """torch's order from that seed; without it from `seed`, which dropout and adapters keep to."""
    import torch

    options = {"logging_steps": 1, "max_steps": 2, "save_strategy": "no"}
    by_data_seed = ours.run(workspace.settings("data-seed", data_seed=7, **options))
    by_seed = ours.run(workspace.settings("seed", seed=7, **options))
    assert [e["loss"] for e in by_data_seed.steps] == [e["loss"] for e in by_seed.steps]  # this model draws nothing else
    order = torch.randperm(len(workspace.rows), generator=torch.Generator().manual_seed(7)).tolist()
    tokens = [sum(min(len(workspace.rows[row]), small.MAX_LENGTH) for row in order[:6 * step]) for step in (1, 2)]
    assert [e["num_tokens"] for e in by_data_seed.steps] == tokens
    lora = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.2} | options
    plain, other_rows, other_draws = (ours.run(workspace.settings(f"lora-{i}", **lora, **more))
                                      for i, more in enumerate([{}, {"data_seed": 7}, {"seed": 7, "data_seed": 42}]))
    first_adapter = [{name: values for name, values in run.weights().items() if "lora_A" in name} for run in (plain, other_rows, other_draws)]
    assert plain.steps[0]["loss"] == other_draws.steps[0]["loss"] != other_rows.steps[0]["loss"]  # the adapter is zero at the start
    name, values = next(iter(first_adapter[0].items()))
    assert abs(values - first_adapter[1][name]).max() < 0.01 < abs(values - first_adapter[2][name]).max()


def test_epoch_strategies_end_with_the_run(workspace):
    """As transformers' on_epoch_end, which comes also when the last epoch is not finished."""
    options = {"max_steps": -1, "num_train_epochs": 1.5, "logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "epoch"}
    run = ours.run(workspace.settings("epochs", eval_dataset=workspace.eval, **options))
    assert [e["step"] for e in run.steps] == [e["step"] for e in run.evaluations] == small.checkpoints(run.output_dir) == [8, 12]
    half = ours.run(workspace.settings("half-epoch", eval_dataset=workspace.eval, **options | {"num_train_epochs": 0.5}))
    assert [e["step"] for e in half.steps] == [e["step"] for e in half.evaluations] == small.checkpoints(half.output_dir) == [4]


def test_logging_first_step(workspace, plain):
    options = {"logging_steps": 3, "save_strategy": "no"}
    assert [e["step"] for e in ours.run(workspace.settings("thirds", **options, max_steps=4)).steps] == [3]
    first = ours.run(workspace.settings("first-too", **options, max_steps=4, logging_first_step=True))
    assert [e["step"] for e in first.steps] == [1, 3]
    assert first.steps[0]["loss"] == plain.steps[0]["loss"]
    assert first.steps[1]["loss"] == pytest.approx((plain.steps[1]["loss"] + plain.steps[2]["loss"]) / 2, rel=1e-6)


def test_save_only_model_can_be_asked_to_stop_and_goes_on(workspace):
    """Also where the step it stops after has a checkpoint of the model alone."""
    options = {"save_steps": 1, "save_total_limit": 2, "lr_scheduler_type": "constant"}
    settings = workspace.settings("stopped", save_only_model=True, max_steps=100000, **options)
    process = small.start(settings, 1)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 3, "step 3", process)
        for rank in small.ranks_of(process):
            os.kill(rank, signal.SIGUSR1)
        assert process.wait(60) == 85
    finally:
        small.kill_everything(process)
    stopped = small.checkpoints(settings["output_dir"])[-1]
    resumed = ours.run(settings | {"resume_from_checkpoint": True, "max_steps": stopped + 3})
    assert f"checkpoint-{stopped}" in resumed.output and resumed.steps[-1]["step"] == stopped + 3
    plain = ours.run(workspace.settings("not-stopped", max_steps=stopped + 3, **options))
    small.assert_same_weights(plain.output_dir, resumed.output_dir)


def test_save_only_model_leaves_out_the_optimizer(workspace):
    options = {"max_steps": 4, "save_steps": 2}
    whole = ours.run(workspace.settings("whole", **options))
    model_only = ours.run(workspace.settings("model-only", save_only_model=True, **options))
    with_states, without = (sum(path.stat().st_size for path in (run.output_dir / "checkpoint-4").rglob("*") if path.is_file())
                            for run in (whole, model_only))
    weights = sum(values.nbytes for values in model_only.weights().values())
    assert weights < without < with_states - 1.9 * weights
    resumed = ours.run(workspace.settings("model-only", save_only_model=True, max_steps=6,
                                          resume_from_checkpoint=model_only.output_dir / "checkpoint-4"), check=False)
    assert resumed.returncode != 0 and "save_only_model" in resumed.output
    again = ours.run(workspace.settings("from-model-only", model_name_or_path=model_only.output_dir / "checkpoint-4", **QUICK))
    assert again.steps[0]["loss"] < whole.steps[0]["loss"]


def test_threads_of_a_rank_change_results_within_rounding(workspace, plain):
    run = ours.run(workspace.settings("threads", threads_per_rank=2, **QUICK))
    assert [entry["threads_per_rank"] for one in (plain, run) for entry in one.events("started")] == [1, 2]
    assert [e["loss"] for e in run.steps] == pytest.approx([e["loss"] for e in plain.steps], abs=1e-5)


@pytest.mark.parametrize("more", [{}, {"bf16": True}, {"threads_per_rank": 2}], ids=lambda more: "-".join(more) or "fp32")
def test_steps_take_no_new_memory(workspace, more):
    """Pages that the system gives, counted. Rows of one length: oneDNN compiles products for each number of tokens anew."""
    name = f"memory-{len(more)}-{'bf16' in more}"
    rows = [(row * 40)[:100] for row in workspace.rows]
    model = models.write_model(workspace.folder / f"{name}-model", small.CONFIG | {"head_dim": 16})
    settings = workspace.settings(name, model_name_or_path=model, train_dataset=workspace.write_data(name, rows=rows), max_length=None,
                                  max_steps=10**6, save_strategy="no", logging_steps=10, **more)
    process = small.start(settings, 1)
    try:
        def last() -> int:
            return small.last_step(settings["output_dir"])

        def pages() -> int:
            (rank,) = small.ranks_of(process)
            return int(Path(f"/proc/{rank}/stat").read_text().rsplit(")", 1)[1].split()[7])

        small.wait_for(lambda: last() >= 60, "the first steps", process)
        before, first = pages(), last()
        small.wait_for(lambda: last() >= first + 200, "200 steps", process)
        assert pages() - before < last() - first, "more than one page a step"
    finally:
        small.kill_everything(process)


@pytest.mark.parametrize("more", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_memory_does_not_grow_with_rows_of_uneven_lengths(workspace, more):
    """Every micro-batch has another number of tokens, so that every tensor has another size than the one before."""
    settings = workspace.settings(f"uneven-{len(more)}", max_steps=10**6, save_strategy="no", logging_steps=10, **more)
    process = small.start(settings, 1)
    try:
        def megabytes() -> float:
            (rank,) = small.ranks_of(process)
            return int(re.search(r"RssAnon:\s*(\d+) kB", Path(f"/proc/{rank}/status").read_text())[1]) / 1024

        def wait_for_step(step: int) -> None:
            small.wait_for(lambda: small.last_step(settings["output_dir"]) >= step, f"step {step}", process, timeout=120)

        wait_for_step(300)
        before = megabytes()
        wait_for_step(900)
        assert megabytes() - before < 20
    finally:
        small.kill_everything(process)


def test_tensorboard_has_what_the_log_has(workspace):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = ours.run(workspace.settings("tensorboard", report_to="tensorboard", run_name="x", eval_dataset=workspace.eval, eval_strategy="steps",
                                      eval_steps=2, max_steps=2, save_strategy="no"))
    (folder,) = (run.output_dir / "runs").iterdir()
    assert folder.name.endswith("_x")
    events = EventAccumulator(str(folder))
    events.Reload()
    for tag, key, entries in (("train/loss", "loss", run.steps), ("train/grad_norm", "grad_norm", run.steps),
                              ("train/learning_rate", "learning_rate", run.steps), ("eval/loss", "eval_loss", run.evaluations)):
        assert entries and {e.step: e.value for e in events.Scalars(tag)} == pytest.approx({e["step"]: e[key] for e in entries}, rel=1e-6), tag


@pytest.mark.parametrize("level, said", [("info", True), ("error", False)])
def test_log_level(workspace, level, said):
    run = ours.run(workspace.settings(f"level-{level}", log_level=level, max_steps=2, save_steps=2))
    assert len(run.steps) == 2 and small.checkpoints(run.output_dir) == [2]
    assert ("saved " in run.output) == said, run.output


def on_a_terminal(settings: dict) -> str:
    """What the run prints to a terminal."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(ours.command(small.write_ini(settings), 0), stdin=subprocess.DEVNULL, stdout=end, stderr=end, env=ours.environment())
    os.close(end)
    printed = b""
    with open(terminal, "rb", buffering=0) as stream:
        try:
            while part := stream.read(4096):
                printed += part
        except OSError:  # EIO: nobody has the other end any more
            pass
    assert process.wait(60) == 0, printed
    return printed.decode()


@pytest.mark.parametrize("more, bar", [({}, True), ({"disable_tqdm": False}, True), ({"disable_tqdm": True}, False)], ids=str)
def test_progress_bar_on_terminals(workspace, plain, more, bar):
    printed = on_a_terminal(workspace.settings(f"bar-{len(more)}-{bar}", **QUICK | more))
    assert "train " in printed and (" 4/4 loss " in printed) == bar, printed
    assert " 4/4 loss " not in plain.output and "\x1b" not in plain.output
