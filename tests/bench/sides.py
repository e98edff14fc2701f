"""One measured training run of either side on a Workload."""

import json
import os
import sys
from pathlib import Path

from bench import measure
from bench.workloads import Workload
from parity import ours, trl_side


def run_trl(work: Workload, dtype: str, threads: int, scratch: Path) -> dict:
    out = scratch / "trl"
    job = {"out": str(out), "model": str(work.model), "tokenizer": str(work.model), "train_h5": str(work.data), "threads": threads,
           "settings": work.settings | {"bf16": dtype == "bf16"}, "save_model": False, "save_rows": False}
    if work.adapter:
        job["adapter"] = str(work.adapter)
    (scratch / "jobs.json").write_text(json.dumps([job]))
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
           "HF_DATASETS_CACHE": str(scratch / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    done = measure.run([sys.executable, str(trl_side.SCRIPT), str(scratch / "jobs.json")], env, timeout=3600)
    if done.returncode != 0:
        sys.exit(f"TRL failed ({done.returncode}):\n{done.output[-4000:]}")
    raw = json.loads((out / "result.json").read_text())
    steps = [entry for entry in raw["log_history"] if "loss" in entry]
    tokens = steps[-1]["num_tokens"] - steps[0]["num_tokens"]
    return {"tokens_per_second": tokens / (raw["step_ends"][-1] - raw["step_ends"][0]), "peak_bytes": done.peak_bytes,
            "first_forward_seconds": raw["first_forward_seconds"], "losses": [entry["loss"] for entry in steps]}


def run_ours(work: Workload, dtype: str, threads: int, scratch: Path) -> dict:
    out = scratch / "ours"
    ini = scratch / "run.ini"
    adapter = {"use_peft": True, "adapter_name_or_path": work.adapter} if work.adapter else {}
    ini.write_text(ours.ini_text(work.settings | adapter | {
        "model_name_or_path": work.model, "train_dataset": work.data, "output_dir": out, "overwrite_output_dir": True, "save_strategy": "no",
        "bf16": dtype == "bf16", "threads_per_rank": threads, "device": "cpu", "report_to": "none"}))
    done = measure.run(ours.command(ini, ranks=0), ours.environment(), timeout=3600)
    if done.returncode != 0:
        sys.exit(f"sft-dist failed ({done.returncode}):\n{done.output[-4000:]}")
    log = ours.read_log(out)
    steps = [entry for entry in log if entry["event"] == "train"]
    first = next(entry for entry in log if entry["event"] == "first_forward")
    tokens = steps[-1]["num_tokens"] - steps[0]["num_tokens"]
    return {"tokens_per_second": tokens / (steps[-1]["time"] - steps[0]["time"]), "peak_bytes": done.peak_bytes,
            "first_forward_seconds": first["seconds_since_start"], "losses": [entry["loss"] for entry in steps]}
