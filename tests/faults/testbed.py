"""The test bed of cluster/testbed for tests: up for as long as the test's process lives, and what Slurm says of a job."""

import os
import re
import select
import subprocess
import tempfile
import time
from pathlib import Path

from parity import ours

SCRIPTS = ours.SOURCE_DIR / "cluster" / "testbed"
HOSTS = ("h1", "h2", "h3")
# srun without launch/run, as docs/running.md has it.
SRUN = ("env", "SLURM_PMIX_FENCE=ring", "srun", "--mpi=pmix", "--kill-on-bad-exit=1")


class Bed:
    def __init__(self):
        assert os.geteuid() == 0, "the test bed needs root; tests/run leaves these tests out for other users"
        self.folder = Path(tempfile.mkdtemp(prefix="sft-bed-", dir="/tmp"))  # short: sockets are in it
        self.environment = ours.environment({"SFT_TESTBED": str(self.folder), "SFT_DIST": str(ours.program()), "OMP_NUM_THREADS": "1"})
        self.holder = subprocess.Popen([SCRIPTS / "up", "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       env=self.environment, text=True)
        ready, _, _ = select.select([self.holder.stdout], [], [], 90)
        said = self.holder.stdout.readline() if ready else "nothing within 90 s"
        if not said.startswith("is up"):
            self.holder.stdin.close()
            raise AssertionError(f"the test bed does not start: {said}{self.holder.stdout.read()}")

    def close(self) -> None:
        self.holder.stdin.close()
        self.holder.wait(30)
        assert not self.folder.exists(), "the test bed left its folder behind"

    def command(self, *command, on: str = "") -> list[str]:
        return [str(part) for part in (SCRIPTS / "run", *(["--on", on] if on else []), *command)]

    def start(self, *command, on: str = "", output=subprocess.PIPE, env: dict | None = None) -> subprocess.Popen:
        return subprocess.Popen(self.command(*command, on=on), stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                                env=self.environment | (env or {}), cwd=ours.SOURCE_DIR)

    def run(self, *command, on: str = "", timeout: float = 60, check: bool = True, env: dict | None = None) -> subprocess.CompletedProcess:
        process = self.start(*command, on=on, env=env)
        try:
            output = process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{command} did not end within {timeout} s: {process.communicate()[0]}\n{self.logs()}") from None
        if check:
            assert process.returncode == 0, f"{command} ended with {process.returncode}: {output}\n{self.logs()}"
        return subprocess.CompletedProcess(command, process.returncode, output)

    def host(self, action: str, name: str) -> None:
        subprocess.run([SCRIPTS / "host", action, name], env=self.environment, check=True, timeout=30, stdin=subprocess.DEVNULL)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    # Slurm

    def submit(self, *arguments, env: dict | None = None) -> "Job":
        return Job(self, int(self.run("sbatch", "--parsable", *arguments, env=env).stdout))

    def idle_hosts(self) -> set[str]:
        """Hosts that Slurm would start a job on."""
        return set(self.run("sinfo", "-h", "-N", "-p", "low", "-t", "idle", "-o", "%N").stdout.split())

    def wait_idle(self) -> None:
        wait_until(lambda: self.idle_hosts() == set(HOSTS), "all hosts idle", self)


class Job:
    def __init__(self, bed: Bed, number: int):
        self.bed, self.number = bed, number

    def facts(self) -> dict[str, str]:
        said = self.bed.run("scontrol", "-o", "show", "job", self.number).stdout
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def state(self) -> str:
        return self.facts()["JobState"]

    def ended(self) -> bool:
        return self.state() in ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")

    def hosts(self) -> list[str]:
        return self.bed.run("scontrol", "show", "hostnames", self.facts()["NodeList"]).stdout.split()

    def wait(self, *states: str, timeout: float = 60) -> dict[str, str]:
        wait_until(lambda: self.state() in states, f"job {self.number} {' or '.join(states)}", self.bed, timeout)
        return self.facts()

    def wait_requeued(self, restarts: int = 1, timeout: float = 60) -> None:
        """Slurm keeps a requeued job back for two minutes; here it may start at once, but for the seconds in which hosts refuse a job that
        was just cancelled there ("Job credential revoked")."""
        wait_until(lambda: (facts := self.facts())["Restarts"] == str(restarts) and facts["JobState"] != "COMPLETING",
                   f"job {self.number} requeued", self.bed, timeout)
        time.sleep(5)
        self.bed.run("scontrol", "update", f"jobid={self.number}", "starttime=now", check=False)  # fails if it runs already


def wait_until(condition, what: str, bed: Bed, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: did not come within {timeout} s\n{bed.run('squeue', '-l').stdout}\n{bed.logs()}"
        time.sleep(0.1)
