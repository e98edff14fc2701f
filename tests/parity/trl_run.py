"""Runs TRL's SFTTrainer on the CPU for a list of jobs, several in one process because its import takes long.

    python trl_run.py jobs.json            one process
    trl_side.run(jobs, ranks=3)            from Python, any number of gloo processes

A job: {"out": folder, "model": folder, "tokenizer": folder, "attn": "sdpa" | "eager", "settings": {SFTConfig fields},
        "train_texts": [...] or "train_h5": file or "train_columns": {"input_ids": ..., "labels": ...}, "eval_..." likewise or absent, "save_model": bool,
        "early_stopping": {arguments of EarlyStoppingCallback} or absent,
        "threads": n or absent, "adapter": folder of a PEFT adapter to train or absent, "lora": {LoraConfig fields} to make that
        adapter with, where the folder is not there yet,
        "quantization": {BitsAndBytesConfig fields} to hold frozen linears in, or absent}
Writes out/result.json: log_history (floats as they are, nothing rounded), the rows after TRL's preparation, times of steps,
seconds from process start to the first forward, peak memory; and out/model.safetensors.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path


def seconds_since_process_start() -> float:
    start_ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - start_ticks / os.sysconf("SC_CLK_TCK")


def read_columns(path: str) -> dict[str, list[list[int]]]:
    """input_ids, and labels where the file holds some."""
    import h5py

    with h5py.File(path) as file:
        offsets = file["offsets"][:].tolist()
        values = {name: file[name][:].tolist() for name in ("input_ids", "labels") if name in file}
    return {name: [column[a:b] for a, b in zip(offsets, offsets[1:])] for name, column in values.items()}


def with_adapter(model, job: dict):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    if not (Path(job["adapter"]) / "adapter_config.json").exists():
        torch.manual_seed(7)
        made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **job["lora"]))
        made.save_pretrained(job["adapter"])
        model = made.unload()
    return PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)


def run(job: dict) -> None:
    import torch
    from accelerate.state import AcceleratorState
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, EarlyStoppingCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    if "threads" in job:
        torch.set_num_threads(job["threads"])
    AcceleratorState._reset_state()
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # left behind by a job with bf16

    def dataset(part: str):
        if f"{part}_h5" in job:
            return Dataset.from_dict(read_columns(job[f"{part}_h5"]))
        if f"{part}_columns" in job:
            return Dataset.from_dict(job[f"{part}_columns"])
        return Dataset.from_dict({"text": job[f"{part}_texts"]}) if f"{part}_texts" in job else None

    class Clock(TrainerCallback):
        def __init__(self):
            self.begins, self.ends, self.first_forward = [], [], None

        def on_step_begin(self, args, state, control, **kwargs):
            self.begins.append(time.perf_counter())

        def on_step_end(self, args, state, control, **kwargs):
            self.ends.append(time.perf_counter())

        def at_forward(self, *unused):
            if self.first_forward is None:
                self.first_forward = seconds_since_process_start()

    out = Path(job["out"])
    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    loading = {}
    if "quantization" in job:
        loading = {"quantization_config": BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **job["quantization"]), "device_map": {"": "cpu"}}
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32, attn_implementation=job.get("attn", "sdpa"), **loading)
    if "adapter" in job:
        model = with_adapter(model, job)
    settings = {"gradient_checkpointing": False, "bf16": False, "logging_steps": 1, "save_strategy": "no",
                "report_to": "none",
                "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False} | job["settings"]
    if "WORLD_SIZE" in os.environ:
        settings["ddp_backend"] = "gloo"
    clock = Clock()
    callbacks = [clock] + ([EarlyStoppingCallback(**job["early_stopping"])] if "early_stopping" in job else [])
    trainer = SFTTrainer(model=model, args=SFTConfig(output_dir=str(out), **settings), train_dataset=dataset("train"),
                         eval_dataset=dataset("eval"), processing_class=tokenizer, callbacks=callbacks)
    if "quantization" in job:  # SFTTrainer has cast the adapter to bf16
        for parameter in model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    hook = model.register_forward_pre_hook(clock.at_forward)
    trainer.train()
    hook.remove()
    if trainer.is_world_process_zero():
        out.mkdir(parents=True, exist_ok=True)
        if job.get("save_model", True):
            model.save_pretrained(out)
        (out / "result.json").write_text(json.dumps({
            "log_history": trainer.state.log_history,
            "best": [trainer.state.best_global_step, trainer.state.best_metric, trainer.state.best_model_checkpoint],
            "train_rows": [list(ids) for ids in trainer.train_dataset["input_ids"]] if job.get("save_rows", True) else None,
            "step_begins": clock.begins, "step_ends": clock.ends, "first_forward_seconds": clock.first_forward,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "threads": torch.get_num_threads(),
        }))


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)


if __name__ == "__main__":
    main()
