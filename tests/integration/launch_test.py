"""The scripts around sft-dist, with stand-ins for it: launch/run, launch/setup, launch/sft-prepare, cluster/slurm, tests/run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """#!/bin/bash
echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE: $*"
trap 'sleep 0.5; exit 85' USR1
: > "$READY.$OMPI_COMM_WORLD_RANK"
[ "$1" != exit ] || exit "$2"
for i in $(seq 300); do sleep 0.1; done
exit 3
"""


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def start(source_dir, tmp_path):
    """start(*arguments) -> a running launch/run with the stand-in; every started one is ended."""
    program, started = script(tmp_path / "sft-dist", PROGRAM), []

    def start(*arguments, script_name="run", **environment):
        started.append(subprocess.Popen(
            [source_dir / "launch" / script_name, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
            env={**os.environ, "SFT_DIST": str(program), "READY": str(tmp_path / "ready"), "HDF5_PLUGIN_PATH": "/x", **environment}))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.terminate()
            process.wait(30)


def wait_for_ranks(tmp_path, ranks):
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("ready.*"))) < ranks:
        assert time.monotonic() < deadline, "the ranks have not started"
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 85, 92])
def test_arguments_and_exit_code_go_through(start, code):
    process = start("-n", "2", "exit", str(code), "--args", "my run.ini", "--max_steps=3")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code
    for rank in range(2):
        assert f"rank {rank} of 2: exit {code} --args my run.ini --max_steps=3" in said
    assert "mpirun detected" not in said


def test_one_rank_by_default(start):
    assert "rank 0 of 1: exit 0" in start("exit", "0").communicate(timeout=60)[0]


def test_an_unusual_end_is_named(start):
    process = start("exit", "7")
    assert "ended with exit code 7" in process.communicate(timeout=60)[0]
    assert process.returncode == 7


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_ask_the_ranks_to_save_and_stop(start, tmp_path, sent):
    process = start("-n", "2", TMPDIR=str(tmp_path))
    wait_for_ranks(tmp_path, 2)
    process.send_signal(sent)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 85, said
    assert "asking the run to save and stop" in said and not list(tmp_path.glob("sft.*"))


def test_a_second_sigterm_ends_the_run_at_once(start, tmp_path):
    stubborn = script(tmp_path / "stubborn", PROGRAM.replace("sleep 0.5; exit 85", ":"))
    process = start("-n", "2", SFT_DIST=str(stubborn), TMPDIR=str(tmp_path))
    wait_for_ranks(tmp_path, 2)
    process.terminate()
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    said = process.communicate(timeout=20)[0]
    assert process.returncode not in (0, 85) and "ending the run at once" in said and not list(tmp_path.glob("sft.*"))


def test_a_closed_terminal_asks_however_often_it_says_so(start, tmp_path):
    slow = script(tmp_path / "slow", PROGRAM.replace("sleep 0.5; exit 85", "sleep 2; exit 85"))
    process = start("-n", "2", SFT_DIST=str(slow))
    wait_for_ranks(tmp_path, 2)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 85 and "ending the run at once" not in said, said


def stub(tmp_path, name, text) -> dict:
    """A stand-in for a command: the environment in which it is found."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    script(tmp_path / "bin" / name, "#!/bin/bash\n" + text)
    return {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def test_a_signal_before_the_ranks_exist_is_not_lost(start, tmp_path):
    process = start("-n", "2", "exit", "0", **stub(tmp_path, "mpirun", f"touch {tmp_path}/ready.first; [ ${{@: -1}} = true ] && sleep 4; exit 7"))
    wait_for_ranks(tmp_path, 1)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 85, process.stdout.read()


@pytest.mark.parametrize("options", [["-H", "localhost:2"], ["--host", "localhost:2"], ["--hosts", "localhost:2"], ["--hosts=localhost:2"]], ids=" ".join)
def test_hosts_are_named_to_mpirun(start, tmp_path, options):
    process = start("-n", "2", *options, "--args", "run.ini", **stub(tmp_path, "mpirun", 'echo "mpirun: $*"'))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "mpirun: -q --host localhost:2 -np 2 " in said and f" {tmp_path}/sft-dist --args run.ini\n" in said, said


def test_other_hosts_get_what_the_program_reads_of_the_environment(start, tmp_path):
    variables = {"HF_HOME": "/a b", "HUGGINGFACE_HUB_CACHE": "/c", "OMP_NUM_THREADS": "3", "NCCL_DEBUG": "WARN", "HF_TOKEN": "secret"}
    process = start("-H", "localhost:2", "-n", "2", **stub(tmp_path, "mpirun", 'echo "mpirun: $*"'), **variables)
    said = process.communicate(timeout=60)[0]
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "OMP_NUM_THREADS", "NCCL_DEBUG"):
        assert f"-x {name} " in said, said
    assert "HF_HUB_CACHE" not in said and "HF_TOKEN" not in said, said


