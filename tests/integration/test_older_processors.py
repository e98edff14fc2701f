"""The same binaries on processors without AVX-512, and without AVX2, which the machine at hand need not be: emulated by QEMU, instruction by
instruction. An instruction that such a processor does not have ends the program. What QEMU does not have, AVX-512 without bf16, is this machine with
oneDNN told so, which is whom the program asks."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import small_run as small
from parity import ours

PROCESSORS = {"AVX2": "Haswell", "SSE4": "Nehalem"}  # x86-64-v3 and -v2
PROGRAMS = ["ops_test", "optim_test"]  # the loops and kernels that are compiled for several
WITHOUT_BF16 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX512_CORE"}
LONG = 0.05 if os.environ.get("SFT_FULL") else 0.002  # seconds that a test may take here: the emulator takes a hundred times as long


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return small.Workspace(tmp_path_factory.mktemp("older-processors"))


def emulated(processor: str) -> list[str]:
    emulator = shutil.which("qemu-x86_64")
    assert emulator, "qemu-x86_64 is missing: launch/setup --full installs it"
    return [emulator, "-cpu", PROCESSORS[processor]]


def short_tests(program: Path, report: Path) -> list[str]:
    subprocess.run([program, f"--gtest_output=json:{report}"], check=True, capture_output=True, env=ours.environment({"OMP_NUM_THREADS": "1"}))
    suites = json.loads(report.read_text())["testsuites"]
    return [f"{suite['name']}.{test['name']}" for suite in suites for test in suite["testsuite"] if float(test["time"].removesuffix("s")) < LONG]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("test", PROGRAMS)
def test_loops_give_what_the_references_say(processor, test, tmp_path):
    program = next(ours.program().parent.glob(f"tests/unit/*/{test}"))
    chosen = short_tests(program, tmp_path / "report.json")
    done = subprocess.run([*emulated(processor), program, f"--gtest_filter={':'.join(chosen)}"], capture_output=True, text=True, timeout=3000,
                          env=ours.environment({"OMP_NUM_THREADS": "1"}))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"[  PASSED  ] {len(chosen)} tests" in done.stdout


@pytest.mark.parametrize("test", [*PROGRAMS, "ops_onednn_matmul_test"])
def test_avx512_without_bf16_gives_what_the_references_say(test, tmp_path):
    program = next(ours.program().parent.glob(f"tests/unit/*/{test}"))
    done = subprocess.run([program, f"--gtest_filter={':'.join(short_tests(program, tmp_path / 'report.json'))}"], capture_output=True, text=True,
                          timeout=3000, env=ours.environment({"OMP_NUM_THREADS": "1", **WITHOUT_BF16}))
    assert done.returncode == 0 and "[  PASSED  ]" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("processor", [*PROCESSORS, "AVX512"])
def test_a_run_has_the_same_losses(workspace, processor, bf16):
    options = dict(max_steps=3, save_steps=100, bf16=bf16)
    here = ours.run(workspace.settings(f"{processor}-{bf16}-here", **options), ranks=0)
    settings = workspace.settings(f"{processor}-{bf16}", **options)
    command = ours.command(small.write_ini(settings), ranks=0)
    how = [] if processor == "AVX512" else emulated(processor)
    done = subprocess.run([*how, *command], capture_output=True, text=True, timeout=3000, env=ours.environment(WITHOUT_BF16))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    there = [entry for entry in ours.read_log(settings["output_dir"]) if entry["event"] == "train"]
    assert len(there) == len(here.steps) == 3
    for a, b in zip(there, here.steps):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3 if bf16 else 1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-2 if bf16 else 1e-4)
