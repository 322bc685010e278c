"""Answers to chapter 17: ours."""

import json

import numpy as np
import torch

from penjing.models.gguf import quants
from penjing.models.weights import FLOATS


def read_tensor(content, name):
    length = int.from_bytes(content[:8], "little")
    start = 8 + length
    entry = json.loads(content[8:start])[name]
    begin, end = entry["data_offsets"]
    raw = bytearray(content[start + begin : start + end])
    return torch.frombuffer(raw, dtype=FLOATS[entry["dtype"]]).view(entry["shape"])


def dequantize_q4_0(content):
    blocks = np.frombuffer(content, np.uint8).reshape(-1, 18)
    return torch.from_numpy(quants.dequantize_q4_0(blocks)).flatten()
