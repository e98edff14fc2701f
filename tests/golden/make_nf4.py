#!/usr/bin/env python3
"""What bitsandbytes makes of weights in NF4: the golden of ops_nf4_test. Needs the package bitsandbytes (0.50; not a test dependency).

    python tests/golden/make_nf4.py [output file, default tests/golden/nf4.safetensors]

For each case c: c.weight, c.codes, c.absmax, c.values (without nesting), and c.nested.codes, c.nested.absmax, c.nested.offset, c.nested.values. Whole numbers are
stored as float32, which the C++ reader takes. One case is more than 256 blocks, one ends inside a block with an odd element.
"""

import pathlib
import sys

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file


def main():
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parent / "nf4.safetensors"
    generator = torch.Generator().manual_seed(3)
    golden = {}
    for name, shape in {"many": (132, 128), "odd": (7, 13), "zero": (2, 64)}.items():
        weight = torch.randn(shape, generator=generator) * 0.05
        if name == "zero":
            weight[0] = 0
        golden[f"{name}.weight"] = weight
        codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
        golden |= {f"{name}.codes": codes.reshape(-1).float(), f"{name}.absmax": state.absmax.float()}
        if name != "many":  # its values with nested scales are enough
            golden[f"{name}.values"] = bnb.dequantize_4bit(codes, state)
        nested, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
        assert torch.equal(nested, codes)
        golden |= {f"{name}.nested.codes": state.absmax.float(), f"{name}.nested.absmax": state.state2.absmax.float(),
                   f"{name}.nested.offset": state.offset.reshape(1).float(), f"{name}.nested.values": bnb.dequantize_4bit(nested, state)}
    save_file({key: value.contiguous().clone() for key, value in golden.items()}, output)
    print(f"{output.name}: {len(golden)} tensors, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
