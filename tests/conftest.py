"""Fixtures shared by the tests written in Python. CTest sets SFT_BUILD_DIR and SFT_SOURCE_DIR (cmake/SftTests.cmake)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE_DIR = Path(os.environ.get("SFT_SOURCE_DIR", Path(__file__).resolve().parents[1]))
BUILD_DIR = Path(os.environ.get("SFT_BUILD_DIR", SOURCE_DIR / "build" / "release"))
for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"):
    os.environ.setdefault(name, "1")  # as under CTest, where pytest is started by hand
sys.path.insert(0, str(SOURCE_DIR / "src"))  # `import prepare`
sys.path.insert(0, str(SOURCE_DIR / "tests"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """No test may pass by not running."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"


@pytest.fixture(scope="session")
def source_dir() -> Path:
    return SOURCE_DIR


@pytest.fixture(scope="session")
def sft_dist() -> Path:
    """The program under test."""
    program = BUILD_DIR / "sft-dist"
    assert program.is_file(), f"{program} is not built: cmake --build --preset ci"
    return program


@pytest.fixture(scope="session")
def run_sft(sft_dist):
    """run_sft(ranks, *arguments, timeout=..., env=..., cwd=...) -> CompletedProcess; ranks = 0 starts it without mpirun."""

    def run(ranks: int, *arguments, timeout: float = 120, env: dict | None = None, cwd=None):
        command = [str(sft_dist), *map(str, arguments)]
        if ranks:
            command = ["mpirun", "-np", str(ranks), *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd,
                              env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)

    return run
