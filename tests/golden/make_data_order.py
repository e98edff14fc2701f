"""Row orders of torch, numpy/datasets and accelerate for tests/unit/data/sampler_test.cpp.

Usage: python tests/golden/make_data_order.py > tests/golden/data_order.json
       python tests/golden/make_data_order.py --check
"""

import itertools
import json
import sys

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch.utils.data import BatchSampler, SequentialSampler
from transformers.trainer_pt_utils import get_length_grouped_indices


def torch_order(n, seed):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return {"n": n, "seed": seed, "order": order.tolist()}


def grouped_order(n, batch_rows, seed):
    """Row i has 1 + 37 i mod 101 tokens."""
    lengths = [1 + 37 * i % 101 for i in range(n)]
    order = get_length_grouped_indices(lengths, batch_rows, generator=torch.Generator().manual_seed(seed))
    return {"n": n, "batch_rows": batch_rows, "seed": seed, "order": order}


def torch_wide_order(n, seed):
    """The branch that torch takes from (2^32 - 1) // 20 rows on, by its formula (--check compares it with torch there)."""
    generator = np.random.MT19937()
    generator._legacy_seeding(seed)
    draws = generator.random_raw(2 * n)
    order = list(range(n))
    for i in range(n):
        j = (int(draws[2 * i]) << 32 | int(draws[2 * i + 1])) % (i + 1)
        order[i], order[j] = order[j], i
    return {"n": n, "seed": seed, "order": order}


def check_wide():
    """Minutes and 10 GB: the whole permutation on the wide side of the switch."""
    n = (2**32 - 1) // 20
    assert torch_wide_order(n, 42)["order"] == torch_order(n, 42)["order"]
    assert torch_wide_order(100, 42)["order"] != torch_order(100, 42)["order"]


def numpy_order(n, seed):
    order = np.random.default_rng(seed).permutation(n)
    shuffled = Dataset.from_dict({"row": np.arange(n)}).shuffle(seed=seed)["row"]
    assert list(shuffled) == order.tolist()
    return {"n": n, "seed": seed, "order": order.tolist()}


def shards(n, batch, world, drop_last):
    """What accelerate deals to every rank: [rank][micro-step][slot] -> position in the epoch's order."""
    sampler = BatchSampler(SequentialSampler(range(n)), batch, drop_last)
    ranks = [list(sampler)] if world == 1 else [list(BatchSamplerShard(sampler, world, r)) for r in range(world)]
    return {"n": n, "B": batch, "W": world, "drop_last": drop_last, "ranks": ranks}


def main():
    seeds = [0, 1, 42, 43, 2**31, 2**32 - 1, 2**32 + 7, 2**63 - 1]
    sizes = [1, 2, 3, 10, 97]
    golden = {
        "torch": [torch_order(n, seed) for n, seed in itertools.product(sizes, seeds)] + [torch_order(3000, 42)],
        "torch_wide": [torch_wide_order(n, seed) for n, seed in itertools.product(sizes, [0, 1, 42, 2**32 - 1])],
        "numpy": [numpy_order(n, seed) for n, seed in itertools.product(sizes, seeds)] + [numpy_order(3000, 42)],
        "grouped": [
            grouped_order(n, batch_rows, seed) for n, batch_rows, seed in itertools.product([1, 7, 24, 100], [1, 4], [0, 42])
        ] + [grouped_order(1300, 6, 42)],
        "shards": [
            shards(n, batch, world, drop_last)
            for n, batch, world, drop_last in itertools.product(
                [1, 2, 5, 11, 12, 13], [1, 2, 3], [1, 2, 3, 4], [False, True]
            )
        ],
    }
    print(json.dumps(golden, separators=(",", ":")))


if __name__ == "__main__":
    check_wide() if "--check" in sys.argv else main()
