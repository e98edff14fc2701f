"""Writes the seed inputs in corpus/: small valid files and some that must be refused. To be run again when a format changes.

    PYTHONPATH=src:tests .venv/bin/python tests/fuzz/make_corpus.py
"""

import json
import struct
from pathlib import Path

import h5py
import numpy as np
import xxhash

CORPUS = Path(__file__).parent / "corpus"
ROWS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7]]
CONFIG = json.dumps({"dataset_text_field": "text"}).encode()


def save(target: str, name: str, content: bytes) -> None:
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(content)


def digest(content: bytes) -> str:
    return xxhash.xxh3_128(content).hexdigest()


def arrays(masked: bool) -> dict[str, np.ndarray]:
    ids = np.array(sum(ROWS, []), "<i4")
    result = {"input_ids": ids, "offsets": np.cumsum([0, *map(len, ROWS)]).astype("<i8")}
    if masked:
        result["loss_mask"] = np.ones(len(ids), "u1")
        result["loss_mask"][0] = 0
        result["first_target"] = np.array([1, 0, 0], "<i4")
    return result


def attributes(datasets: dict[str, np.ndarray]) -> dict:
    values = {"format": "sft-dist-dataset", "version": 1, "vocab_size": 50, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": None,
              "num_tokens": len(datasets["input_ids"]), "num_target_tokens": int(datasets.get("loss_mask", np.ones(len(datasets["input_ids"]))).sum()),
              "tokenizer_sha256": "a" * 64}
    text = "".join(f"{name}={'none' if value is None else value}\n" for name, value in values.items())
    order = ("input_ids", "offsets", "loss_mask", "labels", "first_target")
    text += "".join(f"{name}={digest(datasets[name].tobytes())}\n" for name in order if name in datasets)
    return values | {"content_xxh3": digest(text.encode())}


def write_hdf5(path: Path, masked: bool, libver: str = "earliest", **layout) -> None:
    datasets = arrays(masked)
    with h5py.File(path, "w", libver=(libver, "v110")) as file:
        for name, value in attributes(datasets).items():
            if value is not None:
                file.attrs[name] = np.bytes_(value) if isinstance(value, str) else np.int64(value)
        for name, array in datasets.items():
            file.create_dataset(name, data=array, **layout).attrs["xxh3"] = np.bytes_(digest(array.tobytes()))
        file.create_dataset("prepare_config", data=np.bytes_(CONFIG)).attrs["xxh3"] = np.bytes_(digest(CONFIG))


FILTERS = {"shuffle": 0, "deflate": 1, "fletcher32": 2}  # data/file_layout.h