@pytest.mark.parametrize("network, name", [("ib0", "=ib0"), ("10.0.0.0/16", "none")])
def test_a_network_is_named_to_mpi_and_where_it_has_a_name_to_nccl(start, tmp_path, network, name):
    """NCCL knows names only; '=' means exactly this one."""
    show = 'echo "network: $OMPI_MCA_btl_tcp_if_include $OMPI_MCA_oob_tcp_if_include ${NCCL_SOCKET_IFNAME-none} $*"'
    process = start("--interface", network, "--args", "run.ini", **stub(tmp_path, "mpirun", show))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and f"network: {network} {network} {name} " in said, said
    assert "--interface" not in said and ("-x NCCL_SOCKET_IFNAME " in said) == (name != "none"), said


def test_bad_arguments(start):
    for arguments, message in ((["-n", "0"], "a positive number"), (["-n", "two"], "a positive number"), (["-n"], "-n needs a value"),
                               (["--hosts"], "--hosts needs a value"), (["--hosts=", "-n", "1"], "--hosts needs a value"),
                               (["--launcher", "ssh"], "srun or mpirun is expected")):
        process = start(*arguments)
        assert message in process.communicate(timeout=60)[0] and process.returncode != 0


def test_mpirun_explains_why_it_cannot_start(start):
    process = start("-n", "2", "-H", "localhost:1", "exit", "0", OMPI_MCA_rmaps_base_oversubscribe="0")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 93 and "not enough slots" in said and "cannot start 2 ranks" in said
    assert "rank 0" not in said


# Options, environment, whether mpirun gets a folder, and what the run ends with. ssh hands it to no other machine, Slurm's srun would.
@pytest.mark.parametrize("options, environment, own, code", [
    ([], {}, True, 7), (["-n", "0x"], {}, False, 92), ([], {"SLURM_JOB_NUM_NODES": "2"}, False, 7), (["-H", "localhost:1"], {}, True, 7),
    (["--hostfile", "hosts"], {}, True, 7), ([], {"OMPI_MCA_orte_tmpdir_base": "/theirs"}, False, 7), (["-n", "2"], {"FAILS": "1"}, True, 93)])
def test_each_mpirun_has_a_folder_of_its_own(start, tmp_path, monkeypatch, options, environment, own, code):
    monkeypatch.delenv("OMPI_MCA_orte_tmpdir_base", raising=False)
    (tmp_path / "tmp").mkdir()
    mpirun = f'echo "folder: $TMPDIR $*"; ls -d {tmp_path}/tmp/sft.*; [ ${{@: -1}} = true ] && exit ${{FAILS:-0}}; exit 7'
    process = start("--launcher", "mpirun", *options, **stub(tmp_path, "mpirun", mpirun), TMPDIR=str(tmp_path / "tmp"), **environment)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code and (f"folder: {tmp_path}/tmp/sft." in said and f"\n{tmp_path}/tmp/sft." in said) == own, said
    assert "-x TMPDIR" not in said and not list((tmp_path / "tmp").iterdir())


