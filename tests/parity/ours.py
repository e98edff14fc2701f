"""Starts sft-dist and reads what it wrote."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE_DIR = Path(os.environ.get("SFT_SOURCE_DIR", Path(__file__).resolve().parents[2]))
BUILD_DIR = Path(os.environ.get("SFT_BUILD_DIR", SOURCE_DIR / "build" / "release"))

MPI_ENV = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def program() -> Path:
    path = BUILD_DIR / "sft-dist"
    assert path.is_file(), f"{path} is not built: cmake --build --preset ci"
    return path


def ini_text(settings: dict) -> str:
    def value(v):
        return json.dumps(v) if isinstance(v, dict) else "None" if v is None else str(v)

    return "".join(f"{key} = {value(v)}\n" for key, v in settings.items())


def read_log(output_dir: Path) -> list[dict]:
    """Its complete lines: a run that is going on may be writing one more."""
    path = Path(output_dir) / "trainer_log.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def command(ini: Path, ranks: int) -> list[str]:
    """ranks = 0: without mpirun."""
    launcher = ["mpirun", "-np", str(ranks)] if ranks else []
    return [*launcher, str(program()), "--args", str(ini)]


def environment(extra: dict | None = None) -> dict:
    return {**os.environ, **MPI_ENV, "CUDA_VISIBLE_DEVICES": "", **(extra or {})}


@dataclass
class Run:
    output_dir: Path
    returncode: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    @property
    def log(self) -> list[dict]:
        return read_log(self.output_dir)

    def events(self, name: str) -> list[dict]:
        return [entry for entry in self.log if entry.get("event") == name]

    @property
    def steps(self) -> list[dict]:
        return self.events("train")

    @property
    def evaluations(self) -> list[dict]:
        return self.events("eval")

    @property
    def summary(self) -> dict:
        return self.events("summary")[-1]

    def weights(self, folder: Path | None = None) -> dict:
        return read_weights(folder or self.output_dir)


def read_weights(folder: Path) -> dict:
    """All tensors of a model folder, whether in one file or several, or of an adapter's."""
    from safetensors.numpy import load_file

    if (folder / "adapter_config.json").exists():
        return load_file(folder / "adapter_model.safetensors")
    index = folder / "model.safetensors.index.json"
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
    weights = {}
    for name in names:
        weights |= load_file(folder / name)
    return weights


def run(settings: dict, ranks: int = 1, *, env: dict | None = None, timeout: float = 180, check: bool = True) -> Run:
    """`settings` must have output_dir; run.ini is written beside it."""
    output_dir = Path(settings["output_dir"])
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    ini = output_dir.parent / f"{output_dir.name}.ini"
    ini.write_text(ini_text({"report_to": "none", "threads_per_rank": 1, "device": "cpu"} | settings))
    done = subprocess.run(command(ini, ranks), capture_output=True, text=True, timeout=timeout, env=environment(env),
                          stdin=subprocess.DEVNULL)
    result = Run(output_dir, done.returncode, done.stdout, done.stderr)
    if check and done.returncode != 0:
        raise AssertionError(f"sft-dist ended with {done.returncode}\n{ini.read_text()}\n{result.output[-6000:]}")
    return result
