"""Freed memory that stays with the process."""

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc")

# In a process of its own: another test's heap may have holes of this size, which are taken again without a fault.
# Huge pages off: with them 48 MB are 24 faults instead of 12,288.
SCRIPT = """
import ctypes, json, resource
from pathlib import Path
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
import torch
from penjing.training import allocator

layers = [torch.nn.Linear(2048, 2048) for _ in range(3)]

def faults():
    '''Of forward and backward over activations of 48 MB a layer.'''
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(6144, 2048)
    for layer in layers:
        x = layer(x).relu()
    x.sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

usual = min(faults() for _ in range(5))
before = resident()
with allocator.kept():
    kept = min(faults() for _ in range(8))
    within = resident()
after = resident()
try:
    with allocator.kept():
        faults()
        raise ZeroDivisionError
except ZeroDivisionError:
    after_error = resident()
print(json.dumps({"usual": usual, "kept": kept, "resident": [r >> 20 for r in (before, within, after, after_error)]}))
"""


def test_freed_memory_stays_within_and_goes_back_afterwards():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    counts = json.loads(run.stdout)
    assert counts["usual"] > 50_000, counts  # at least five pieces of 12,288 pages
    assert counts["kept"] < counts["usual"] / 5, counts  # nearly always 0; a heap in pieces may lack one activation
    before, within, after, after_error = counts["resident"]  # MiB
    assert within > before + 200, counts
    assert max(after, after_error) < before + 100, counts