def test_open_mpi_keeps_its_files_in_that_folder(start, tmp_path, monkeypatch):
    for name in ("OMPI_MCA_orte_tmpdir_base", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    program = script(tmp_path / "shows", '#!/bin/bash\necho "session: $OMPI_MCA_orte_top_session_dir"')
    said = start("--hosts", "localhost:1", SFT_DIST=str(program), TMPDIR=str(tmp_path)).communicate(timeout=60)[0]
    assert f"session: {tmp_path}/sft." in said and not list(tmp_path.glob("sft.*")), said


def test_inside_an_allocation_srun_is_used(start, tmp_path):
    srun = 'echo "srun: $*"; echo "cpus: $SRUN_CPUS_PER_TASK plugins: ${HDF5_PLUGIN_PATH-none} fence: $SLURM_PMIX_FENCE"; exit 85'
    process = start("--args", "run.ini", **stub(tmp_path, "srun", srun), SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="8")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 85
    assert f"--mpi=pmix --kill-on-bad-exit=1 --wait=60 --gpu-bind=none --cpu-bind=cores {tmp_path}/sft-dist --args run.ini" in said
    assert "cpus: 8 plugins: none fence: ring" in said


# Ids of a step, of the batch and the interactive step of a job (as Slurm has them), and none.
@pytest.mark.parametrize("step, overlaps", [("0", True), ("12", True), ("4294967291", False), ("4294967290", False), (None, False)])
def test_inside_a_step_srun_does_not_wait_for_what_that_step_holds(start, tmp_path, monkeypatch, step, overlaps):
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    process = start("--args", "run.ini", **stub(tmp_path, "srun", 'echo "srun: $* pmix"'), SLURM_JOB_ID="7", **({"SLURM_STEP_ID": step} if step else {}))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and (f" --overlap {tmp_path}/sft-dist" in said) == overlaps, said


# What `srun --mpi=list` says, and ends with.
@pytest.mark.parametrize("types, code, starts", [("none pmi2", 0, False), ("none pmi2 pmix", 0, True), ("no configuration", 1, True)])
def test_a_slurm_that_cannot_start_mpi_is_named(start, tmp_path, types, code, starts):
    srun = f'[ $1 != --mpi=list ] || {{ echo "MPI plugin types are... {types}"; exit {code}; }}; echo "srun: $*"'
    process = start("--args", "run.ini", **stub(tmp_path, "srun", srun), SLURM_JOB_ID="7")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == (0 if starts else 93) and ("srun: --mpi=pmix" in said) == starts, said
    assert ("add --launcher mpirun" in said) != starts, said


@pytest.mark.parametrize("script_name", ["run", "sft-run"])
@pytest.mark.parametrize("options", [["-H", "node1:2"], ["--hosts", "node1:2"], ["--hostfile", "hosts"], ["--oversubscribe"]], ids=lambda options: options[0])
def test_options_for_mpirun_are_refused_where_srun_starts_the_ranks(start, tmp_path, script_name, options):
    process = start(*options, "--args", "run.ini", script_name=script_name, **stub(tmp_path, "srun", "exit 0"), SLURM_JOB_ID="7")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 92 and f"{options[0]} is for mpirun" in said and "--launcher mpirun" in said, said


def test_the_doctor_looks_at_all_hosts_that_are_named(source_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    monkeypatch.syspath_prepend(source_dir / "launch")
    from doctor import Launch

    for name, host in (("one", "c"), ("two", "d")):
        (tmp_path / name).write_text(f"# hosts\n{host} slots=2\n")
    files = ["--hostfile", str(tmp_path / "one"), "--hostfile", str(tmp_path / "two")]
    assert Launch(["-H", "a:2,b", "--host", "e:1", "-H", "a:1"]).hosts() == ["a", "b", "e"]
    assert Launch(["--hosts", "a:2,b", "--hosts=e:1", "-H", "a:1"]).hosts() == ["a", "b", "e"]
    assert Launch(["--hosts=a:2", "--hosts", "b:2", "-n", "4", "--args", "run.ini"]).program_arguments == ["--args", "run.ini"]
    assert Launch(files).hosts() == ["c", "d"]
    assert Launch([*files, "-H", "c:1"]).hosts() == ["c"]  # as mpirun: of the file those that are named
    assert Launch(["-n", "2"]).hosts() == []


def test_words_of_the_form_key_value_are_options_for_the_doctor_too(start, tmp_path):
    """sft-dist takes them for options only before its command."""
    program = script(tmp_path / "program", '#!/bin/bash\necho "given: $*"')
    process = start("--doctor", "--args", "run.ini", "max_steps=3", "--bf16", script_name="sft-run", SFT_DIST=str(program))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "given: --args run.ini max_steps=3 --bf16 --watchdog_start_seconds=60 doctor\n" in said, said


@pytest.mark.parametrize("arguments, code, message", [
    (["--args", "run.ini", "--help"], 0, "launch/sft-run [--max-restarts N]"), (["-n", "2", "-h"], 0, "launch/sft-run [--max-restarts N]"),
    (["--args", "run.ini", "--check-config"], 92, "give it to sft-dist itself, sft-dist --check-config --args run.ini"),
    (["--print_config=ini"], 92, "--print_config=ini starts no run"), (["--version"], 92, "--version starts no run"),
    (["--args", "run.ini"], 92, "--print-config=json gives no JSON")])
def test_what_starts_no_run_is_not_kept_going(start, tmp_path, arguments, code, message):
    program = script(tmp_path / "program", '#!/bin/bash\necho "sft-dist: usage"')
    process = start(*arguments, script_name="sft-run", SFT_DIST=str(program))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code and message in said and "Traceback" not in said, said
    assert code == 0 or said.startswith("sft-run: error: ") and said.count("\n") == 1, said


def test_inside_an_allocation_mpirun_can_be_chosen(start):
    process = start("--launcher", "mpirun", "exit", "0", SLURM_JOB_ID="7", SLURM_NTASKS="2", OMPI_MCA_ras="^slurm", OMPI_MCA_plm="^slurm")
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "rank 1 of 2: exit 0" in said, said


@pytest.fixture
def bare_clone(source_dir, tmp_path, monkeypatch):
    """The scripts and sources without build and virtual environment."""
    monkeypatch.delenv("SFT_VENV", raising=False)
    for folder in ("launch", "src/prepare"):
        shutil.copytree(source_dir / folder, tmp_path / "clone" / folder)
    return tmp_path / "clone"


def set_up(clone, *options, **environment):
    return subprocess.run([clone / "launch" / "setup", *options], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, **environment})


def test_offline_setup_names_what_is_missing(bare_clone):
    result = set_up(bare_clone, "--offline")
    assert result.returncode == 1 and "there is no virtual environment" in result.stderr
    result = set_up(bare_clone, "--ofline")
    assert result.returncode == 92 and "unknown argument '--ofline'" in result.stderr


def test_tools_say_what_to_run_first(bare_clone):
    result = subprocess.run([bare_clone / "launch" / "sft-prepare", "--args", "x.ini"], capture_output=True, text=True)
    assert result.returncode == 92 and "run launch/setup" in result.stderr
    result = subprocess.run([bare_clone / "launch" / "run", "--args", "x.ini"], capture_output=True, text=True,
                            env={name: value for name, value in os.environ.items() if name != "SFT_DIST"})
    assert result.returncode == 92 and "sft-dist is not built" in result.stderr


def test_setup_installs_only_the_missing_debian_packages(bare_clone, tmp_path):
    """With stand-ins for dpkg-query and apt-get: what is asked for, and what is said when it fails."""
    stub(tmp_path, "dpkg-query", '[ "${@: -1}" = libhdf5-dev ] || printf installed')
    stub(tmp_path, "apt-get", f'echo "$*" >> {tmp_path}/asked; [ "$1" = update ] || {{ echo "no such package"; exit 100; }}')
    result = set_up(bare_clone, **stub(tmp_path, "sudo", 'exec "$@"'))
    assert result.returncode == 1
    assert "installing Debian packages: libhdf5-dev\n" in result.stdout
    assert (tmp_path / "asked").read_text() == "update\ninstall -y --no-install-recommends libhdf5-dev\n"
    assert "no such package" in result.stderr and "apt-get failed" in result.stderr


def test_setup_with_nothing_to_do_writes_nothing_into_the_clone(bare_clone, tmp_path):
    (tmp_path / "environment").symlink_to(sys.prefix)
    before = set(bare_clone.rglob("*"))
    result = set_up(bare_clone, "--offline", SFT_VENV=str(tmp_path / "environment"), **stub(tmp_path, "dpkg-query", "printf installed"))
    assert result.returncode == 0 and "Python packages: all there" in result.stdout, result.stderr
    assert set(bare_clone.rglob("*")) == before


def test_setup_clears_only_an_environment_that_it_made(bare_clone, tmp_path):
    environment = tmp_path / "environment"
    environment.mkdir()
    (environment / "thesis.tex").touch()
    known = {"SFT_VENV": str(environment), **stub(tmp_path, "dpkg-query", "printf installed")}
    result = set_up(bare_clone, **known)
    assert result.returncode == 1 and f"{environment} holds something that launch/setup did not make" in result.stderr
    assert [path.name for path in environment.iterdir()] == ["thesis.tex"]

    (environment / "thesis.tex").unlink()
    (bare_clone / "launch" / "requirements.txt").write_text("")  # without an index it goes no further than the environment itself
    (tmp_path / "venv.py").write_text("raise SystemExit('a module of the user')")
    for _ in range(2):
        set_up(bare_clone, **known, PYTHONPATH=str(tmp_path))
        assert subprocess.run([environment / "bin" / "pip", "--version"], capture_output=True).returncode == 0
        assert not (environment / "half").exists()
        (environment / "bin" / "python").unlink()  # a set-up that was broken off
        (environment / "half").mkdir()


def test_packages_of_a_module_environment_take_nobodys_place(bare_clone, tmp_path):
    """They are there for formatting_func all the same."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "numpy.py").write_text("raise SystemExit('a foreign numpy')")
    (tmp_path / "site" / "wording.py").write_text("greeting = 'hello'")
    (tmp_path / "format.py").write_text("import numpy, wording\ndef text(row): return wording.greeting")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    call = f"from prepare.rows import FormattingFunction as F; print(F('{tmp_path}/format.py:text')({{}}, 'row 1'))"
    script(tmp_path / "venv" / "bin" / "python", f'#!/bin/bash\nexec "{sys.executable}" -c "{call}"')
    done = subprocess.run([bare_clone / "launch" / "sft-prepare"], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "SFT_VENV": str(tmp_path / "venv"), "PYTHONPATH": str(tmp_path / "site"), "PYTHONHOME": "/nowhere"})
    assert done.stdout == "hello\n", done.stderr


@pytest.fixture
def slurm_job(source_dir, tmp_path):
    """slurm_job(run, restarts, *options, **environment): cluster/slurm/train.sbatch with the shell text `run` in place of launch/run, as Slurm starts it."""
    home, output_dir = tmp_path / "home", tmp_path / "out"
    (home / "launch").mkdir(parents=True)
    for name in ("common.sh", "restarts.ini"):
        shutil.copy(source_dir / "launch" / name, home / "launch")
    program = script(tmp_path / "sft-dist", f"""#!/bin/bash\necho '  "output_dir": "{output_dir}",'\n""")
    stub(tmp_path, "scontrol", 'echo "scontrol: $*"')
    path = stub(tmp_path, "sleep", "exit 0")

    def slurm_job(run, restarts, *options, **environment):
        script(home / "launch" / "run", f"#!/bin/bash\ncd {tmp_path}\necho \"run: $*\"\n{run}\n")
        known = {"SFT_HOME": str(home), "SFT_DIST": str(program), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts), "SLURM_NTASKS": "1",
                 "SLURM_JOB_NODELIST": "node1"}
        return subprocess.run(["bash", source_dir / "cluster" / "slurm" / "train.sbatch", "run.ini", *options], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **path, **known, **environment})

    return slurm_job


