"""launch/sft-run keeps a run going: it starts it again after a crash, a kill or a hang, and knows when that is of no use."""

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import small_run as small
from parity import ours

SFT_RUN = Path(__file__).resolve().parents[2] / "launch" / "sft-run"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> small.Workspace:
    return small.Workspace(tmp_path_factory.mktemp("supervised"))


def start(settings, ranks, *options) -> subprocess.Popen:
    with open(f"{settings['output_dir']}.out", "ab") as output:
        return subprocess.Popen([sys.executable, str(SFT_RUN), *options, "-n", str(ranks), "--oversubscribe", "--args", str(small.write_ini(settings))],
                                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                                env=ours.environment({"SFT_DIST": str(ours.program())}))


def output_of(settings) -> str:
    return open(f"{settings['output_dir']}.out").read()


def test_killed_ranks_are_started_again_and_nothing_is_lost(workspace):
    more = {"save_steps": 20, "save_total_limit": 2, "lr_scheduler_type": "constant"}
    settings = workspace.settings("killed", max_steps=100000, **more)
    output_dir = settings["output_dir"]
    process = start(settings, 2)

    def make_steps(number):
        reached = small.last_step(output_dir)
        small.wait_for(lambda: small.last_step(output_dir) >= reached + number, f"{number} more steps", process)

    try:
        for _ in range(3):
            make_steps(30)
            os.kill(small.ranks_of(process)[-1], signal.SIGKILL)
            small.wait_for(lambda: len(small.ranks_of(process)) != 2, "the end of that start", process)
        make_steps(5)
        (output_dir / "stop").touch()
        assert process.wait(120) == 0, output_of(settings)
    finally:
        small.kill_everything(process)
    said, last = output_of(settings), small.last_step(output_dir)
    assert said.count("starting again in") == 3, said
    assert f"-> {last}" in said  # the ledger
    whole = ours.run(workspace.settings("killed-whole", max_steps=last, **more | {"save_steps": last}), 2)
    small.assert_same_state(whole.output_dir / f"checkpoint-{last}", output_dir / f"checkpoint-{last}")


def test_a_hang_is_ended_and_the_run_goes_on(workspace):
    settings = workspace.settings("hang", max_steps=400, save_steps=25, save_total_limit=2, watchdog_step_seconds=2, watchdog_checkpoint_seconds=5)
    process = start(settings, 2)
    try:
        small.wait_for(lambda: small.checkpoints(settings["output_dir"]), "a checkpoint", process)
        os.kill(small.ranks_of(process)[1], signal.SIGSTOP)
        small.wait_for(lambda: "starting again in" in output_of(settings), "another start", process)
        assert process.wait(180) == 0, output_of(settings)
    finally:
        small.kill_everything(process)
    assert "did not report" in output_of(settings)  # the watchdog's verdict


def test_a_job_without_heartbeat_is_killed_from_outside(workspace):
    """What the ranks' own watchdogs cannot end: here all of them are stopped, and mpirun waits."""
    settings = workspace.settings("silent", max_steps=400, save_steps=25, save_total_limit=2)
    process = start(settings, 2, "--hang-seconds", "6")
    try:
        small.wait_for(lambda: small.checkpoints(settings["output_dir"]), "a checkpoint", process)
        for rank in small.ranks_of(process):
            os.kill(rank, signal.SIGSTOP)
        small.wait_for(lambda: "no heartbeat for 6 s: killed" in output_of(settings), "the kill", process)
        assert process.wait(180) == 0, output_of(settings)
    finally:
        small.kill_everything(process)


def test_what_repeating_cannot_mend_ends_it(workspace):
    settings = workspace.settings("hopeless", train_dataset=workspace.folder / "absent.h5")
    process = start(settings, 2)
    assert process.wait(60) == 89
    assert "starting again" not in output_of(settings)


def stand_in(folder, text) -> dict:
    """The environment in which sft-run starts a shell script, in `folder`, instead of the program, which still prints the configuration."""
    fake = folder / "sft-dist"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *print-config*) exec "{ours.program()}" "$@";; esac\ncd {folder}; {text}\n')
    fake.chmod(0o755)
    return ours.environment({"SFT_DIST": str(fake)})


def supervise(settings, environment, *options) -> subprocess.CompletedProcess:
    """On one rank."""
    return subprocess.run([sys.executable, str(SFT_RUN), *options, "--args", str(small.write_ini(settings))], capture_output=True, text=True,
                          timeout=120, env=environment, stdin=subprocess.DEVNULL)


def sft_run_module():
    loader = importlib.machinery.SourceFileLoader("sft_run", str(SFT_RUN))
    spec = importlib.util.spec_from_loader("sft_run", loader)
    sys.path.insert(0, str(SFT_RUN.parent))
    module = sys.modules["sft_run"] = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


