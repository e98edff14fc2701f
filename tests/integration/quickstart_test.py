"""launch/quickstart --offline in this clone: trains, stops, resumes, reports; a second call has nothing left to do."""

import json
import re
import shutil
import subprocess


def quickstart(source_dir):
    return subprocess.run([source_dir / "launch" / "quickstart", "--offline"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL)


def test_quickstart_offline(source_dir):
    for folder in ("data/tiny", "output/quickstart-offline"):
        shutil.rmtree(source_dir / folder, ignore_errors=True)
    first = quickstart(source_dir)
    assert first.returncode == 0, first.stdout
    assert "exit code 85" in first.stdout and "resuming from" in first.stdout

    output = source_dir / "output" / "quickstart-offline"
    events = [json.loads(line) for line in (output / "trainer_log.jsonl").read_text().splitlines()]
    step_of = {event["event"]: event["step"] for event in events}
    assert 202 <= step_of["stopped"] == step_of["resumed"] < 270 == step_of["summary"]
    before, after = re.search(r"nats per token: ([\d.]+) \(step 0\) -> ([\d.]+) \(step 270\)", first.stdout).groups()
    assert 6.0 < float(before) < 6.5  # random weights: about ln 512
    assert float(after) < 1.0

    second = quickstart(source_dir)
    assert second.returncode == 0, second.stdout
    assert "Training: done already" in second.stdout and "up to date" in second.stdout
    assert re.search(r"nats per token: .*", first.stdout).group() in second.stdout
