"""A small training run for tests of the whole program: a tiny model, its data, and a folder to run in."""

import filecmp
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parity import models, ours, token_file  # noqa: E402

NUM_ROWS = 46       # with six rows a step: eight steps an epoch, the last one of four rows
SIX_ROWS = {1: (2, 3), 2: (1, 3), 3: (2, 1)}  # ranks -> (per_device_train_batch_size, gradient_accumulation_steps)
MAX_LENGTH = 32
CONFIG = models.CONFIGS["llama-tied"] | {"num_hidden_layers": 2}


class Workspace:
    def __init__(self, folder: Path):
        self.folder = folder
        self.model = models.write_model(folder / "model", CONFIG)
        self.texts = models.texts(NUM_ROWS, seed=11)
        models.write_tokenizer(self.model, self.texts, pad_token=models.SPECIAL_TOKENS[CONFIG["pad_token_id"]])
        self.rows = models.tokenize(self.model, self.texts)
        self.train = self.write_data("train")
        self.eval = self.write_data("eval", rows=self.rows[:9])
        self.whole: dict[int, ours.Run] = {}

    def write_data(self, name: str, rows=None, **more) -> Path:
        options = {"vocab_size": models.VOCAB_SIZE, "bos": CONFIG["bos_token_id"], "eos": CONFIG["eos_token_id"],
                   "pad": CONFIG["pad_token_id"], "prepare": {"part": name}} | more
        return token_file.write_token_file(self.folder / f"{name}.h5", self.rows if rows is None else rows, self.model, **options)

    def settings(self, output: str, **more) -> dict:
        """Six rows a step on one rank; `more` wins."""
        return {
            "model_name_or_path": self.model, "train_dataset": self.train, "output_dir": self.folder / output, "max_length": MAX_LENGTH,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 20, "learning_rate": 1e-3,
            "weight_decay": 0.1, "warmup_steps": 2, "lr_scheduler_type": "cosine", "logging_steps": 1, "save_steps": 4,
        } | more

    def six_rows(self, ranks: int, output, **more) -> dict:
        """Six rows a step on 1, 2 or 3 ranks."""
        batch, accumulation = SIX_ROWS[ranks]
        return self.settings(output, **{"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation} | more)

    def undisturbed(self, ranks: int) -> ours.Run:
        """six_rows() from the start to the end, made once. Checkpoints at 4 (mid-epoch), 8 (an epoch's end), 12, 16, 20."""
        if ranks not in self.whole:
            self.whole[ranks] = ours.run(self.six_rows(ranks, f"whole-{ranks}"), ranks)
        return self.whole[ranks]


def write_ini(settings: dict) -> Path:
    output_dir = Path(settings["output_dir"])
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    ini = output_dir.parent / f"{output_dir.name}.ini"
    ini.write_text(ours.ini_text({"report_to": "none", "threads_per_rank": 1, "device": "cpu"} | settings))
    return ini


def start(settings: dict, ranks: int, env: dict | None = None) -> subprocess.Popen:
    """In a session of its own; output goes to <output_dir>.out."""
    output = open(f"{settings['output_dir']}.out", "ab")
    with output:
        return subprocess.Popen(ours.command(write_ini(settings), ranks), stdout=output, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL, env=ours.environment(env), start_new_session=True)


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Process ids of the sft-dist ranks below mpirun (or the process itself)."""
    from bench.measure import process_tree

    found = []
    for pid in process_tree(process.pid):
        try:
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "sft-dist":
                found.append(pid)
        except OSError:
            pass
    return found


def rank_of(pid: int) -> int:
    entries = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)
    return int(entries.get("OMPI_COMM_WORLD_RANK") or entries["SLURM_PROCID"])


def kill_everything(process: subprocess.Popen) -> None:
    from bench.measure import process_tree

    pids = process_tree(process.pid)
    segments = shared_memory_of(pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    for segment in segments:
        segment.unlink(missing_ok=True)


def shared_memory_of(pids: list[int]) -> set[Path]:
    """Open MPI's files in /dev/shm that these processes use: it removes them itself only at an orderly end."""
    found = set()
    for pid in pids:
        try:
            found.update(re.findall(r"/dev/shm/vader_segment\.\S+", Path(f"/proc/{pid}/maps").read_text()))
        except OSError:  # ended meanwhile
            pass
    return set(map(Path, found))


def last_step(output_dir: Path) -> int:
    """The newest step in the log; 0 before the first."""
    steps = [entry["step"] for entry in ours.read_log(output_dir) if entry["event"] == "train"]
    return steps[-1] if steps else 0


def last_time(output_dir: Path) -> float:
    """When the newest step was logged; 0 before the first."""
    times = [entry["time"] for entry in ours.read_log(output_dir) if entry["event"] == "train"]
    return times[-1] if times else 0.0


def wait_for(condition, what: str, process: subprocess.Popen | None = None, timeout: float = 60, every: float = 0.002) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert process is None or process.poll() is None, f"the program ended ({process.returncode}) before {what}"
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
        time.sleep(every)


def checkpoints(output_dir: Path) -> list[int]:
    """Steps of the checkpoints that exist under their final name."""
    if not output_dir.exists():
        return []
    return sorted(int(match[1]) for entry in output_dir.iterdir() if (match := re.fullmatch(r"checkpoint-(\d+)", entry.name)))


def by_step(log: list[dict]) -> dict[int, tuple]:
    """Exact loss, gradient norm, learning rate and token metrics of every step. A step that was made again after a kill must repeat itself."""
    result = {}
    for entry in log:
        if entry["event"] != "train":
            continue
        value = (*(float(entry[key]).hex() for key in ("loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy")),
                 entry["num_tokens"])
        assert result.setdefault(entry["step"], value) == value, f"step {entry['step']} came out otherwise the second time"
    return result


def assert_same_state(a: Path, b: Path) -> None:
    """Two checkpoints with the same weights and optimizer state, byte for byte; the files do not depend on the world size."""
    names = sorted(str(p.relative_to(a)) for p in a.rglob("*.safetensors"))
    assert names == sorted(str(p.relative_to(b)) for p in b.rglob("*.safetensors"))
    assert any(name.startswith("state/") for name in names), "no optimizer state was saved"
    different = [name for name in names if not filecmp.cmp(a / name, b / name, shallow=False)]
    assert not different, f"{a} and {b} differ in {different}"


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = ours.read_weights(a), ours.read_weights(b)
    assert sorted(first) == sorted(second)
    different = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    assert not different, f"weights of {a} and {b} differ: {different}"
