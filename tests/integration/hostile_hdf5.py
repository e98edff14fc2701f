"""Data set files that are damaged or made to do harm: patched bytes of HDF5's own structures, truncations, and files that
point elsewhere or declare more than they hold. All from files that h5py writes here; no published proof files are used."""

import random
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import xxhash

ROWS = [[(7 * row + 3 * at) % 90 for at in range(5 + row % 4)] for row in range(40)]
CONFIG = b'{"dataset_text_field": "text"}'
FILTERS = [dict(zip(("shuffle", "compression", "fletcher32"), chosen))
           for chosen in ((False, None, False), (True, None, False), (False, "gzip", False), (True, "gzip", True), (False, None, True))]
LAYOUTS = [dict(libver=libver, **layout)
           for libver in ("earliest", "v110")
           for layout in [{}, *({"chunks": (size,), **filters, **grow} for filters in FILTERS for size in (16, 333)
                                for grow in ({}, {"maxshape": (None,)}))]]


def digest(content: bytes) -> str:
    return xxhash.xxh3_128(content).hexdigest()


def datasets() -> dict[str, np.ndarray]:
    ids = np.array(sum(ROWS, []), "<i4")
    return {"input_ids": ids, "offsets": np.cumsum([0, *map(len, ROWS)]).astype("<i8"), "loss_mask": np.ones(len(ids), "u1"),
            "first_target": np.zeros(len(ROWS), "<i4")}


def write(path: Path, libver: str = "earliest", tokenizer_sha256: str = "a" * 64, vocab_size: int = 96, **layout) -> Path:
    """A good file, stored as `layout` (of h5py's create_dataset) says."""
    arrays = datasets()
    tokens = len(arrays["input_ids"])
    values = {"format": "sft-dist-dataset", "version": 1, "vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": None,
              "num_tokens": tokens, "num_target_tokens": tokens, "tokenizer_sha256": tokenizer_sha256}
    text = "".join(f"{name}={'none' if value is None else value}\n" for name, value in values.items())
    text += "".join(f"{name}={digest(arrays[name].tobytes())}\n" for name in ("input_ids", "offsets", "loss_mask", "first_target"))
    with h5py.File(path, "w", libver=(libver, "v110")) as file:
        for name, value in (values | {"content_xxh3": digest(text.encode())}).items():
            if value is not None:
                file.attrs[name] = np.bytes_(value) if isinstance(value, str) else np.int64(value)
        for name, array in arrays.items():
            add(file, name, array, **layout)
        file.create_dataset("prepare_config", data=np.bytes_(CONFIG)).attrs["xxh3"] = np.bytes_(digest(CONFIG))
    return path


def add(file: h5py.File, name: str, array: np.ndarray, **layout) -> None:
    chunk = layout.get("chunks")
    if chunk and "maxshape" not in layout:
        layout = layout | {"chunks": (min(chunk[0], len(array)),)}
    file.create_dataset(name, data=array, **layout).attrs["xxh3"] = np.bytes_(digest(array.tobytes()))


# --- damage ------------------------------------------------------------------------------------------------------------------

# Superblock; v1 B-tree, its nodes, local heap, symbol table; v2 object headers and their continuations; fractal heap; v2 B-tree; chunk
# indices: fixed and extensible array.
SIGNATURES = [b"\x89HDF\r\n\x1a\n", b"TREE", b"SNOD", b"HEAP", b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"BTIN", b"FAHD", b"FADB",
              b"EAHD", b"EAIB", b"EASB", b"EADB"]
STRUCTURE_BYTES = 160


def structures(path: Path) -> list[int]:
    """Where the structures begin: by signature, and object headers (which have none in old files) as h5py finds them."""
    content = path.read_bytes()
    starts = set()
    for signature in SIGNATURES:
        at = content.find(signature)
        while at >= 0:
            starts.add(at)
            at = content.find(signature, at + 1)
    with h5py.File(path) as file:
        for name in ("/", *file):
            starts.add(h5py.h5o.get_info(file[name].id).addr)
    return sorted(starts)


