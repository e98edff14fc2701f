"""sft-dist against TRL, run live, on the CPU. What CI has time for; test_trl_full.py has every model under every layout."""

import dataclasses
import json
import math
import os
import subprocess

import h5py
import pytest

from parity import cases, compare, models, ours
from parity.cases import Case

MATRIX = cases.matrix([
    ("llama", "8x1x1"), ("llama-tied", "1x8x1"), ("opt-pre", "1x8x1"), ("opt-post", "8x1x1"), ("gpt2", "8x1x1"),
    ("llama-linear", "8x1x1"), ("llama-tied", "2x2x2"), ("opt-post", "2x2x2"), ("gpt2", "2x2x2"), ("llama", "1x3x3"), ("gemma3", "8x1x1"),
])
BF16 = [cases.bf16("llama-tied", "8x1x1"), cases.bf16("gpt2", "8x1x1"), cases.bf16("opt-post", "2x2x2"),
        cases.bf16("llama", "8x1x1", long=True)]
LONG = [cases.long("llama", "8x1x1"), cases.long("opt-post", "1x8x1"), cases.long("gpt2", "8x1x1")]
RECOMPUTED = [cases.recomputed("llama-tied", "8x1x1")]
PLAIN = {"lr_scheduler_type": "linear", "warmup_steps": 2}
EVALUATION = [Case("llama-eval", "llama", "8x1x1", PLAIN, evaluate=True), Case("gpt2-eval-2", "gpt2", "2x2x2", PLAIN, evaluate=True)]
# Nothing is learnt: the rows of training come in another order than TRL's (docs/numerics.md).
GROUPED = Case("llama-eval-grouped", "llama", "8x1x1", PLAIN | {"train_sampling_strategy": "group_by_length", "learning_rate": 0, "max_steps": 8},
               evaluate=True)
# Of the training rows one, of the evaluation rows two do not fill a batch on every rank.
DROP_LAST = Case("llama-drop-last", "llama", "1x3x3", PLAIN | {"dataloader_drop_last": True}, evaluate=True)
# Best-fit packing of masked rows, of pieces in a learned-position model over ranks, and across documents.
PACKED = [cases.packed("llama", "8x1x1", "bfd", masked=True, evaluate=True),
          cases.packed("gpt2", "2x2x2", "bfd_split", settings={"max_length": 20, "shuffle_dataset": True}),
          cases.packed("llama-tied", "2x2x2", "wrapped", masked=True, evaluate=True)]
# Sixteen rows learnt by heart: the evaluation gets worse, the run stops early and ends with its best model.
BEST = Case("llama-best", "llama", "8x1x1", {"lr_scheduler_type": "constant", "learning_rate": 3e-3, "max_steps": 100, "eval_steps": 3, "save_steps": 3,
                                             "save_strategy": "steps", "save_total_limit": 2, "load_best_model_at_end": True},
            num_rows=16, evaluate=True, early_stopping={"early_stopping_patience": 2, "early_stopping_threshold": 0.01})
DFT = PLAIN | {"loss_type": "dft", "max_grad_norm": 1e-3}  # its gradients are small, and clipping must be seen
LOSSES = [Case("llama-smoothed", "llama", "2x2x2", PLAIN | {"label_smoothing_factor": 0.1}, evaluate=True),
          Case("gpt2-smoothed", "gpt2", "8x1x1", PLAIN | {"label_smoothing_factor": 0.3}),
          Case("llama-dft", "llama", "8x1x1", DFT, evaluate=True),
          Case("opt-dft", "opt-pre", "2x2x2", DFT)]
OPTIMIZERS = [Case("llama-adafactor", "llama", "2x2x2", PLAIN | {"optim": "adafactor"}),
              Case("gpt2-sgd", "gpt2", "8x1x1", PLAIN | {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "learning_rate": 1e-2})]
# As the case of that name, but every rank's mean by itself.
OWN_MEANS_OF = next(case for case in MATRIX if case.name == "llama-tied-2x2x2")
OWN_MEANS = dataclasses.replace(OWN_MEANS_OF, name="llama-tied-own-means", settings=OWN_MEANS_OF.settings | {"average_tokens_across_devices": False})
# The load-balancing loss under accumulation, means of each rank, ranks that come to an end early, recomputed activations and packing; the
# model's weight and another one. Near-ties of experts make TRL differ from itself by as much.
MIXTURE_BOUNDS = compare.Bounds(loss=5e-5, grad_norm=2e-4, weights=1e-3)
MIXTURES = [Case("mixtral-2x2x2", "mixtral", "2x2x2", PLAIN | {"router_aux_loss_coef": 0.2, "average_tokens_across_devices": False}, evaluate=True,
                 bounds=MIXTURE_BOUNDS),
            Case("qwen2-moe-1x3x3", "qwen2-moe", "1x3x3", PLAIN | {"gradient_checkpointing": True}, bounds=MIXTURE_BOUNDS),
            cases.packed("mixtral", "8x1x1", "bfd", masked=True, bounds=MIXTURE_BOUNDS)]