# Codes that the starts end with, one after the other; those that count towards the limit; the last one's.
@pytest.mark.parametrize("codes, limit, last", [([91, 91], 1, 91), ([85, 91], 0, 91)], ids=str)
def test_failed_starts_without_progress_are_limited_and_requests_are_not(workspace, tmp_path, codes, limit, last):
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    environment = stand_in(tmp_path, 'code=$(sed -n 1p codes); sed -i 1d codes; exit "$code"')
    done = supervise(workspace.settings(f"fruitless-{limit}"), environment, "--max-restarts", str(limit))
    assert done.returncode == last and not (tmp_path / "codes").read_text(), done.stderr
    assert done.stderr.count("starting again in") == len(codes) - 1, done.stderr
    assert f"{limit + 1} starts in a row failed without a new checkpoint: giving up" in done.stderr, done.stderr


def test_requests_without_progress_end_at_last(workspace, monkeypatch):
    sft_run = sft_run_module()
    monkeypatch.setattr(sft_run, "LONGEST_WAIT_SECONDS", 0)
    supervisor = sft_run.Supervisor([], workspace.folder / "no-progress", 1, 180, 600)
    monkeypatch.setattr(supervisor, "start", lambda: sft_run.Attempt(0, 0, 0.0, 85, ""))
    assert supervisor.run() == 86 and len(supervisor.attempts) == 20


def ends_with(sft_run, supervisor, monkeypatch, codes: list[int]) -> int:
    codes = iter(codes)
    monkeypatch.setattr(sft_run, "LONGEST_WAIT_SECONDS", 0)
    monkeypatch.setattr(supervisor, "start", lambda: sft_run.Attempt(0, 0, 0.0, next(codes), ""))
    return supervisor.run()


def test_a_host_that_is_away_is_waited_for_but_not_one_that_never_was(workspace, monkeypatch):
    sft_run = sft_run_module()
    for codes, last in (([93], 93), ([137, 93, 93, 0], 0)):
        assert ends_with(sft_run, sft_run.Supervisor([], workspace.folder / "away", 5, 180, 600), monkeypatch, codes) == last


def test_a_damaged_checkpoint_of_a_later_step_hides_no_progress(workspace, tmp_path, monkeypatch):
    """Each start makes a checkpoint of a lower number."""
    sft_run = sft_run_module()
    monkeypatch.setattr(sft_run, "LONGEST_WAIT_SECONDS", 0)
    (tmp_path / "checkpoint-200").mkdir()
    supervisor = sft_run.Supervisor([], tmp_path, 1, 180, 600)

    def start():
        made = len(supervisor.attempts)
        (tmp_path / f"checkpoint-{made + 1}" / "state").mkdir(parents=True)
        (tmp_path / f"checkpoint-{made + 1}" / "state" / "MANIFEST.json").touch()
        return sft_run.Attempt(0, 0, 0.0, 0 if made == 5 else 137, "")

    monkeypatch.setattr(supervisor, "start", start)
    assert supervisor.run() == 0 and supervisor.progress.newest_checkpoint() == 6


def test_time_in_which_the_supervisor_was_stopped_does_not_count(workspace, tmp_path, monkeypatch):
    sft_run = sft_run_module()
    now = 0.0

    class Waited(Created):
        def wait(self, timeout=None):
            nonlocal now
            now += 1000 if now == 5 else 0.5
            if now < 1007:
                raise subprocess.TimeoutExpired("", 0)
            return 0

    monkeypatch.setattr(sft_run, "TaggedProcess", Waited)
    monkeypatch.setattr(sft_run.time, "monotonic", lambda: now)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert sft_run.Supervisor([], tmp_path, 0, 10, 0).start().code == 0
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_hang_is_ended_by_the_launcher_where_it_still_can(tmp_path, monkeypatch, stubborn):
    """srun's ranks on other hosts end with it only when it is told, not when it is killed. The stand-in for launch/run ends when it is told twice."""
    sft_run = sft_run_module()
    stand_in = tmp_path / "run"
    enough = 100 if stubborn else 2
    stand_in.write_text(f"""#!/bin/bash
asked=0
trap 'asked=$((asked + 1)); echo TERM >>{tmp_path}/told; [ $asked -lt {enough} ] || {{ echo ended >>{tmp_path}/told; exit 143; }}' TERM
while :; do sleep 0.1; done
""")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sft_run, "RUN", stand_in)
    attempt = sft_run.Supervisor([], tmp_path, 0, 1, 0).start()
    assert attempt.code == 86 and "no heartbeat for 1 s: killed" in attempt.why
    assert (tmp_path / "told").read_text().split() == ["TERM", "TERM", *([] if stubborn else ["ended"])]
    assert attempt.seconds < 10


