"""Updates that are skipped for their size or because they are no numbers, and which rows a step consumes."""

import json
import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import small_run as small
from parity import models, ours

# Steps that leave the model nearly as it is: about half of all gradient norms are above their mean.
SMALL_STEPS = {"learning_rate": 1e-5, "lr_scheduler_type": "constant", "warmup_steps": 0}
@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("guards"))


def settings_at(workspace, ranks, output, **more):
    return workspace.six_rows(ranks, output, save_steps=1000, **more)


def spikes_of(norms: dict[int, float], zscore: float) -> dict[int, tuple[float, float]]:
    """Steps and (mean, deviation) by the documented rule, from the gradient norms of all steps."""
    history, in_row, found = [], 0, {}
    for step, norm in sorted(norms.items()):
        if len(history) >= 20:
            mean, deviation = statistics.fmean(history), statistics.stdev(history)
            if norm > mean + zscore * deviation:
                if in_row < 10:
                    in_row += 1
                    found[step] = mean, deviation
                    continue
                history = []
        history = [*history, norm][-100:]
        in_row = 0
    return found


def train_state(checkpoint) -> dict:
    return json.loads((checkpoint / "state" / "MANIFEST.json").read_text())["train_state"]


POISONED_STEP = 23  # rows 132 to 137, where rows are read in order


def poisoned(workspace):
    """Rows of which six, one step, are the same rare word over and over."""
    rows = [workspace.rows[i % 46] for i in range(160)]
    rare = max(id for row in workspace.rows for id in row)
    rows[132:138] = [[rare] * 30] * 6
    return workspace.write_data("poisoned", rows=rows, prepare={"part": "train"})


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_poisoned_step_is_skipped_and_its_rows_are_named(workspace, ranks):
    zscore = 2.5
    settings = settings_at(workspace, ranks, f"spike-{ranks}", train_dataset=poisoned(workspace), train_sampling_strategy="sequential",
                           skip_spike_zscore=zscore, max_steps=26)
    run = ours.run(settings, ranks)
    expected = spikes_of({entry["step"]: entry["grad_norm"] for entry in run.steps}, zscore)
    events = run.events("spike_step")
    assert [event["step"] for event in events] == sorted(expected)
    assert POISONED_STEP in expected, "the poisoned rows made no spike"
    for event in events:
        mean, deviation = expected[event["step"]]
        assert event["mean"] == pytest.approx(mean, rel=1e-12) and event["deviation"] == pytest.approx(deviation, rel=1e-9)
        assert event["limit"] == pytest.approx(mean + zscore * deviation, rel=1e-9)
        assert event["rows"] == list(range(6 * event["step"] - 6, 6 * event["step"])) and event["epoch"] == 0
        assert f"step {event['step']}: gradient norm" in run.output
    # Skipped means no update, everywhere: the optimizer's count, and the weights.
    state = train_state(run.output_dir / "checkpoint-26")
    assert state["optimizer_steps"] == 26 - len(expected) and state["spikes_total"] == len(expected)


def test_a_skipped_update_leaves_the_weights_and_resuming_keeps_the_statistics(workspace):
    """With so small a z-score about half of all steps are skipped. The run is cut at 25 and goes on with the same bits."""
    more = SMALL_STEPS | {"skip_spike_zscore": 0.01, "max_steps": 34, "save_steps": 1}
    settings = settings_at(workspace, 2, "statistics") | more
    whole = ours.run(settings, 2)
    skipped = [event["step"] for event in whole.events("spike_step")]
    assert sorted(spikes_of({entry["step"]: entry["grad_norm"] for entry in whole.steps}, 0.01)) == skipped
    assert 3 <= len(skipped) <= 11
    for step in range(21, 35):
        before, after = (whole.output_dir / f"checkpoint-{s}" for s in (step - 1, step))
        if step in skipped:
            small.assert_same_weights(before, after)
        else:
            with pytest.raises(AssertionError):
                small.assert_same_weights(before, after)
    cut = settings | {"output_dir": workspace.folder / "statistics-cut", "resume_from_checkpoint": whole.output_dir / "checkpoint-25"}
    run = ours.run(cut, 2)
    assert [event["step"] for event in run.events("spike_step")] == [step for step in skipped if step > 25]
    assert small.by_step(run.log) == {step: value for step, value in small.by_step(whole.log).items() if step > 25}
    small.assert_same_state(whole.output_dir / "checkpoint-34", run.output_dir / "checkpoint-34")
    assert train_state(whole.output_dir / "checkpoint-34") == train_state(run.output_dir / "checkpoint-34")


