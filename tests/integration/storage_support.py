"""What a run with checkpoints left in its folder."""

import subprocess

import small_run as small
from parity import ours

EVERY = [4, 8, 12, 16, 20]


def assert_ends_like(run_dir, whole: ours.Run, steps) -> None:
    """Weights, losses and the checkpoints of `steps`, byte for byte; nothing unfinished is left."""
    assert small.checkpoints(run_dir) == list(steps)
    for step in steps:
        small.assert_same_state(whole.output_dir / f"checkpoint-{step}", run_dir / f"checkpoint-{step}")
    small.assert_same_weights(whole.output_dir, run_dir)
    assert small.by_step(ours.read_log(run_dir)) == small.by_step(whole.log)
    assert not leftovers(run_dir)


def leftovers(output_dir) -> list[str]:
    return [path.name for path in output_dir.iterdir() if ".tmp-" in path.name or path.name.startswith((".trash", ".replaced"))]


def verify(checkpoint) -> None:
    done = subprocess.run([str(ours.program()), "verify", str(checkpoint)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def order_of(output_dir) -> list[tuple[str, int]]:
    events = {"train", "checkpoint", "checkpoint_failed", "stopped"}
    return [(entry["event"], entry["step"]) for entry in ours.read_log(output_dir) if entry["event"] in events]
