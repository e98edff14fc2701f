"""launch/sft-run --doctor: `sft-dist doctor` on the hosts of a run, within a deadline; and when it does not come up, which host is to blame.

First the program is started on each host by itself, then on all of them together; where only the latter fails, on each pair with the
first host.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tagged import TaggedProcess

FOLDER = Path(__file__).resolve().parent
DONE, HANG, CONFIG = 0, 86, 92
AT_ONCE = 16  # starts side by side
GRACE_SECONDS = 10  # for the watchdog of the ranks, which says more
PLACES = {"-H", "--host", "--hosts"}
TAKES_VALUE = PLACES | {"-n", "-np", "--hostfile", "--interface", "--launcher"}
FOR_MPIRUN = PLACES | {"--hostfile", "--oversubscribe"}


@dataclass
class Outcome:
    code: int | None  # None: not within the deadline
    output: str

    def reason(self, seconds: float) -> str:
        return f"no answer within {seconds:g} s" if self.code is None else f"the program cannot be started there (exit code {self.code})"


class Launch:
    """The options of launch/run that say where and how ranks start. Ends the program where they do not suit srun."""

    def __init__(self, arguments: list[str]):
        self.options: dict[str, str] = {}
        self.places: list[str] = []  # HOST:SLOTS of all -H, --host and --hosts
        self.hostfiles: list[str] = []
        self.program_arguments: list[str] = []  # what launch/run hands on to sft-dist
        items = iter(arguments)
        for item in items:
            given = None
            if item.startswith("--hosts="):
                item, _, given = item.partition("=")
            if item in TAKES_VALUE:
                value = self.options[item] = next(items, "") if given is None else given
                if item in PLACES:
                    self.places += value.split(",")
                elif item == "--hostfile":
                    self.hostfiles.append(value)
            elif item in FOR_MPIRUN:
                self.options[item] = ""
            else:
                self.program_arguments.append(item)
        by_slurm = bool(os.environ.get("SLURM_JOB_ID")) and shutil.which("srun") is not None
        self.by_srun = self.options.get("--launcher", "srun" if by_slurm else "mpirun") == "srun"
        unsuited = FOR_MPIRUN & set(self.options)
        os.environ.setdefault("SLURM_PMIX_FENCE", "ring")  # as launch/run
        if self.by_srun and unsuited:
            print(f"sft-run: error: {', '.join(sorted(unsuited))} is for mpirun, but srun starts the ranks here, on the hosts and cores of the allocation: "
                  "leave it out, or add --launcher mpirun", file=sys.stderr)
            raise SystemExit(CONFIG)

    def hosts(self) -> list[str]:
        """Where ranks may start, each host once; empty: on this machine only. Ends the program where the list cannot be read."""
        try:
            listed = self._listed()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"sft-run: error: the hosts of the run cannot be listed: {error}", file=sys.stderr)
            raise SystemExit(CONFIG) from None
        return list(dict.fromkeys(host.split(":")[0] for host in listed if host))

    def _listed(self) -> list[str]:
        if self.by_srun or os.environ.get("SLURM_JOB_NODELIST") and not self.places and not self.hostfiles:
            return subprocess.run(["scontrol", "show", "hostnames"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        if self.places or not self.hostfiles:  # with both, mpirun takes of the file those that are named
            return self.places
        lines = [line for file in self.hostfiles for line in Path(file).read_text().splitlines()]
        return [line.split()[0] for line in lines if line.split("#")[0].strip()]

    def on(self, hosts: list[str], program: str, *arguments: str) -> list[str]:
        """A command that starts one rank on each of the hosts."""
        if self.by_srun:
            return ["srun", "--mpi=pmix", "--overlap", "--kill-on-bad-exit=1", f"-N{len(hosts)}", f"-n{len(hosts)}", "-w", ",".join(hosts), program, *arguments]
        network = ["--interface", self.options["--interface"]] if "--interface" in self.options else []
        places = ",".join(f"{host}:1" for host in hosts)
        return [str(FOLDER / "run"), "--launcher", "mpirun", "-n", str(len(hosts)), "-H", places, *network, *arguments]


RUNNING: set[TaggedProcess] = set()
ENDING = threading.Event()


def end(number: int, _) -> None:
    ENDING.set()
    for process in list(RUNNING):
        process.kill_all()
    sys.exit(128 + number)


def outcome_of(command: list[str], seconds: float) -> Outcome:
    process = TaggedProcess(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    RUNNING.add(process)
    if ENDING.is_set():
        process.kill_all()
    try:
        output = process.communicate(timeout=seconds)[0]
        return Outcome(process.returncode, output)
    except subprocess.TimeoutExpired:
        return Outcome(None, "")
    finally:
        process.kill_all()
        process.wait()
        RUNNING.discard(process)


def outcomes_of(commands: list[list[str]], seconds: float) -> list[Outcome]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda command: outcome_of(command, seconds), commands))


def row(check: str, ok: bool, text: str) -> None:
    print(f"{check:<16}{'ok' if ok else 'TO DO':<7}{text}", flush=True)


def program_path() -> str:
    find = ["bash", "-c", '. "$1"; find_sft_dist', "bash", str(FOLDER / "common.sh")]
    found = subprocess.run(find, stdout=subprocess.PIPE, text=True)
    if found.returncode != 0:
        raise SystemExit(found.returncode)
    return found.stdout.strip()


def reach_each(launch: Launch, hosts: list[str], program: str, seconds: float) -> bool:
    outcomes = outcomes_of([launch.on([host], program, "--version") for host in hosts], seconds)
    for host, outcome in zip(hosts, outcomes):
        if outcome.code != DONE:
            row("reachable", False, f"{host}: {outcome.reason(seconds)}: look at the host, its network and "
                                    f"{'slurmd' if launch.by_srun else 'ssh'} there, and that the program is installed; or leave the host out")
    for host, outcome in zip(hosts, outcomes):
        if outcome.code and outcome.output.strip():
            print(f"\nWhat was said when {host} was tried:\n{textwrap.indent(outcome.output.rstrip(), '    ')}", flush=True)
    reached = all(outcome.code == DONE for outcome in outcomes)
    if reached and hosts:
        row("reachable", True, f"each by itself starts the program: {', '.join(hosts)}")
    return reached


def blame(launch: Launch, hosts: list[str], program: str, arguments: list[str], seconds: float) -> None:
    """They do not come up together. Any end at all shows that the two could talk."""
    first, others = hosts[0], hosts[1:]
    outcomes = outcomes_of([launch.on([first, host], program, *arguments) for host in others], seconds)
    silent = [host for host, outcome in zip(others, outcomes) if outcome.code in (None, HANG)]
    for host in silent:
        row("together", False, f"{first} and {host} do not come up within {seconds:g} s, although each starts the program by itself: their ranks "
                               "cannot talk to each other. Name the network with --interface, and look at firewalls between them")
    if not silent:
        row("together", False, f"the ranks do not come up within {seconds:g} s, although each host does with {first}: more time "
                               "(--doctor-seconds), or firewalls between the other hosts")


def examine(arguments: list[str], seconds: float) -> int:
    """arguments: those of launch/run. Prints the table; returns the exit code."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # so that what was started is ended too
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, end)
    launch, program = Launch(arguments), program_path()
    hosts = launch.hosts()
    if not reach_each(launch, hosts, program, seconds):
        return HANG
    # Ranks on other hosts end by themselves. The command comes last: sft-dist takes key=value for an option only before it.
    doctor = [f"--watchdog_start_seconds={seconds:g}", "doctor"]
    process = TaggedProcess([str(FOLDER / "run"), *arguments, *doctor], stdin=subprocess.DEVNULL)
    try:
        code = process.wait(timeout=seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        code = HANG
    finally:
        process.kill_all()
        process.wait()
    if code == HANG and len(hosts) > 1:
        blame(launch, hosts, program, [*launch.program_arguments, *doctor], seconds)
    return code
