"""Starts trl_run.py and reads what it wrote."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("trl_run.py")


@dataclass
class TrlResult:
    folder: Path
    log_history: list[dict]
    train_rows: list[list[int]] | None
    raw: dict

    @property
    def steps(self) -> list[dict]:
        return [entry for entry in self.log_history if "loss" in entry]

    @property
    def evaluations(self) -> list[dict]:
        return [entry for entry in self.log_history if "eval_loss" in entry]

    @property
    def summary(self) -> dict:
        return next(entry for entry in self.log_history if "train_loss" in entry)

    def weights(self) -> dict:
        from safetensors.numpy import load_file

        return load_file(self.folder / "model.safetensors")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(jobs: list[dict], ranks: int = 1, threads: int = 1, timeout: float = 3000) -> list[TrlResult]:
    """Every job in each of `ranks` processes, one process group for all. Raises with the output of the process that failed."""
    with tempfile.TemporaryDirectory() as scratch:
        job_file = Path(scratch) / "jobs.json"
        job_file.write_text(json.dumps(jobs))
        common = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
                  "HF_DATASETS_CACHE": str(Path(scratch) / "cache"), "CUDA_VISIBLE_DEVICES": ""}
        port, processes = _free_port(), []
        for rank in range(ranks):
            env = dict(common)
            if ranks > 1:
                env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            output = open(Path(scratch) / f"rank{rank}.log", "w+")
            processes.append((subprocess.Popen([sys.executable, str(SCRIPT), str(job_file)], env=env, stdout=output,
                                               stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL), output))
        try:
            for process, output in processes:
                if process.wait(timeout):
                    output.seek(0)
                    raise RuntimeError(f"TRL failed ({process.returncode}):\n{output.read()[-6000:]}")
        finally:
            for process, output in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                output.close()
    results = []
    for job in jobs:
        raw = json.loads((Path(job["out"]) / "result.json").read_text())
        results.append(TrlResult(Path(job["out"]), raw["log_history"], raw["train_rows"], raw))
    return results
