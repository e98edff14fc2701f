"""A tensor of 5000 elements under bitsandbytes' 8-bit AdamW, for tests/unit/optim/adamw_8bit_test.cpp.

    python tests/golden/make_adamw_8bit.py > tests/golden/adamw_8bit.json      (also needs: pip install bitsandbytes)

bitsandbytes' own arithmetic with the quantization of its default backend (nearest value): its CPU library changes the map's first
value. Start values and gradients are those of make_optimizers.py; every 25th element is kept, and all codes' sum.
"""

import json
import sys

import torch
from bitsandbytes.backends.cpu import ops as cpu
from bitsandbytes.functional import create_dynamic_map
from bitsandbytes.optim import AdamW

from make_optimizers import draw

COUNT, STEPS, KEEP = 5000, 12, 25
CASES = [{"weight_decay": 0.1, "betas": [0.9, 0.999]}, {"weight_decay": 0.0, "betas": [0.8, 0.95]}]


def quantize(values, code, largest_out, codes_out, blocksize):
    """bitsandbytes/backends/default/ops.py, quantize_blockwise."""
    blocks = torch.nn.functional.pad(values.reshape(-1), (0, -values.numel() % blocksize)).view(-1, blocksize)
    largest = blocks.abs().amax(1)
    scaled = (blocks * (1.0 / largest.clamp(min=1e-38)).unsqueeze(1)).clamp(-1, 1).reshape(-1)[:values.numel()]
    codes_out.copy_(torch.bucketize(scaled, (code[:-1] + code[1:]) / 2).to(torch.uint8).view_as(values))
    largest_out.copy_(largest)


def dequantize(codes, largest, code, blocksize):
    return code[codes.long()] * largest.repeat_interleave(blocksize)[:codes.numel()].view(codes.shape)


def run(case):
    parameter = torch.nn.Parameter(draw(0, COUNT).view(50, 100))
    optimizer = AdamW([{"params": [parameter], "weight_decay": case["weight_decay"]}], lr=1e-3, betas=tuple(case["betas"]), eps=1e-8, optim_bits=8)
    for step in range(STEPS):
        parameter.grad = draw(step + 1, COUNT).view(50, 100)
        optimizer.step()
    state = optimizer.state[parameter]
    assert state["state1"].dtype == torch.uint8
    return case | {"parameter": parameter.flatten()[::KEEP].tolist(), "exp_avg_largest": state["absmax1"].tolist(),
                   "exp_avg_sq_largest": state["absmax2"].tolist(), "exp_avg_codes": state["state1"].flatten()[::KEEP].tolist(),
                   "exp_avg_sq_codes": state["state2"].flatten()[::KEEP].tolist()}


if __name__ == "__main__":
    cpu._quant_blockwise_fp32_direct, cpu._dequant_blockwise_fp32_direct = quantize, dequantize
    json.dump({"count": COUNT, "steps": STEPS, "keep": KEEP, "signed_map": create_dynamic_map(signed=True).tolist(),
               "unsigned_map": create_dynamic_map(signed=False).tolist(), "cases": [run(case) for case in CASES]},
              sys.stdout, separators=(",", ":"))
    print()