def test_a_step_that_is_not_finite_changes_nothing_and_the_next_ones_do(workspace):
    """One row of one rank has a token whose embedding is no number; the head is another tensor, so that no other step reads it."""
    config = small.CONFIG | {"tie_word_embeddings": False}
    model = models.write_model(workspace.folder / "model-nan", config)
    for file in workspace.model.glob("*token*"):
        shutil.copy(file, model)
    rows = [*workspace.rows]
    unused = next(id for id in reversed(range(models.VOCAB_SIZE)) if not any(id in row for row in rows))
    rows[20] = [unused, *rows[20][1:]]  # step 4 reads rows 18 to 23
    weights = models.random_weights(config)
    weights["model.embed_tokens.weight"][unused] = np.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    data = workspace.write_data("one-nan", rows=rows, prepare={"part": "train"})
    run = ours.run(workspace.six_rows(2, "one-nan", model_name_or_path=model, train_dataset=data, train_sampling_strategy="sequential",
                                      max_steps=6, save_steps=1, check_replicas_steps=1), 2)
    (event,) = run.events("non_finite_step")
    assert event["step"] == 4 and event["rows"] == list(range(18, 24))
    before, skipped, after = (run.output_dir / f"checkpoint-{step}" for step in (3, 4, 5))
    small.assert_same_state(before, skipped)
    with pytest.raises(AssertionError):
        small.assert_same_weights(skipped, after)
    state = train_state(run.output_dir / "checkpoint-6")
    assert (state["optimizer_steps"], state["non_finite_total"], state["non_finite_in_row"]) == (5, 1, 0)


def inspect_step(settings: dict, step: int, *more: str):
    command = [str(ours.program()), "inspect-step", "--step", str(step), "--args", str(small.write_ini(settings)), *more]
    return subprocess.run(command, capture_output=True, text=True, env=ours.environment())


def rows_of_step(settings: dict, step: int, *more: str) -> list[dict]:
    done = inspect_step(settings, step, *more)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert str(settings["train_dataset"]) == lines[1] and lines[-1].startswith("a row's text: sft-prepare inspect")
    names = ("epoch", "rank", "micro_step", "slot", "position", "tokens", "targets")
    return [dict(zip(names, map(int, words[:7]))) | {"rows": [int(row) for row in words[7].split(",")]} for words in map(str.split, lines[3:-1])]


@pytest.mark.parametrize("ranks, more", [
    (1, {}), (2, {"packing": True, "max_length": 64}), (3, {"train_sampling_strategy": "group_by_length"}),
    (2, {"packing": True, "packing_strategy": "wrapped", "shuffle_dataset": True}),
], ids=["plain", "packed", "by-length", "wrapped"])
def test_inspect_step_lists_what_a_run_consumes(workspace, ranks, more):
    """The run names the rows of steps it skips and counts the tokens of all; with this z-score it skips many."""
    settings = settings_at(workspace, ranks, f"consumed-{ranks}-{'-'.join(more)}", skip_spike_zscore=1e-6, max_steps=30, **SMALL_STEPS | more)
    before = {step: rows_of_step(settings, step, "--ranks", str(ranks)) for step in (8, 22)}
    run = ours.run(settings, ranks)
    named = {event["step"]: event for event in run.events("spike_step")}
    assert named, "no step was skipped"
    tokens = {0: 0} | {entry["step"]: entry["num_tokens"] for entry in run.steps}
    for step in sorted({*before, *list(named)[:2]}):
        rows = rows_of_step(settings, step, "--ranks", str(ranks))
        assert rows == before.get(step, rows), "what a step will consume and what it consumed are different"
        assert sum(row["tokens"] for row in rows) == tokens[step] - tokens[step - 1]
        assert {row["rank"] for row in rows} <= set(range(ranks)) and all(0 < row["targets"] < row["tokens"] for row in rows)
        batch, accumulation = small.SIX_ROWS[ranks]
        assert len({(row["rank"], row["micro_step"], row["slot"]) for row in rows}) == len(rows) <= ranks * batch * accumulation
        assert all(row["micro_step"] < accumulation and row["slot"] < batch for row in rows)
        if step in named:
            assert [number for row in rows for number in row["rows"]] == named[step]["rows"]
            assert {row["epoch"] for row in rows} == {named[step]["epoch"]}


