"""Reads a data set file once in a process that may be lost, before this one does: h5py crashes or hangs on some damaged files.

That process may open no other file, so neither links, external or virtual storage nor plug-ins lead anywhere (docs/security.md).
"""

import codecs
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from .errors import INVALID_DATA, PrepareError

STRUCTURE_SECONDS = 5  # of processor time
MEMORY_BYTES = 4 << 30
FILTERS = {"shuffle", "deflate", "fletcher32"}  # h5py.h5z.FILTER_*
BLOCK = 1 << 22
MAX_COMPRESSION = 1100  # deflate reaches at most 1032


def require_harmless(path: Path) -> None:
    """PrepareError unless h5py comes through the file, or says itself what is wrong with it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HDF5_")}
    with open(path, "rb") as file:
        run = subprocess.run([sys.executable, "-m", f"{__package__}.disposable"], stdin=file, capture_output=True, text=True,
                             env=environment | {"PYTHONPATH": str(Path(__file__).parents[1])})
    if run.returncode == INVALID_DATA:
        raise PrepareError(f"{path}: {run.stdout.strip()}", INVALID_DATA)
    if run.returncode < 0:
        how = "takes too long" if -run.returncode in (signal.SIGXCPU, signal.SIGKILL) else f"crashes h5py ({signal.Signals(-run.returncode).name})"
        raise PrepareError(f"{path}: reading it {how}: the file is damaged, or made to do harm; prepare it again.", INVALID_DATA)
    if run.returncode != 0:
        raise PrepareError(f"{path}: {run.stderr.strip().splitlines()[-1] if run.stderr.strip() else 'it cannot be read'}", INVALID_DATA)


def check_dataset(group, name: str) -> None:
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise PrepareError(f"{name} is not a hard link: links to other places are not followed.")
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset):
        return  # nobody reads it
    if dataset.external or dataset.is_virtual:
        raise PrepareError(f"{name} is stored in another file.")
    if dataset.dtype.kind not in "iuS":
        raise PrepareError(f"{name} has elements of type {dataset.dtype}: only integers and strings of fixed length are read.")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > MAX_COMPRESSION * stored or (dataset.chunks is None and dataset.nbytes != stored):
        raise PrepareError(f"{name} declares {dataset.nbytes} bytes and stores {stored}.")
    properties = dataset.id.get_create_plist()
    known = {getattr(h5py.h5z, f"FILTER_{filter.upper()}") for filter in FILTERS}
    filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
    if filters - known:
        raise PrepareError(f"{name} has filter {min(filters - known)}: only {', '.join(sorted(FILTERS))} are read.")
    dict(dataset.attrs)


def read_once(file) -> None:
    """In the process that may be lost."""
    import h5py

    def limit(resource_name: int, value: int) -> None:
        hard, free = resource.getrlimit(resource_name)[1], resource.RLIM_INFINITY
        resource.setrlimit(resource_name, (value if hard == free else hard if value == free else min(value, hard), hard))

    codecs.lookup("ascii")  # h5py's, which is loaded from a file when it is needed
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, MEMORY_BYTES)
    limit(resource.RLIMIT_NOFILE, 0)
    limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + STRUCTURE_SECONDS)
    try:
        group = h5py.File(file, "r")
    except OSError:
        return  # no HDF5: whoever reads the file meets this too, and says so
    with group:
        dict(group.attrs)
        for name in group:
            check_dataset(group, name)
        limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
        for dataset in group.values():
            for begin in range(0, len(dataset) if isinstance(dataset, h5py.Dataset) and dataset.chunks else 0, BLOCK):
                dataset[begin:begin + BLOCK]


def main() -> int:
    try:
        read_once(sys.stdin.buffer)
    except PrepareError as error:
        print(error)
        return INVALID_DATA
    except (OSError, KeyError, ValueError) as error:
        print(f"reading it opens another file ({error})." if getattr(error, "errno", None) == errno.EMFILE else f"it is damaged: {error}.")
        return INVALID_DATA
    return 0


if __name__ == "__main__":
    sys.exit(main())
