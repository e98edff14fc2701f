"""launch/quickstart --offline in this clone: trains, stops, resumes, reports; a second call has nothing left to do."""

import os
import re
import shutil
import signal
import subprocess

import small_run as small
from parity import ours


def start(source_dir):
    return subprocess.Popen([source_dir / "launch" / "quickstart", "--offline"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            stdin=subprocess.DEVNULL, start_new_session=True)


def quickstart(source_dir):
    process = start(source_dir)
    said = process.communicate()[0]
    return subprocess.CompletedProcess(process.args, process.returncode, said)


def test_quickstart_offline(source_dir):
    for folder in ("data/tiny", "output/quickstart-offline"):
        shutil.rmtree(source_dir / folder, ignore_errors=True)
    first = quickstart(source_dir)
    assert first.returncode == 0, first.stdout
    assert "exit code 85" in first.stdout and "resuming from" in first.stdout

    output = source_dir / "output" / "quickstart-offline"
    events = ours.read_log(output)
    step_of = {event["event"]: event["step"] for event in events}
    assert 202 <= step_of["stopped"] == step_of["resumed"] < 270 == step_of["summary"]
    before, after = re.search(r"nats per token: ([\d.]+) \(step 0\) -> ([\d.]+) \(step 270\)", first.stdout).groups()
    assert 6.0 < float(before) < 6.5  # random weights: about ln 512
    assert float(after) < 1.0

    second = quickstart(source_dir)
    assert second.returncode == 0, second.stdout
    assert "Training: done already" in second.stdout and "up to date" in second.stdout
    assert re.search(r"nats per token: .*", first.stdout).group() in second.stdout


def test_a_run_killed_before_its_model_was_written_is_finished(source_dir):
    model = source_dir / "output" / "quickstart-offline" / "model.safetensors"
    model.unlink()
    done = quickstart(source_dir)
    assert done.returncode == 0 and "resuming from" in done.stdout and model.is_file(), done.stdout


def test_ctrl_c_saves_and_ends_it(source_dir):
    output = source_dir / "output" / "quickstart-offline"
    shutil.rmtree(output)
    process = start(source_dir)
    small.wait_for(lambda: small.last_step(output) >= 20, "step 20", process, timeout=600)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130 and said.count("==> Train: ") == 1 and "==> Resume" not in said, said
    last = ours.read_log(output)[-1]
    assert small.checkpoints(output) == [last["step"]] and last["step"] < 200, said
    done = quickstart(source_dir)
    assert done.returncode == 0 and "resuming from" in done.stdout and (output / "model.safetensors").is_file(), done.stdout