def damaged(path: Path, chance: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` versions of the file with 1, 2, 4 or 8 bytes of a structure replaced by values that matter to a parser."""
    content = path.read_bytes()
    starts = structures(path)
    for number in range(count):
        start = chance.choice(starts)
        at = min(start + chance.randrange(STRUCTURE_BYTES), len(content) - 1)
        width = chance.choice((1, 1, 2, 4, 8))
        value = chance.choice((0, 1, (1 << 8 * width) - 1, (1 << 8 * width - 1) - 1, 1 << 8 * width - 1, start, chance.randrange(1 << 8 * width)))
        patch = (value % (1 << 8 * width)).to_bytes(width, "little")
        changed = content[:at] + patch + content[at + width:]
        yield f"{path.stem}-{number:05}-at-{at}-{patch.hex()}", changed[:len(content)]


def truncated(path: Path) -> Iterator[tuple[str, bytes]]:
    content = path.read_bytes()
    for percent in range(100):
        yield f"{path.stem}-cut-{percent:02}", content[:len(content) * percent // 100]


def zero_chunk_dimension(content: bytes, chunk: int, element_bytes: int) -> bytes:
    """Libraries have divided by it. The dimensions of chunks are stored as 32-bit numbers, the element's size last."""
    dimensions = chunk.to_bytes(4, "little") + element_bytes.to_bytes(4, "little")
    assert dimensions in content
    return content.replace(dimensions, bytes(4) + element_bytes.to_bytes(4, "little"))


# --- escapes and bombs ---------------------------------------------------------------------------------------------------------


def replaced(path: Path, name: str, change, libver: str = "earliest", **layout) -> None:
    write(path, libver, **layout)
    with h5py.File(path, "r+", libver=(libver, "v110")) as file:
        array = file[name][()]
        del file[name]
        change(file, name, array)
        if file.get(name, getlink=True).__class__ is h5py.HardLink and isinstance(file.get(name), h5py.Dataset) and "xxh3" not in file[name].attrs:
            file[name].attrs["xxh3"] = np.bytes_(digest(array.tobytes()))


def escapes(folder: Path, bait: Path) -> dict[str, Path]:
    """Files whose input_ids (or another object) lie in `bait`, a file that must not be opened, or need code from elsewhere."""
    other = bait.with_suffix(".h5")
    if not other.exists():
        write(other)

    def external_storage(file, name, array):
        file.create_dataset(name, shape=array.shape, dtype=array.dtype, external=[(str(bait), 0, array.nbytes)])

    def virtual(file, name, array):
        layout = h5py.VirtualLayout(array.shape, array.dtype)
        layout[:] = h5py.VirtualSource(str(other), name, array.shape, array.dtype)
        file.create_virtual_dataset(name, layout)

    def external_link(file, name, array):
        file[name] = h5py.ExternalLink(str(other), name)

    def soft_link(file, name, array):
        file["elsewhere"] = array
        file[name] = h5py.SoftLink("/elsewhere")

    def plug_in(file, name, array):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((len(array),))
        properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # Zstandard's number; not installed here
        dataset = h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_I32LE, h5py.h5s.create_simple(array.shape), properties)
        dataset.write_direct_chunk((0,), array.tobytes(), filter_mask=0)

    made = {}
    for change in (external_storage, virtual, external_link, soft_link, plug_in):
        for name in ("input_ids", "offsets") if change is not plug_in else ("input_ids",):
            made[f"{change.__name__}-{name}"] = path = folder / f"{change.__name__}-{name}.h5"
            replaced(path, name, change)
    for change in (external_link, external_storage):
        made[f"{change.__name__}-loss_mask"] = path = folder / f"{change.__name__}-loss_mask.h5"
        replaced(path, "loss_mask", change, libver="v110")
    return made


def bombs(folder: Path) -> dict[str, Path]:
    """Files that declare far more than they hold, or hold what becomes far more."""

    def declared(file, name, array):
        file.create_dataset(name, shape=(1 << 50,), dtype=array.dtype, chunks=(1 << 20,), compression="gzip")

    def declared_contiguous(file, name, array):
        file.create_dataset(name, shape=(1 << 40,), dtype=array.dtype)

    def large_chunks(file, name, array):
        file.create_dataset(name, shape=array.shape, maxshape=(None,), dtype=array.dtype, chunks=(1 << 28,))

    def many_chunks(file, name, array):
        file.create_dataset(name, shape=(1 << 40,), maxshape=(None,), dtype=array.dtype, chunks=(1,))

    def inflating(file, name, array):
        """Each chunk says 64 bytes and inflates to 64 MiB."""
        import zlib

        dataset = file.create_dataset(name, shape=array.shape, dtype=array.dtype, chunks=(16,), compression="gzip")
        bomb = zlib.compress(bytes(64 << 20), 9)
        for first in range(0, len(array), 16):
            dataset.id.write_direct_chunk((first,), bomb if first == 0 else zlib.compress(bytes(64)))

    def inflating_little(file, name, array):
        """As above, within the bytes that a chunk may take."""
        import zlib

        dataset = file.create_dataset(name, shape=array.shape, dtype=array.dtype, chunks=(16,), compression="gzip")
        for first in range(0, len(array), 16):
            dataset.id.write_direct_chunk((first,), zlib.compress(bytes(64 << 10), 9))

    def unwritten(file, name, array):
        file.create_dataset(name, shape=array.shape, dtype=array.dtype, chunks=(16,))

    made = {}
    for change in (declared, declared_contiguous, large_chunks, many_chunks, inflating, inflating_little, unwritten):
        made[change.__name__] = path = folder / f"{change.__name__}.h5"
        replaced(path, "input_ids", change)
    return made


def other_types(folder: Path) -> dict[str, Path]:
    """Types and shapes that are not arrays of integers."""
    def reference(file, name, array):
        file.create_dataset(name, shape=array.shape, dtype=h5py.ref_dtype)

    def region_reference(file, name, array):
        file.create_dataset(name, shape=array.shape, dtype=h5py.regionref_dtype)

    def variable_length(file, name, array):
        file.create_dataset(name, shape=array.shape, dtype=h5py.vlen_dtype(np.int32))

    def compound(file, name, array):
        file.create_dataset(name, data=array.view([("a", "<i4")]))

    def opaque(file, name, array):
        file.create_dataset(name, data=array.view("V4"))

    def named_type(file, name, array):
        file[name] = np.dtype("<i4")

    def enumeration(file, name, array):
        file.create_dataset(name, shape=array.shape, dtype=h5py.enum_dtype({"a": 1}, basetype="<i4"))

    def big_endian(file, name, array):
        file.create_dataset(name, data=array.astype(">i4"))

    def floating(file, name, array):
        file.create_dataset(name, data=array.astype("<f4"))

    def matrix(file, name, array):
        file.create_dataset(name, data=array.reshape(1, -1))

    def scalar(file, name, array):
        file.create_dataset(name, data=np.int32(1))

    def null(file, name, array):
        file.create_dataset(name, data=h5py.Empty("<i4"))

    def group(file, name, array):
        file.create_group(name)["itself"] = h5py.SoftLink("/")

    def root_again(file, name, array):
        file[name] = file["/"]

    made = {}
    for change in (reference, region_reference, variable_length, compound, opaque, named_type, enumeration, big_endian, floating, matrix, scalar, null,
                   group, root_again):
        made[change.__name__] = path = folder / f"{change.__name__}.h5"
        replaced(path, "input_ids", change)
    return made
