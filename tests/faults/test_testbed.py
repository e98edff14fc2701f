"""cluster/testbed itself: it leaves nothing behind, however it is ended."""

import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from testbed import SCRIPTS


@pytest.fixture
def folder():
    folder = Path(tempfile.mkdtemp(prefix="sft-bed-", dir="/tmp"))
    yield folder
    call("down", folder)
    assert not folder.exists()


def call(name: str, folder: Path, *arguments, check=True) -> subprocess.CompletedProcess:
    done = subprocess.run([SCRIPTS / name, *arguments], env=os.environ | {"SFT_TESTBED": str(folder)}, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=90)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def processes_of(folder: Path) -> list[str]:
    """Commands of all processes of the bed in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"SFT_TESTBED={folder}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass
    return [command for command in found if "pytest" not in command]


def outside() -> str:
    """Links, addresses, routes and mounts that anything else on this machine sees."""
    links = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    links = re.sub(r"(valid|preferred)_lft \S+", "", links)  # of an address by DHCP it counts down
    return links + routes + Path("/proc/self/mounts").read_text() + os.uname().nodename


def wait_for_none(folder: Path) -> None:
    deadline = time.monotonic() + 60  # it may have to wait for all of Slurm to come up
    while left := processes_of(folder):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)


def test_up_run_down(folder):
    before = outside()
    call("up", folder)
    assert outside() == before
    assert "already" in call("up", folder).stdout
    names = call("run", folder, "srun", "--mpi=none", "-N3", "hostname").stdout.split()
    assert sorted(names) == ["h1", "h2", "h3"]
    assert call("run", folder, "hostname").stdout == "ctl\n"
    assert call("run", folder, "--on", "h2", "bash", "-c", "hostname; pwd; exit 7", check=False).stdout == f"h2\n{os.getcwd()}\n"
    assert call("run", folder, "--on", "h2", "sh", "-c", "exit 7", check=False).returncode == 7
    # A host's shared memory and temporary files are its own.
    call("run", folder, "--on", "h1", "sh", "-c", "touch /dev/shm/mine $TMPDIR/mine")
    assert call("run", folder, "--on", "h2", "sh", "-c", "ls /dev/shm $TMPDIR").stdout.count("mine") == 0
    call("host", folder, "lose", "h2")
    assert "there is no host h2" in call("run", folder, "--on", "h2", "true", check=False).stderr
    call("host", folder, "start", "h2")
    assert call("run", folder, "--on", "h2", "hostname").stdout == "h2\n"
    call("down", folder)
    wait_for_none(folder)
    assert not folder.exists() and outside() == before
    call("down", folder)
    assert "no test bed is up" in call("run", folder, "true", check=False).stderr


@pytest.mark.parametrize("sign", ["pid", "h2.machine"])
def test_killed_while_starting_it_leaves_no_process(folder, sign):
    before = outside()
    process = subprocess.Popen([SCRIPTS / "up"], env=os.environ | {"SFT_TESTBED": str(folder)}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / sign).exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    wait_for_none(folder)
    assert outside() == before


def test_held_bed_ends_with_its_holder(folder):
    process = subprocess.Popen([SCRIPTS / "up", "--hold"], env=os.environ | {"SFT_TESTBED": str(folder)}, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("is up")
    stray = subprocess.Popen([SCRIPTS / "run", "--on", "h1", "sleep", "1000"], env=os.environ | {"SFT_TESTBED": str(folder)})
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    stray.wait(20)
    wait_for_none(folder)


def test_a_folder_with_other_things_in_it_is_left_alone(folder):
    (folder / "precious").touch()
    assert "is not empty" in call("up", folder, check=False).stderr
    assert "is not empty" in call("down", folder, check=False).stderr
    (folder / "precious").unlink()