# One row, nothing learnt: every step draws new noise on the same loss. One row a micro-batch, so that TRL's length is the row's.
NOISE = Case("llama-noise", "llama", "8x1x1", num_rows=1, always_twice=True, settings={
    "per_device_train_batch_size": 1, "max_steps": 300, "learning_rate": 0, "weight_decay": 0, "neftune_noise_alpha": 30})
COMPLETION = Case("llama-completion", "llama", "2x2x2", PLAIN, completion=True)
# Where no row repeats and no rank is short of rows, TRL's numbers are right, and ours without trl_compat are the same.
EVEN = [Case("llama-even", "llama", "2x2x2", PLAIN, num_rows=96, trl_compat=False)]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> cases.Workspace:
    return cases.Workspace(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def trl(workspace):
    return workspace.run_trl([*MATRIX, *LONG, *RECOMPUTED, *BF16, *EVALUATION, DROP_LAST, *PACKED, *LOSSES, *OPTIMIZERS, BEST, *EVEN, NOISE, COMPLETION,
                              OWN_MEANS, *MIXTURES, GROUPED])


@pytest.mark.parametrize("case", [*MATRIX, *LONG, *RECOMPUTED, *EVEN, *OPTIMIZERS, *(c for c in [*PACKED, *LOSSES] if not c.evaluate)],
                         ids=lambda c: c.name)
def test_follows_trl(workspace, trl, case):
    cases.check_case(workspace, case, trl[case.name])


@pytest.mark.parametrize("case", BF16, ids=lambda c: c.name)
def test_bf16_follows_autocast(workspace, trl, case):
    cases.check_case(workspace, case, trl[case.name])


@pytest.mark.parametrize("case", [*EVALUATION, DROP_LAST, *(c for c in [*PACKED, *LOSSES] if c.evaluate)], ids=lambda c: c.name)
def test_evaluation_as_trl(workspace, trl, case):
    run = cases.check_case(workspace, case, trl[case.name])
    reference = trl[case.name][0]
    assert [e["step"] for e in run.evaluations] == [e["step"] for e in reference.evaluations] == [8, 16, reference.steps[-1]["step"]]
    for entry, expected in zip(run.evaluations, reference.evaluations):
        assert entry["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-5 * max(1, expected["eval_loss"]))
        assert entry["eval_num_tokens"] == expected["eval_num_tokens"]
    cases.check_token_metrics(run.evaluations, reference.evaluations, case.bounds, "eval_")
    assert ("eval_perplexity" in run.evaluations[0]) == (case not in LOSSES), "exp(loss) of another loss is no perplexity"


def test_evaluation_is_grouped_by_length_as_in_trl(workspace, trl):
    run, as_they_come = (workspace.run_ours(case) for case in (GROUPED, dataclasses.replace(GROUPED, name="llama-eval-ungrouped", settings=PLAIN | {
        "learning_rate": 0, "max_steps": 8})))
    reference = trl[GROUPED.name][0]
    assert run.evaluations[0]["eval_loss"] == pytest.approx(reference.evaluations[0]["eval_loss"], abs=1e-5)
    assert abs(run.evaluations[0]["eval_loss"] - as_they_come.evaluations[0]["eval_loss"]) > 1e-4, "the order makes no difference here"
    cases.check_token_metrics(run.evaluations, reference.evaluations, GROUPED.bounds, "eval_")


def test_own_means_of_ranks_follow_trl(workspace, trl):
    run = cases.check_case(workspace, OWN_MEANS, trl[OWN_MEANS.name])
    over_all = trl[OWN_MEANS_OF.name][0].steps
    assert max(abs(own["loss"] - other["loss"]) for own, other in zip(run.steps, over_all)) > 1e-2, "means of ranks are no other loss here"


def test_own_means_of_ranks_without_rows(workspace):
    """Of an epoch's last window two of three ranks have no row: they count with the loss 0. Against transformers' losses of the rows."""
    case = Case("own-means-ragged", "llama", "1x3x3", {"average_tokens_across_devices": False, "learning_rate": 0, "weight_decay": 0,
                                                       "num_train_epochs": 1}, trl_compat=False)
    run = workspace.run_ours(case)
    import torch

    sums = row_losses(run.output_dir, models.tokenize(workspace.model(case.model), workspace.train_texts))
    order = torch.randperm(cases.NUM_ROWS, generator=torch.Generator().manual_seed(42)).tolist()
    expected = []
    for begin in range(0, len(order), 9):
        window = order[begin:begin + 9]
        of_ranks = [[sums[row] for row in window[rank::3]] for rank in range(3)]
        expected.append(sum(sum(loss for loss, _ in rows) / max(1, sum(count for _, count in rows)) for rows in of_ranks) / 3)
    assert len(window) == 1 and len(expected) == 12
    assert [step["loss"] for step in run.steps] == pytest.approx(expected, abs=1e-5)
    assert all(step["grad_norm"] > 0 for step in run.steps)


@pytest.mark.parametrize("case", MIXTURES, ids=lambda c: c.name)
def test_mixtures_of_experts_follow_trl(workspace, trl, case):
    run, reference = cases.check_case(workspace, case, trl[case.name]), trl[case.name][0]
    cases.check_aux_losses(run.steps, reference.steps)
    assert len(run.evaluations) == len(reference.evaluations) == (3 if case.evaluate else 0)
    for entry, expected in zip(run.evaluations, reference.evaluations):
        assert entry["eval_loss"] == pytest.approx(expected["eval_loss"], abs=case.bounds.loss * max(1, expected["eval_loss"]))
        without_aux = entry["eval_loss"] - case.settings["router_aux_loss_coef"] * entry["eval_aux_loss"]
        assert entry["eval_perplexity"] == pytest.approx(math.exp(without_aux), rel=2e-2), "the load-balancing loss is no part of the perplexity"
    if case.evaluate:
        cases.check_aux_losses(run.evaluations, reference.evaluations, "eval_")


def test_noise_is_distributed_as_trls(workspace, trl):
    """Losses under 300 draws of NEFTune noise: TRL's two runs and ours come from one distribution (Kolmogorov-Smirnov, 0.1 %)."""
    ours_losses, *trl_losses = (sorted(step["loss"] for step in run.steps) for run in (workspace.run_ours(NOISE), *trl[NOISE.name]))
    mean = sum(trl_losses[0]) / len(trl_losses[0])
    assert trl_losses[0][-1] - trl_losses[0][0] > 1e-2 * mean, "the noise does not move the loss"
    for reference in trl_losses:
        assert len(ours_losses) == len(reference) == 300
        distance = max(abs(sum(x <= at for x in ours_losses) - sum(x <= at for x in reference)) / 300 for at in ours_losses)
        assert distance < 1.95 * math.sqrt(2 / 300)


def test_stops_early_and_ends_with_the_best_model_as_trl(workspace, trl):
    run, reference = cases.check_case(workspace, BEST, trl[BEST.name]), trl[BEST.name][0]
    assert len(run.steps) == len(reference.steps) < 100, "it did not stop early"
    state = json.loads((run.output_dir / "trainer_state.json").read_text())
    best_step, best_metric, checkpoint = reference.raw["best"]
    assert best_step <= len(run.steps) and state["best_global_step"] == best_step
    assert state["best_metric"] == pytest.approx(best_metric, abs=1e-5 * max(1, best_metric))
    assert os.path.basename(state["best_model_checkpoint"]) == os.path.basename(checkpoint)
    left = [{path.name for path in folder.glob("checkpoint-*")} for folder in (run.output_dir, reference.folder)]
    assert left[0] == left[1]


@pytest.mark.parametrize("ranks, batch, eval_batch", [(1, 4, 8), (2, 2, 3), (3, 1, 1)])
def test_evaluation_is_the_exact_token_mean(workspace, ranks, batch, eval_batch):
    """Against a plain loop over rows in transformers; whatever the world size and the batch."""
    case = Case(f"exact-{ranks}", "llama-tied", "8x1x1", {"max_steps": 5, "lr_scheduler_type": "constant"}, evaluate=True,
                trl_compat=False)
    settings = case.shared_settings() | {
        "per_device_train_batch_size": batch, "per_device_eval_batch_size": eval_batch, "eval_steps": 5,
        "model_name_or_path": workspace.model(case.model), "train_dataset": workspace.token_file("train", case.model),
        "eval_dataset": workspace.token_file("eval", case.model), "output_dir": workspace.folder / "ours" / case.name}
    run = ours.run(settings, ranks=ranks)
    expected, accuracy, entropy = token_means(run.output_dir, models.tokenize(workspace.model(case.model), workspace.eval_texts))
    (entry,) = run.evaluations
    assert entry["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert entry["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert entry["eval_mean_token_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert entry["eval_entropy"] == pytest.approx(entropy, abs=1e-5)


def token_means(model_folder, rows) -> tuple[float, float, float]:
    """Loss, accuracy and entropy over all targets."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    total, right, entropy, count = 0.0, 0, 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row[:cases.MAX_LENGTH]])
            if ids.shape[1] > 1:
                logits = model(ids).logits[0, :-1].double()
                total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
                right += (logits.argmax(-1) == ids[0, 1:]).sum().item()
                entropy += torch.distributions.Categorical(logits=logits).entropy().sum().item()
                count += ids.shape[1] - 1
    return total / count, right / count, entropy / count


def row_losses(model_folder, rows) -> list[tuple[float, int]]:
    """Each row's sum of the loss and its number of targets."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    result = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row[:cases.MAX_LENGTH]])
            logits = model(ids).logits[0, :-1].double()
            result.append((torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item(), ids.shape[1] - 1))
    return result


def test_packed_documents_of_opt_do_not_see_one_another(workspace):
    """transformers' OPT forgets the positions when it builds the mask, so TRL's packed documents attend across their borders there.
    Here the loss on packed rows is that of the documents one by one."""
    case = Case("packed-opt", "opt-pre", "8x1x1", {"max_steps": 5, "packing": True, "lr_scheduler_type": "constant", "eval_strategy": "steps",
                                                   "eval_steps": 5}, evaluate=True, trl_compat=False)
    run = workspace.run_ours(case, eval_steps=5)
    expected, _, _ = token_means(run.output_dir, models.tokenize(workspace.model(case.model), workspace.eval_texts))
    assert "documents packed" in " ".join(run.output.split())
    assert run.evaluations[0]["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_counters_without_trl_compat_are_exact(workspace):
    """Three ranks, a ragged end, two epochs: no row is counted twice, none is lost."""
    case = Case("exact-counters", "llama", "1x3x3", PLAIN, trl_compat=False)
    run = workspace.run_ours(case)
    lengths = [min(len(row), cases.MAX_LENGTH) for row in models.tokenize(workspace.model("llama"), workspace.train_texts)]
    at_epoch_end = {entry["epoch"]: entry["num_tokens"] for entry in run.steps}
    assert at_epoch_end[1.0] == sum(lengths)
    assert at_epoch_end[2.0] == 2 * sum(lengths)
    assert len(run.steps) == 2 * math.ceil(math.ceil(len(lengths) / 3) / 3)


def test_gpt2_divisor_counts_real_targets(workspace, trl):
    """TRL counts column 0 among GPT-2's targets, which are not learnt from: its loss is too small by targets / (targets + rows)."""
    case = Case("gpt2-divisor", "gpt2", "8x1x1", {"max_steps": 1, "lr_scheduler_type": "constant"}, trl_compat=False)
    exact, compat = workspace.run_ours(case), workspace.run_ours(case, "gpt2-divisor-compat", trl_compat=True)
    import torch

    order = torch.randperm(cases.NUM_ROWS, generator=torch.Generator().manual_seed(42)).tolist()[:8]
    rows = models.tokenize(workspace.model("gpt2"), workspace.train_texts)
    targets = sum(min(len(rows[i]), cases.MAX_LENGTH) - 1 for i in order)
    ratio = targets / (targets + 8)
    for key in ("loss", "grad_norm"):
        assert compat.steps[0][key] == pytest.approx(exact.steps[0][key] * ratio, rel=1e-5)


@pytest.mark.parametrize("case", [MATRIX[0], COMPLETION], ids=lambda c: c.name)
def test_prepared_rows_are_what_trl_trains_on(workspace, trl, case):
    """From the same rows, TRL's own preparation on one side, sft-prepare on the other; then the same training."""
    reference = trl[case.name][0]
    source, prepared, ini = (workspace.folder / f"{case.name}{suffix}" for suffix in (".jsonl", "-prepared.h5", "-prepare.ini"))
    source.write_text("".join(json.dumps(row) + "\n" for row in workspace.rows(case)))
    settings = case.shared_settings() | {"model_name_or_path": workspace.model(case.model), "train_file": source, "train_dataset": prepared,
                                         "output_dir": workspace.folder / "ours" / f"{case.name}-prepared", "save_strategy": "no", "trl_compat": True}
    ini.write_text(ours.ini_text(settings))
    done = subprocess.run([ours.SOURCE_DIR / "launch" / "sft-prepare", "--args", ini], capture_output=True, text=True,
                          env={**os.environ, "SFT_DIST": str(ours.program())})
    assert done.returncode == 0, done.stdout + done.stderr
    with h5py.File(prepared) as file:
        ids, offsets = file["input_ids"][:].tolist(), file["offsets"][:].tolist()
        first_target = file["first_target"][:].tolist() if case.completion else [0] * len(offsets)
    rows = [ids[a:b] for a, b in zip(offsets, offsets[1:])]
    assert [row[:cases.MAX_LENGTH] for row, first in zip(rows, first_target) if first < min(len(row), cases.MAX_LENGTH)] == reference.train_rows
    assert not case.completion or len(reference.train_rows) < len(rows)  # some prompts fill max_length
    run = ours.run(settings, ranks=case.ranks)
    difference = compare.between(run.steps, run.weights(), reference.steps, reference.weights())
    compare.check(case.name, difference, compare.Difference(weights=dict.fromkeys(difference.weights, 0.0)), case.bounds)