def test_the_first_start_of_a_job_obeys_and_the_others_go_on(slurm_job, tmp_path):
    given = f"--args {tmp_path}/home/launch/restarts.ini --args run.ini --resume_from_checkpoint=false"
    go_on = "--overwrite_output_dir=false --resume_from_checkpoint=true"
    for restarts, run, expected in ((0, "exit 137", given), (1, "mkdir -p out/checkpoint-4; exit 137", given), (2, "exit 0", f"{given} {go_on}")):
        done = slurm_job(run, restarts, "--resume_from_checkpoint=false")
        assert f"run: --launcher srun {expected}\n" in done.stdout, done.stdout
        assert done.returncode == (85 if restarts < 2 else 0) and ("scontrol: requeue 7" in done.stdout) == (restarts < 2), done.stdout


def test_a_start_that_ends_before_its_first_checkpoint_is_repeated_as_it_was(slurm_job, tmp_path):
    """output_dir holds a later checkpoint of another course."""
    (tmp_path / "out" / "checkpoint-9").mkdir(parents=True)
    for restarts, run, goes_on in ((0, "exit 85", False), (1, "mkdir out/checkpoint-4; exit 137", False), (2, "exit 0", True)):
        done = slurm_job(run, restarts, "--resume_from_checkpoint=out/checkpoint-3")
        assert ("--resume_from_checkpoint=true" in done.stdout) == goes_on, done.stdout
    assert slurm_job("exit 93", 0).returncode == 93
    assert slurm_job("exit 93", 1).returncode == 85


