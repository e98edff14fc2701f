"""packing.json: the rows that TRL's pack_dataset makes of documents of given lengths.

    python tests/golden/make_packing.py
"""

import json
import random
from itertools import groupby
from pathlib import Path

import trl
from datasets import Dataset
from trl import pack_dataset


def pieces_of(row: dict) -> list[list[int]]:
    """[document, first token, tokens] of the parts of a packed row. Token t of document d is d, its label t."""
    pieces = []
    for (document, _), tokens in groupby(zip(row["input_ids"], row["labels"], range(10**9)), key=lambda x: (x[0], x[1] - x[2])):
        tokens = list(tokens)
        pieces.append([document, tokens[0][1], len(tokens)])
    if "seq_lengths" in row:
        assert [length for _, _, length in pieces] == row["seq_lengths"]
    return pieces


def case(lengths: list[int], max_length: int, strategy: str, scope: int) -> dict:
    documents = Dataset.from_dict({"input_ids": [[d] * n for d, n in enumerate(lengths)], "labels": [list(range(n)) for n in lengths]})
    kwargs = {"batch_size": len(lengths)} if scope == 0 else {}  # {}: what SFTTrainer passes, 1000 documents a batch
    rows = [pieces_of(row) for row in pack_dataset(documents, max_length, strategy, kwargs)]
    documents_of_rows = [piece[0] for row in rows for piece in row]
    result = {"max_length": max_length, "strategy": strategy, "scope": scope, "counts": [len(row) for row in rows],
              "documents": documents_of_rows}
    if strategy != "bfd":  # there every piece begins with its document and is cut to max_length
        result["begins"] = [piece[1] for row in rows for piece in row]
        result["lengths"] = [piece[2] for row in rows for piece in row]
    return result


def main() -> None:
    draw = random.Random(7)
    sets = {
        "few": [[5, 2, 3, 1], [7, 3, 3, 5, 2, 6, 1, 4, 4, 8], [4] * 7, [1], [9, 9, 9]],
        "short": [[draw.randint(1, 40) for _ in range(300)]],
        "long": [[max(1, int(draw.lognormvariate(3, 1))) for _ in range(2300)]],
    }
    limits = {"few": [4, 10], "short": [17, 33, 64], "long": [100]}
    groups = []
    for name, lists in sets.items():
        for lengths in lists:
            cases = [case(lengths, limit, strategy, scope) for limit in limits[name] for strategy in ("bfd", "bfd_split", "wrapped")
                     for scope in ((1000, 0) if name == "long" and strategy == "bfd" else (1000,))]
            groups.append({"lengths": lengths, "cases": cases})
    golden = {"trl": trl.__version__, "groups": groups}
    Path(__file__).with_name("packing.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