@pytest.mark.parametrize("given, expected", [
    (["--no_overwrite_output_dir"], "--no_overwrite_output_dir=true"), (["--no-overwrite-output-dir", "true"], "--no_overwrite_output_dir=true"),
    (["no_overwrite_output_dir=false"], "--no_overwrite_output_dir=true"), (["--overwrite_output_dir"], "--overwrite_output_dir=false"),
    ([], "--overwrite_output_dir=false")], ids=str)
def test_what_is_added_for_going_on_goes_with_what_was_given(given, expected):
    go_on = sft_run_module().going_on(given)
    assert go_on == [expected, "--resume_from_checkpoint=true"]
    shown = subprocess.run([ours.program(), *given, *go_on, "--print-config"], capture_output=True, text=True)
    assert "overwrite_output_dir = false\n" in shown.stdout, shown.stderr


# What the run says of resume_from_checkpoint, whether output_dir holds a checkpoint, and what the starts are told of it.
@pytest.mark.parametrize("given, saved, first, second", [
    ({}, True, None, "true"), ({"resume_from_checkpoint": "/other/checkpoint-3"}, True, "/other/checkpoint-3", "true"),
    ({"resume_from_checkpoint": "/other/checkpoint-3"}, False, "/other/checkpoint-3", "/other/checkpoint-3"),
    ({"resume_from_checkpoint": "/other/checkpoint-3"}, "before", "/other/checkpoint-3", "/other/checkpoint-3"),
    ({"resume_from_checkpoint": False, "overwrite_output_dir": True}, True, None, "true")],
    ids=["nothing", "folder", "unsaved", "saved-before", "overwritten"])
def test_the_first_start_obeys_and_the_others_go_on(workspace, tmp_path, given, saved, first, second):
    """The stand-in writes down its configuration, and saves a checkpoint that cannot be read."""
    settings = workspace.settings(f"obeys-{tmp_path.name}", **given)
    save = f"mkdir -p {settings['output_dir']}/checkpoint-4" if saved is True else ":"
    if saved == "before":  # of another course: the first start ends before it sets it aside
        (settings["output_dir"] / "checkpoint-9").mkdir(parents=True)
    environment = stand_in(tmp_path, f'"{ours.program()}" "$@" --print-config >>seen; {save}; [ $(grep -c ^output_dir seen) = 2 ] || exit 91')
    done = supervise(settings, environment)
    assert done.returncode == 0, done.stderr
    seen = [line.partition(" = ")[2] for line in (tmp_path / "seen").read_text().splitlines() if line.startswith("resume_from_checkpoint")]
    assert seen == [first or ("None" if given else "true"), second], seen


def test_a_start_may_take_longer_than_a_heartbeat(workspace, tmp_path):
    settings = workspace.settings("slow-start", max_steps=2)
    done = supervise(settings, stand_in(tmp_path, f'sleep 8; exec "{ours.program()}" "$@"'), "--hang-seconds", "6", "--watchdog_start_seconds", "60")
    assert done.returncode == 0 and "starting again" not in done.stderr, done.stderr
    done = supervise(workspace.settings("no-start"), stand_in(tmp_path, "sleep 1000"), "--hang-seconds", "1", "--watchdog_start_seconds", "2",
                     "--max-restarts", "0")
    assert done.returncode == 86 and "no heartbeat for 3 s: killed" in done.stderr, done.stderr


class Created:
    """In place of the process of a start: what it is sent."""

    def __init__(self, *_):
        self.sent = []
        os.kill(os.getpid(), signal.SIGUSR1)  # before start() has it

    def send_signal(self, number) -> None:
        self.sent.append(number)

    def wait(self, timeout=None) -> int:
        return 85

    def kill_all(self) -> None:
        pass


def test_signals_at_any_moment_reach_the_run_and_only_a_second_sigterm_ends_it(workspace, monkeypatch):
    sft_run = sft_run_module()
    monkeypatch.setattr(sft_run, "TaggedProcess", Created)
    supervisor = sft_run.Supervisor([], workspace.folder / "signals", 5, 180, 600)
    before = signal.signal(signal.SIGUSR1, supervisor.on_signal)
    try:
        assert supervisor.run() == 85 and len(supervisor.attempts) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert supervisor.process.sent == [signal.SIGUSR1]
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
        supervisor.on_signal(number, None)
    assert supervisor.process.sent[1:] == [signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_stops(workspace, sent):
    settings = workspace.settings(f"asked-{sent}", max_steps=100000, save_steps=100000)
    process = start(settings, 2)
    try:
        small.wait_for(lambda: small.last_step(settings["output_dir"]) >= 5, "step 5", process)
        process.send_signal(sent)
        assert process.wait(60) == 85, output_of(settings)
    finally:
        small.kill_everything(process)
    assert small.checkpoints(settings["output_dir"]) == [small.last_step(settings["output_dir"])]
    assert "starting again" not in output_of(settings)
