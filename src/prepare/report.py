"""python -m prepare.report run.ini: what a run has changed and where its results lie; the last step of launch/quickstart."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .errors import CONFIG, INVALID_DATA, PrepareError
from .options import find_sft_dist, read_options

PROMPT_TOKENS, SAMPLE_TOKENS = 8, 32


def evaluations(output_dir: Path) -> list[tuple[int, float]]:
    """(step, loss on the held-out rows), oldest first."""
    state = output_dir / "trainer_state.json"
    try:
        history = json.loads(state.read_text())["log_history"]
    except (OSError, ValueError, KeyError) as error:
        raise PrepareError(f"{state} cannot be read ({error}): has the run finished?") from None
    return [(entry["step"], entry["eval_loss"]) for entry in history if "eval_loss" in entry]


def continuations(options: dict) -> tuple[str, list[tuple[str, str]]]:
    """The beginning of the first held-out row, and how the model goes on greedily before and after the run."""
    import h5py

    from .tokenizer import Tokenizer, find_tokenizer

    data = Path(options["eval_dataset"])
    tokenizer = Tokenizer(find_tokenizer("", data.with_suffix(".tokenizer"))).tokenizer
    with h5py.File(data) as file:
        ids = file["input_ids"][:PROMPT_TOKENS].tolist()
    texts = []
    for name, model in (("before", options["model_name_or_path"]), ("after", options["output_dir"])):
        result = subprocess.run([find_sft_dist(), "generate", model, "--ids", ",".join(map(str, ids)), "--max_new_tokens", str(SAMPLE_TOKENS)],
                                capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if result.returncode != 0:
            raise PrepareError(f"sft-dist generate {model} failed: {result.stderr.strip()}", result.returncode)
        texts.append((name, tokenizer.decode([int(word) for word in result.stdout.replace(",", " ").split()])))
    return tokenizer.decode(ids), texts


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return CONFIG
    ini = arguments[0]
    try:
        options = read_options(["--args", ini])
        output_dir = Path(options["output_dir"])
        losses = evaluations(output_dir)
        prompt, texts = continuations(options)
    except PrepareError as error:
        print(f"report: error: {error}", file=sys.stderr)
        return error.code
    if len(losses) < 2:
        print(f"report: error: {output_dir} has {len(losses)} evaluations, two are needed: eval_on_start = true", file=sys.stderr)
        return INVALID_DATA
    (first_step, before), (last_step, after) = losses[0], losses[-1]
    print(f"loss on held-out text, nats per token: {before:.3f} (step {first_step}) -> {after:.3f} (step {last_step}), {after - before:+.3f}")
    print(f"greedy continuation of {prompt!r}:")
    for name, text in texts:
        print(f"  {name + ':':<8} {text!r}")
    print()
    for what, path in (("fine-tuned model (a Hugging Face folder)", output_dir), ("checkpoints", output_dir / "checkpoint-*"),
                       ("log, one JSON object a line", output_dir / "trainer_log.jsonl"), ("token ids", options["train_dataset"]),
                       ("pretrained model", options["model_name_or_path"])):
        print(f"{what + ':':<42} {os.path.relpath(path)}")
    print(f"""
next:  load it:        AutoModelForCausalLM.from_pretrained("{os.path.relpath(output_dir)}")   (launch/setup --full brings transformers with PyTorch)
       your own text:  copy {ini}, set train_file, train_dataset, output_dir; then
                       launch/sft-prepare --args mine.ini && launch/run -n 2 --args mine.ini
       all options:    build/release/sft-dist --help
       the tests:      tests/run""")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