@pytest.mark.parametrize("state, requeued", [
    ("JobState=COMPLETING Reason=None PreemptTime=None", False), ("JobState=COMPLETING Reason=None Requeue=1", False), ("JobState=RUNNING Reason=None PreemptTime=None", True),
    ("JobState=COMPLETING Reason=None PreemptTime=2026-01-01T00:00:00", True), ("JobState=COMPLETING Reason=TimeLimit PreemptTime=None", True)])
def test_a_cancelled_job_is_not_queued_again(slurm_job, tmp_path, state, requeued):
    stub(tmp_path, "scontrol", f'echo "scontrol: $* JobId=7 {state} End"')
    done = slurm_job("exit 85", 0)
    assert done.returncode == 85 and ("scontrol: requeue" in done.stdout) == requeued, done.stdout
    assert ("the job was cancelled" in done.stdout) != requeued


def test_a_task_of_an_array_asks_for_itself(slurm_job, tmp_path):
    """By the array's number Slurm describes all of its tasks, of which others go on."""
    one, other = "JobState=COMPLETING Reason=None PreemptTime=None End", "JobState=RUNNING Reason=None PreemptTime=None End"
    stub(tmp_path, "scontrol", f'case "$*" in *" 7_3") echo " {one}" ;; *) echo " {one}"; echo " {other}" ;; esac')
    done = slurm_job("exit 85", 0, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert "the job was cancelled" in done.stdout, done.stdout


def test_a_start_that_died_at_once_is_no_start(slurm_job, tmp_path):
    """Preempted, or its node lost, before it had looked at output_dir: the next one does as the run says."""
    (tmp_path / "out" / "checkpoint-9").mkdir(parents=True)
    (tmp_path / "out" / "diagnostics").mkdir()
    (tmp_path / "out" / "diagnostics" / "failed-starts").write_text("10 100\n")  # of a job that was given up
    done = slurm_job("exit 137", 1, "--resume_from_checkpoint=false")
    assert "--resume_from_checkpoint=true" not in done.stdout and "failure 1 of at most" in done.stdout, done.stdout


def test_a_job_hands_on_the_network_to_use(slurm_job):
    given = slurm_job("exit 0", 0, SFT_INTERFACE="ib0").stdout
    assert "run: --launcher srun --interface ib0 --args " in given, given


def test_starts_of_a_job_without_progress_are_limited(slurm_job, tmp_path):
    for restarts in range(10):
        done = slurm_job("exit 85", restarts, SFT_MAX_RESTARTS="0")
        assert ("scontrol: requeue" in done.stdout) == (restarts < 9), done.stdout
    assert done.returncode == 86 and "10 starts in a row ended without a new checkpoint: giving up" in done.stdout
    assert slurm_job("mkdir -p out/checkpoint-4; exit 85", 10, SFT_MAX_RESTARTS="0").returncode == 85  # begins the count anew
    done = slurm_job("exit 137", 11, SFT_MAX_RESTARTS="0")
    assert done.returncode == 137 and "1 starts in a row failed without a new checkpoint: giving up" in done.stdout


# What is given, and how going on is added.
@pytest.mark.parametrize("given, added", [("--no_overwrite_output_dir", "--no_overwrite_output_dir=true"), ("no-overwrite-output-dir=true", "--no_overwrite_output_dir=true"),
                                          ("--overwrite_output_dir", "--overwrite_output_dir=false")])
def test_what_a_job_adds_for_going_on_goes_with_what_was_given(slurm_job, given, added):
    slurm_job("mkdir -p out/checkpoint-4; exit 137", 0, given)
    done = slurm_job("exit 0", 1, given)
    assert f"{given} {added} --resume_from_checkpoint=true\n" in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["run #2", 'a "quoted" one', "back\\\\\"slash", "größe"])