def layout_of(path: Path) -> dict:
    """What sft-inspect answers for a file, found out by h5py."""
    result = {"arrays": {}, "file_bytes": path.stat().st_size}
    with h5py.File(path) as file:
        for name in file:
            dataset = file[name]
            if name == "prepare_config":
                result["prepare_config_xxh3"] = dataset.attrs["xxh3"].decode()
                continue
            filters = [name for name, used in (("shuffle", dataset.shuffle), ("deflate", dataset.compression), ("fletcher32", dataset.fletcher32)) if used]
            chunks = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())] if dataset.chunks else []
            result["arrays"][name] = {
                "element_bytes": dataset.dtype.itemsize, "size": len(dataset), "xxh3": dataset.attrs["xxh3"].decode(),
                "offset": dataset.id.get_offset() or 0 if not dataset.chunks else 0, "chunk_elements": dataset.chunks[0] if dataset.chunks else 0,
                "filters": [FILTERS[name] for name in filters],
                "chunks": [number for chunk in chunks for number in (chunk.byte_offset, chunk.size, chunk.filter_mask)],
            }
        names = ("num_tokens", "num_target_tokens", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        info = {name: int(file.attrs[name]) if name in file.attrs else None for name in names}
        result["info"] = info | {name: file.attrs[name].decode() for name in ("tokenizer_sha256", "content_xxh3")} | {"prepare_config": CONFIG.decode()}
    return result


def data_sets() -> None:
    kinds = {
        "contiguous": dict(masked=False), "masked": dict(masked=True), "v110": dict(masked=True, libver="v110"),
        "deflate": dict(masked=True, chunks=(3,), shuffle=True, compression="gzip"),
        "fletcher32": dict(masked=False, chunks=(4,), shuffle=True, compression="gzip", fletcher32=True),
        "chunked-v110": dict(masked=False, libver="v110", chunks=(4,), maxshape=(None,), fletcher32=True),
    }
    for name, options in kinds.items():
        path = CORPUS / "hdf5" / f"{name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_hdf5(path, **options)
        save("dataset", name, json.dumps(layout_of(path)).encode() + b"\0" + path.read_bytes())


def safetensors() -> None:
    def file(header: dict | str, data: int) -> bytes:
        text = header if isinstance(header, str) else json.dumps(header)
        return struct.pack("<q", 8 + len(text) + data) + struct.pack("<Q", len(text)) + text.encode()

    def tensor(dtype: str, shape: list, begin: int, end: int) -> dict:
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    save("safetensors", "two", file({"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 3], 0, 24), "b": tensor("BF16", [4], 24, 32)}, 32))
    save("safetensors", "none", file({}, 0))
    save("safetensors", "scalar", file({"s": tensor("I64", [], 0, 8), "empty": tensor("U8", [0, 7], 8, 8)}, 8))
    save("safetensors", "wraps", file({"a": tensor("F32", [1 << 62, 4], 0, 0)}, 0))
    save("safetensors", "overlap", file({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, 12))
    save("safetensors", "hole", file({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 12, 20)}, 20))
    save("safetensors", "twice", file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1))
    save("safetensors", "deep", file("{" + '"a":{' * 100 + "}" * 101, 0))
    save("safetensors", "long-header", struct.pack("<qQ", 100, 1 << 63) + b"{}")


def texts() -> None:
    save("json", "values", b'{"a": [1, -2, 3.5e-7, "x\\u00e9\\ud83c\\udf89", null, true], "b": {"c": {}}}')
    save("json", "deep", b"[" * 100 + b"]" * 100)
    save("json", "twice", b'{"a": 1, "a": 2}')
    save("json", "trailing", b"{} {}")
    save("json", "many", b"[" + b"0," * 1500 + b"0]")
    save("ini", "run", b'# a run\nmodel_name_or_path = gpt2   # a model\nrun_name = "a \\"b\\"\\n\\t"\nseed=1\n max-steps = \'5\'\nx = a#b\n')
    save("ini", "mark", b"\xef\xbb\xbfa = \xc3\xa9\r\nb =\r\n")
    save("ini", "wrong", b"[section]\nno value\n= 3\na = 'open\nb = \"x\" y\n\x01 = 2\n")
    save("shard_index", "two", b'{"metadata": {"total_size": 40.0}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}')
    for name, target in (("up", "../model.safetensors"), ("absolute", "/etc/passwd"), ("hidden", ".a.safetensors"), ("zero", "a\\u0000.safetensors")):
        save("shard_index", name, b'{"weight_map": {"a": "%s"}}' % target.encode())


def manifests() -> None:
    """Without the hash at the end."""
    chunk = "0123456789abcdef" * 2

    def text(files: dict, **other) -> bytes:
        fields = {"format": "sft-dist-checkpoint", "version": 1, "step": 7, "world_size": 2, "chunk_bytes": 4096, "train_state": {"epoch": 1},
                  "environment": {"threads": 1}} | other
        return json.dumps(fields | {"files": files}, indent=1).encode().removesuffix(b"\n}")

    def file(*ranges: tuple[int, int]) -> dict:
        listed = [[size, chunk * chunks] for size, chunks in ranges]
        return {"bytes": sum(size for size, _ in ranges), "xxh3": digest("".join(digits for _, digits in listed).encode()), "ranges": listed}

    files = {"config.json": file((700, 1)), "model.safetensors": file((4096, 1), (10000, 3)), "state/optimizer.bin": file((1, 1)), "empty": file()}
    save("manifest", "whole", text(files))
    save("manifest", "no-files", text({}))
    save("manifest", "version", text(files, version=2))
    save("manifest", "chunks", text(files, chunk_bytes=5))
    save("manifest", "short", text({"a": file((4097, 1))}))
    save("manifest", "more", text({"a": file((9, 1)) | {"bytes": 1 << 63}}))
    for name, path in (("up", "../a"), ("absolute", "/etc/passwd"), ("deep", "a/b/c"), ("hidden", ".a"), ("zero", "a\0b")):
        save("manifest", name, text({path: file((5, 1))}))


if __name__ == "__main__":
    data_sets()
    manifests()
    safetensors()
    texts()
