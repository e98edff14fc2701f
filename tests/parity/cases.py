"""The settings under which sft-dist is held against TRL, and how both sides are run under them."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from parity import compare, models, ours, token_file, trl_side

NUM_ROWS = 100      # divisible by no global batch used here: every epoch ends ragged
NUM_EVAL_ROWS = 20
MAX_LENGTH = 32     # cuts some rows
LONG = 150          # the same for rows of up to 160 words: several blocks of attention

# (per_device_train_batch_size, gradient_accumulation_steps, ranks)
LAYOUTS = {"8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "2x2x2": (2, 2, 2), "1x3x3": (1, 3, 3)}

SCHEDULES = [
    ("linear", {}, 3), ("cosine", {}, 3), ("cosine_with_restarts", {"num_cycles": 2}, 2), ("polynomial", {"power": 2.0, "lr_end": 1e-6}, 3),
    ("constant_with_warmup", {}, 5), ("inverse_sqrt", {}, 4), ("cosine_with_min_lr", {"min_lr_rate": 0.1}, 0.1),
    ("warmup_stable_decay", {"num_decay_steps": 9}, 3), ("constant", {}, 0),
]


@dataclass
class Case:
    name: str
    model: str
    layout: str
    settings: dict = field(default_factory=dict)
    num_rows: int = NUM_ROWS
    long: bool = False
    evaluate: bool = False
    masked: bool = False        # the first third of each row is not learnt
    early_stopping: dict = field(default_factory=dict)  # EarlyStoppingCallback's arguments, options of ours
    completion: bool = False  # rows of prompt and completion: most tokens are not learnt
    trl_compat: bool = True
    bounds: compare.Bounds = field(default_factory=compare.Bounds)
    always_twice: bool = False

    @property
    def ranks(self) -> int:
        return LAYOUTS[self.layout][2]

    @property
    def max_length(self) -> int:
        return LONG if self.long else MAX_LENGTH

    @property
    def twice(self) -> bool:
        """Whether TRL is run with eager attention too: where its two runs differ by more than a twentieth of a bound. The gradient of a key's
        bias, which moves no softmax, is nothing but rounding, and AdamW takes it for as large as any other."""
        has_key_bias = self.model.startswith(("gpt2", "opt"))
        return self.always_twice or has_key_bias or bool(self.settings.get("bf16"))

    def shared_settings(self) -> dict:
        """What both sides are given, under the same names."""
        batch, accumulation, _ = LAYOUTS[self.layout]
        duration = {"num_train_epochs": 2} if self.layout == "1x3x3" else {"max_steps": 24}
        evaluation = {"eval_strategy": "steps", "eval_steps": 8, "per_device_eval_batch_size": 3} if self.evaluate else {}
        return {
            "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_length": self.max_length,
            # ReLU units flip at their kink under larger steps, in TRL against itself too.
            "learning_rate": 2e-4 if self.model.startswith("opt") else 1e-3,
            "weight_decay": 0.1, "max_grad_norm": 0.5, "logging_steps": 1, "seed": 42,
        } | duration | evaluation | self.settings


def matrix(which: list[tuple[str, str]]) -> list[Case]:
    """One case per (model, layout), the schedules taken in turn."""
    cases = []
    for (model, layout), (schedule, kwargs, warmup) in zip(which, itertools.cycle(SCHEDULES)):
        settings = {"lr_scheduler_type": schedule, "warmup_steps": warmup}
        if kwargs:
            settings["lr_scheduler_kwargs"] = kwargs
        cases.append(Case(f"{model}-{layout}", model, layout, settings))
    return cases


BF16_BOUNDS = compare.Bounds(loss=3e-3, grad_norm=1e-2, weights=1e-3)


def bf16(model: str, layout: str, **more) -> Case:
    name = f"{model}-{layout}-bf16" + ("-long" if more.get("long") else "")
    return Case(name, model, layout, {"bf16": True, "lr_scheduler_type": "cosine", "warmup_steps": 3}, bounds=BF16_BOUNDS, **more)


def long(model: str, layout: str, bounds: compare.Bounds = compare.Bounds()) -> Case:
    return Case(f"{model}-{layout}-long", model, layout, {"lr_scheduler_type": "linear", "warmup_steps": 2}, long=True, bounds=bounds)


def recomputed(model: str, layout: str) -> Case:
    return Case(f"{model}-{layout}-recomputed", model, layout,
                {"gradient_checkpointing": True, "lr_scheduler_type": "linear", "warmup_steps": 2})


def packed(model: str, layout: str, strategy: str, **more) -> Case:
    settings = {"packing": True, "packing_strategy": strategy, "lr_scheduler_type": "linear", "warmup_steps": 2} | more.pop("settings", {})
    return Case(f"{model}-{layout}-{strategy}", model, layout, settings, **more)


def masked_labels(rows: list[list[int]]) -> list[list[int]]:
    return [[-100] * (len(row) // 3) + row[len(row) // 3:] for row in rows]


def all_twice(cases: list[Case]) -> list[Case]:
    return [dataclasses.replace(case, always_twice=True) for case in cases]


class Workspace:
    """Models, tokenizers and token files under one folder, made when first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.train_texts = models.texts(NUM_ROWS, seed=1)
        self.long_texts = models.texts(NUM_ROWS, seed=3, longest=160)
        self.eval_texts = models.texts(NUM_EVAL_ROWS, seed=2)

    def model(self, name: str) -> Path:
        """The model's folder, its tokenizer in it."""
        folder = self.folder / "models" / name
        if not (folder / "tokenizer.json").exists():
            models.write_model(folder, models.ALL_CONFIGS[name])
            pad = models.SPECIAL_TOKENS[models.ALL_CONFIGS[name]["pad_token_id"]]
            models.write_tokenizer(folder, self.train_texts + self.eval_texts + self.long_texts, pad_token=pad)
        return folder

    def token_file(self, part: str, model: str, num_rows: int | None = None, masked: bool = False) -> Path:
        texts = {"train": self.train_texts, "long": self.long_texts, "eval": self.eval_texts}[part][:num_rows]
        path = self.folder / f"{part}-{model}-{len(texts)}{'-masked' if masked else ''}.h5"
        if not path.exists():
            config = models.ALL_CONFIGS[model]
            rows = models.tokenize(self.model(model), texts)
            token_file.write_token_file(
                path, rows, self.model(model), labels=masked_labels(rows) if masked else None, vocab_size=models.VOCAB_SIZE,
                bos=config["bos_token_id"], eos=config["eos_token_id"], pad=config["pad_token_id"], prepare={"part": "eval" if part == "eval" else "train"})
        return path

    def texts(self, case: Case) -> list[str]:
        return (self.long_texts if case.long else self.train_texts)[:case.num_rows]

    def rows(self, case: Case) -> list[dict]:
        """As TRL and sft-prepare take them."""
        if not case.completion:
            return [{"text": text} for text in self.texts(case)]
        words = [text.split(" ") for text in self.texts(case)]
        cuts = [len(row) - 1 if i % 3 == 0 else len(row) * 2 // 3 for i, row in enumerate(words)]  # some prompts fill max_length
        return [{"prompt": " ".join(row[:cut]), "completion": " " + " ".join(row[cut:])} for row, cut in zip(words, cuts)]

    def trl_job(self, case: Case, attn: str) -> dict:
        job = {"out": str(self.folder / "trl" / f"{case.name}-{attn}"), "model": str(self.model(case.model)),
               "tokenizer": str(self.model(case.model)), "attn": attn, "settings": case.shared_settings()}
        if case.early_stopping:
            job["early_stopping"] = case.early_stopping
        for part, texts in [("train", self.texts(case)), *([("eval", self.eval_texts)] if case.evaluate else [])]:
            if case.masked:
                rows = models.tokenize(self.model(case.model), texts)
                job[f"{part}_columns"] = {"input_ids": rows, "labels": masked_labels(rows)}
            elif case.completion and part == "train":
                rows = self.rows(case)
                job["train_columns"] = {column: [row[column] for row in rows] for column in rows[0]}
            else:
                job[f"{part}_texts"] = texts
        return job

    def run_trl(self, cases: list[Case]) -> dict[str, list[trl_side.TrlResult]]:
        """A run of each case with sdpa attention, and a second one with eager where it is to be run twice. Importing TRL takes long, so that
        there are few processes: sets of up to 12 runs on as many ranks, three sets at a time."""
        runs = [(case, attn) for case in cases for attn in ("sdpa", "eager")[:1 + case.twice]]
        sets = []
        for ranks, of_ranks in itertools.groupby(sorted(runs, key=lambda run: -run[0].ranks), key=lambda run: run[0].ranks):
            of_ranks = list(of_ranks)
            sets += [(ranks, of_ranks[i:i + 12]) for i in range(0, len(of_ranks), 12)]
        jobs = [[self.trl_job(*run) for run in runs] for _, runs in sets]
        with ThreadPoolExecutor(3) as pool:
            done = pool.map(trl_side.run, jobs, [ranks for ranks, _ in sets])
        found = {(case.name, attn): result for (_, runs), results in zip(sets, done) for (case, attn), result in zip(runs, results)}
        return {case.name: [found[case.name, attn] for attn in ("sdpa", "eager")[:1 + case.twice]] for case in cases}

    def run_ours(self, case: Case, name: str = "", **more) -> ours.Run:
        settings = {"save_strategy": "no"} | case.shared_settings() | case.early_stopping | {
            "model_name_or_path": self.model(case.model), "train_dataset": self.token_file("long" if case.long else "train", case.model, case.num_rows, case.masked),
            "output_dir": self.folder / "ours" / (name or case.name), "trl_compat": case.trl_compat}
        if case.evaluate:
            settings["eval_dataset"] = self.token_file("eval", case.model, masked=case.masked)
        return ours.run(settings | more, ranks=case.ranks)


def check_token_metrics(entries: list[dict], reference: list[dict], bounds: compare.Bounds, prefix: str = "") -> None:
    """A guess between two almost equally likely words may fall otherwise in one entry of fp32; in bf16 some do."""
    fp32, other_guesses = bounds.loss <= 1e-5, 0
    for entry, expected in zip(entries, reference):
        where, entropy = f"step {entry['step']}", expected[f"{prefix}entropy"]
        assert abs(entry[f"{prefix}entropy"] - entropy) <= bounds.loss * max(1, entropy), where
        difference = abs(entry[f"{prefix}mean_token_accuracy"] - expected[f"{prefix}mean_token_accuracy"])
        assert difference <= 0.05, where
        other_guesses += difference > 1e-6
    assert other_guesses <= 1 or not fp32, f"mean_token_accuracy differs in {other_guesses} entries"


def check_aux_losses(entries: list[dict], reference: list[dict], prefix: str = "") -> None:
    """A token between two almost equally likely experts may go to the other one, and moves the share of both by one."""
    differences = sorted(abs(entry[f"{prefix}aux_loss"] - expected[f"{prefix}aux_loss"]) for entry, expected in zip(entries, reference))
    assert differences[-1] <= 0.02 and differences[len(differences) // 2] <= 1e-5, differences


def check_case(workspace: Workspace, case: Case, trl: list[trl_side.TrlResult]) -> ours.Run:
    """Runs sft-dist on `case` and asserts that it follows TRL."""
    sdpa = trl[0]
    rows = models.tokenize(workspace.model(case.model), workspace.texts(case))
    if not case.settings.get("packing"):  # tests/unit/data/packing_test.cpp compares packed rows
        assert sdpa.train_rows == [row[:case.max_length] for row in rows], "the token file is not what TRL trained on"
    run, reference = workspace.run_ours(case), sdpa.steps
    assert len(reference) >= 20
    assert max(s["grad_norm"] for s in reference) > case.shared_settings()["max_grad_norm"], "clipping was never active"
    noise = compare.between(trl[-1].steps, trl[-1].weights(), reference, sdpa.weights())  # nothing where there is one run
    difference = compare.between(run.steps, run.weights(), reference, sdpa.weights())
    compare.check(case.name, difference, noise, case.bounds)
    for entry, expected in zip(run.steps, reference):
        assert entry["num_tokens"] == expected["num_tokens"], f"step {entry['step']}"
        assert abs(entry["epoch"] - expected["epoch"]) < 1e-9, f"step {entry['step']}"
    if case.trl_compat:
        check_token_metrics(run.steps, reference, case.bounds)
    expected = sdpa.summary["train_loss"]
    assert abs(run.summary["train_loss"] - expected) <= case.bounds.loss * max(1, expected)
    return run