def test_a_job_finds_its_output_dir_whatever_its_name(slurm_job, tmp_path, name):
    shown = json.dumps(str(tmp_path / name), ensure_ascii=False)
    program = script(tmp_path / "names-it", f"#!/bin/bash\ncat <<'END'\n{{\n  \"other_output_dir\": \"x\",\n  \"output_dir\": {shown},\n  \"seed\": 1\n}}\nEND\n")
    done = slurm_job(f"mkdir -p '{name}/checkpoint-4'; exit 137", 0, SFT_DIST=str(program))
    assert "at checkpoint-4): back to the queue" in done.stdout, done.stdout
    assert (tmp_path / name / "diagnostics").is_dir()


def test_a_job_that_is_to_start_no_run_ends(slurm_job, tmp_path):
    program = script(tmp_path / "helps", "#!/bin/bash\necho usage\n")
    done = slurm_job("exit 0", 0, "--help", SFT_DIST=str(program))
    assert done.returncode == 92 and "names no output_dir" in done.stdout and "run: " not in done.stdout, done.stdout


def test_a_job_that_is_asked_before_there_is_a_run_goes_back_to_the_queue(slurm_job, tmp_path):
    """The signal comes while the configuration is read."""
    program = script(tmp_path / "slow", f"""#!/bin/bash\nkill -USR1 $PPID\necho '  "output_dir": "{tmp_path}/out",'\n""")
    done = slurm_job("exit 0", 0, SFT_DIST=str(program))
    assert done.returncode == 85 and "back to the queue" in done.stdout and "run: " not in done.stdout, done.stdout


