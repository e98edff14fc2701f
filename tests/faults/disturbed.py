"""Runs that something is done to: what is left of their processes, and what they would have come to undisturbed."""

from pathlib import Path

import small_run as small
from parity import ours


def processes_of(settings: dict) -> dict[int, list[str]]:
    """Process id, seen from here, and command of everything that was started with this run's settings, on any host."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if f"{settings['output_dir']}.ini" in command:
            found[int(process.name)] = command
    return found


def ranks_of(settings: dict) -> list[int]:
    return sorted(pid for pid, command in processes_of(settings).items() if command[0] == str(ours.program()))


def output_of(settings: dict) -> str:
    path = Path(f"{settings['output_dir']}.out")
    return path.read_text() if path.exists() else ""


def steps_made(settings: dict) -> list[int]:
    """Those made twice too."""
    return [entry["step"] for entry in ours.read_log(settings["output_dir"]) if entry["event"] == "train"]


# What changes no number of a run.
WITHOUT_EFFECT = ("output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit", "watchdog_step_seconds", "watchdog_checkpoint_seconds",
                  "max_run_minutes")


class Undisturbed:
    """undisturbed(settings, ranks): the same run from the start to the end, by mpirun on this machine. Each is made once."""

    def __init__(self, folder: Path):
        self.folder, self.done, self.begun = folder, {}, 0

    def __call__(self, settings: dict, ranks: int) -> ours.Run:
        what = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
        key = (ranks, *sorted(what.items()))
        if key not in self.done:
            whole = what | {"output_dir": self.folder / f"whole-{self.begun}", "save_steps": settings["max_steps"]}
            self.begun += 1  # also where it fails: the next must not go on from what it left
            self.done[key] = ours.run(whole, ranks)
        return self.done[key]


def assert_like(whole: ours.Run, settings: dict) -> None:
    """Bit for bit: every loss, gradient norm and learning rate, also of steps that were made twice, the weights, the optimizer's state."""
    output_dir, last = settings["output_dir"], f"checkpoint-{settings['max_steps']}"
    assert small.by_step(ours.read_log(output_dir)) == small.by_step(whole.log)
    small.assert_same_weights(whole.output_dir, output_dir)
    small.assert_same_state(whole.output_dir / last, output_dir / last)
