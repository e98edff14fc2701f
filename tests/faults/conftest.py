import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))


@pytest.fixture(scope="session")
def bed():
    """The test bed, started once for all tests of a process. It must start: nothing here is skipped."""
    from testbed import Bed

    bed = Bed()
    yield bed
    bed.close()
