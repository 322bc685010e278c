"""Checks chapter 17: python docs/path/checks/17.py my_answer.py."""

import sys

import numpy as np
import safetensors.torch
import torch
from checking import Checks, differ

from penjing.models.gguf import quants

checks = Checks()


@checks.exercise("read_tensor")
def _(read_tensor):
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "pine": torch.randn(3, 5, generator=generator),
        "stone": torch.randn(2, 3, 4, generator=generator).bfloat16(),
        "moss": torch.randn(7, generator=generator).half(),
        "pot": torch.randn(1, 2, generator=generator),
    }
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    for name, expected in tensors.items():
        call = f"read_tensor(content, {name!r})"
        given = read_tensor(content, name)
        wrong = differ(call, given, expected, tolerance=0)
        if wrong is None and given.dtype != expected.dtype:
            wrong = f"{call} has the dtype {given.dtype}, not {expected.dtype}"
        if wrong:
            return wrong
    return None


@checks.exercise("dequantize_q4_0")
def _(dequantize_q4_0):
    generator = np.random.default_rng(1)
    for count in (1, 2, 9):
        blocks = generator.integers(0, 256, (count, 18), dtype=np.uint8)
        blocks[:, :2] = generator.normal(0, 0.1, (count, 1)).astype("<f2").view(np.uint8)
        expected = torch.from_numpy(quants.dequantize_q4_0(blocks)).flatten()
        wrong = differ(f"dequantize_q4_0({count} blocks)", dequantize_q4_0(blocks.tobytes()), expected, 1e-7)
        if wrong:
            return wrong
    return None


if __name__ == "__main__":
    sys.exit(checks.main(sys.argv[1:]))