def test_storage_that_fails_ends_the_first_start_only(slurm_job):
    """Later it may be the hold of a lost node on output_dir."""
    assert slurm_job("exit 91", 0).returncode == 91
    done = slurm_job("exit 91", 1, SFT_MAX_RESTARTS="1")
    assert done.returncode == 85 and "failure 1 of at most 1" in done.stdout, done.stdout
    done = slurm_job("exit 91", 2, SFT_MAX_RESTARTS="1")
    assert done.returncode == 91 and "giving up" in done.stdout, done.stdout


def test_a_sweep_needs_no_newline_at_its_end(source_dir, tmp_path):
    (tmp_path / "cluster" / "slurm").mkdir(parents=True)
    script(tmp_path / "cluster" / "slurm" / "train.sbatch", 'echo "train: $*"; printf "<%s>" "$@"')
    (tmp_path / "sweep.txt").write_text("--seed 1\n\n--run_name 'two words' --a \"it's\" --b ''\n--run_name 'open\n--seed 2 --max_steps 3")
    for line, expected in ((1, "train: run.ini --seed 1 --output_dir runs/1"), (2, "train: run.ini --output_dir runs/2"),
                           (3, "<run.ini><--run_name><two words><--a><it's><--b><><--output_dir><runs/3>"), (4, "line 4 of"),
                           (5, "train: run.ini --seed 2 --max_steps 3 --output_dir runs/5"), (6, "sweep.txt has no line 6")):
        done = subprocess.run(["bash", source_dir / "cluster" / "slurm" / "sweep.sbatch", "run.ini", tmp_path / "sweep.txt", "runs"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env={**os.environ, "SFT_HOME": str(tmp_path), "SLURM_ARRAY_TASK_ID": str(line)})
        assert expected in done.stdout and (done.returncode == 92) == (line in (4, 6)), done.stdout


@pytest.mark.parametrize("name", ["a b", "a:b"])
def test_a_test_bed_in_a_folder_that_mpirun_cannot_name_is_refused(source_dir, tmp_path, name):
    shutil.copytree(source_dir / "cluster" / "testbed", tmp_path / name)
    # The long name: nothing may start, should the refusal be missing.
    done = subprocess.run([tmp_path / name / "up"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "SFT_TESTBED": f"/run/{60 * 'x'}"})
    assert done.returncode != 0 and f"'{tmp_path / name}'" in done.stderr and "move the clone" in done.stderr, done.stderr


# Who runs tests/run, whether CI is set, whether namespaces may be made, and what is left out then.
@pytest.mark.parametrize("user, ci, allowed, left_out", [
    (1000, "", True, "full|root|testbed"), (1000, "true", True, "full|root|testbed"), (0, "", False, "full|root|testbed"), (0, "", True, "full"),
    (0, "true", False, "full")])
def test_tests_that_mount_are_left_out_only_where_they_cannot_run(bare_clone, source_dir, tmp_path, user, ci, allowed, left_out):
    (bare_clone / "tests").mkdir()
    shutil.copy(source_dir / "tests" / "run", bare_clone / "tests")
    script(bare_clone / "launch" / "setup", "#!/bin/bash\n")
    for name, text in (("id", f"echo {user}"), ("unshare", "exit 0" if allowed else "exit 1"), ("cmake", "exit 0"), ("ctest", 'echo "ctest: $*"')):
        path = stub(tmp_path, name, text)
    done = subprocess.run([bare_clone / "tests" / "run", "integration"], capture_output=True, text=True, env={**os.environ, **path, "CI": ci})
    assert done.returncode == 0, done.stderr
    assert f"ctest: --preset ci --label-exclude ^({left_out})$ --label-regex ^(integration)$" in done.stdout, done.stdout
    assert ("labels root and testbed are left out" in done.stdout) == (left_out != "full"), done.stdout
