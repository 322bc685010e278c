"""Freed memory that stays with the process."""

import platform
import resource

import pytest
import torch

from penjing.training import allocator

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc")


def page_faults(rounds: int = 4) -> int:
    """Of taking 48 MB, writing it and freeing it again: more than glibc ever keeps of its own accord."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(12 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_taken_again_without_page_faults():
    """48 MB are 12,000 pages of 4 KiB (or 24 huge ones, of which there are none in a heap by default)."""
    assert page_faults() > 20_000
    with allocator.kept():
        page_faults(1)
        assert page_faults() < 1000
    assert page_faults() > 20_000


def test_it_is_undone_after_an_error():
    with pytest.raises(ZeroDivisionError), allocator.kept():
        raise ZeroDivisionError
    assert page_faults() > 20_000