def test_inspect_step_follows_a_run_that_changed_its_ranks(workspace):
    """Grouped by length in the groups of the ranks that began the epoch: the checkpoint tells, and how many ranks there are."""
    shared = SMALL_STEPS | {"train_sampling_strategy": "group_by_length", "skip_spike_zscore": 1e-6}
    first = settings_at(workspace, 1, "changed", max_steps=19, **shared)
    ours.run(first, 1)
    second = settings_at(workspace, 3, "changed", max_steps=32, resume_from_checkpoint=True, **shared)
    run = ours.run(second, 3)
    named = {event["step"]: event["rows"] for event in run.events("spike_step") if event["step"] <= 24}
    assert named
    for step, rows in list(named.items())[:3]:
        listed = rows_of_step(second, step)
        assert [number for row in listed for number in row["rows"]] == rows
        assert "3 ranks x 1 accumulation x 2 per device, counted from checkpoint-19" in inspect_step(second, step).stdout


def test_inspect_step_refuses_what_is_no_step(workspace):
    settings = settings_at(workspace, 2, "refused")
    for step, why in ((0, "--step 0: this run has the steps 1 to 20"), (21, "1 to 20"), ("x", "must be a whole number")):
        done = inspect_step(settings, step)
        assert done.returncode == 92 and why in done.stderr, done.stderr
    assert inspect_step(settings, 1, "--ranks", "0").returncode == 92
    missing = inspect_step(settings | {"train_dataset": workspace.folder / "none.h5"}, 1)
    assert missing.returncode == 89 and "none.h5" in missing.stderr


def flip_bit_in_memory(pid: int, tensor: bytes) -> int:
    """Changes the least bit of the tensor wherever the process holds it in memory of its own; how often that was."""
    found = 0
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, access, _, _, inode, *_ = line.split()
            if not access.startswith("rw") or inode != "0":
                continue
            begin, end = (int(bound, 16) for bound in span.split("-"))
            memory.seek(begin)
            try:
                content = memory.read(end - begin)
            except OSError:  # a guard page, or gone by now
                continue
            at = content.find(tensor)
            while at >= 0:
                memory.seek(begin + at)
                memory.write(bytes([content[at] ^ 1]))
                found += 1
                at = content.find(tensor, at + len(tensor))
    return found


def test_a_bit_that_flips_in_one_ranks_memory_ends_the_run(workspace):
    """In a frozen weight: no update heals it, nothing else shows it."""
    name = "model.layers.1.mlp.up_proj.weight"
    settings = workspace.settings("flipped", use_peft=True, lora_r=4, max_steps=100000, save_steps=100000, check_replicas_steps=7)
    process = small.start(settings, 3)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 3, "step 3", process)
        victim = small.ranks_of(process)[1]
        rank = small.rank_of(victim)
        assert flip_bit_in_memory(victim, ours.read_weights(workspace.model)[name].tobytes()) > 0
        assert process.wait(60) == 88
    finally:
        small.kill_everything(process)
    output = open(f"{settings['output_dir']}.out").read()
    assert f"{name} of rank {rank} differs" in output, output
    assert small.last_step(settings["output_dir"]) % 7 == 6  # found before the step's entry is written


def test_without_check_replicas_nothing_is_compared(workspace):
    settings = workspace.settings("unchecked", use_peft=True, lora_r=4, max_steps=100000, save_steps=100000, check_replicas_steps=0)
    process = small.start(settings, 2)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 3, "step 3", process)
        weight = ours.read_weights(workspace.model)["model.layers.1.mlp.up_proj.weight"]
        assert flip_bit_in_memory(small.ranks_of(process)[1], weight.tobytes()) > 0
        before = small.last_step(settings["output_dir"])
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= before + 20, "20 more steps", process)
    finally:
        small.kill_everything(process)
