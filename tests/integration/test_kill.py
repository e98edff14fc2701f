"""kill -9 at seeded random moments: every restart goes on from a checkpoint that verifies, and the end is that of an undisturbed run.

SFT_KILLS sets how many kills (CI: a handful; the `full` label: 50, at least 15 of them while a checkpoint is being written), SFT_SEED which.
"""

import os
import random
import signal
import subprocess
import time

import small_run as small
from parity import ours

KILLS = int(os.environ.get("SFT_KILLS", "5"))
SEED = int(os.environ.get("SFT_SEED", "2024"))
KILLS_IN_SAVE = KILLS * 3 // 10
RANKS = 2


def saving(output_dir) -> bool:
    return output_dir.exists() and any(".tmp" in entry.name for entry in output_dir.iterdir())


def assert_all_verify(output_dir) -> None:
    for step in small.checkpoints(output_dir):
        done = subprocess.run([str(ours.program()), "verify", str(output_dir / f"checkpoint-{step}")], capture_output=True, text=True)
        assert done.returncode == 0, f"after a kill checkpoint-{step} does not verify: {done.stdout}{done.stderr}"


def test_killed_runs_end_like_an_undisturbed_one(tmp_path):
    workspace = small.Workspace(tmp_path)
    steps = 60 + 30 * KILLS
    more = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, "max_steps": steps, "save_steps": 3}
    whole = ours.run(workspace.settings("whole", **more | {"save_steps": steps}), RANKS, timeout=900)
    seconds_per_step = (whole.steps[-1]["time"] - whole.steps[0]["time"]) / steps
    output_dir = workspace.folder / "killed"
    settings = workspace.settings("killed", resume_from_checkpoint=True, save_total_limit=3, **more)
    chance = random.Random(SEED)
    kills = kills_in_save = 0
    while kills < KILLS or kills_in_save < KILLS_IN_SAVE:
        assert kills < 3 * KILLS, f"only {kills_in_save} of {kills} kills hit a save"
        newest = max(small.checkpoints(output_dir), default=0)
        process, started = small.start(settings | {"async_save": kills % 4 >= 2}, RANKS), time.time()
        try:
            # In turn: while a checkpoint is written; at any moment of the next steps; while it starts.
            if kills % 5 == 4:
                time.sleep(chance.random() * 0.5)
            else:
                small.wait_for(lambda: small.last_time(output_dir) > started, "a step", process)
                if kills_in_save < KILLS_IN_SAVE and kills % 2 == 0:
                    small.wait_for(lambda: saving(output_dir), "a save", process)
                    time.sleep(chance.random() * 0.01)
                else:
                    time.sleep(chance.random() * 20 * seconds_per_step)
            assert process.poll() is None, open(f"{output_dir}.out").read()[-4000:]
            in_save = saving(output_dir)
            ranks = small.ranks_of(process)
            if chance.random() < 0.5 or not ranks:
                small.kill_everything(process)
            else:  # one rank only: mpirun ends the other
                os.kill(chance.choice(ranks), signal.SIGKILL)
                process.wait(60)
        finally:
            small.kill_everything(process)
        kills += 1
        kills_in_save += in_save
        assert_all_verify(output_dir)
        surviving = max(small.checkpoints(output_dir), default=0)
        assert surviving >= newest, "a committed checkpoint was lost"

    run = ours.run(settings, RANKS, timeout=900)
    log = ours.read_log(output_dir)
    assert small.by_step(log) == small.by_step(whole.log)
    small.assert_same_weights(whole.output_dir, run.output_dir)
    small.assert_same_state(whole.output_dir / f"checkpoint-{steps}", output_dir / f"checkpoint-{steps}")
    assert not saving(output_dir), "an unfinished save was left behind"
