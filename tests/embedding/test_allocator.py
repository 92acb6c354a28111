"""Buffers are kept while embedding, which costs no page faults, and given back afterwards."""

import resource

import pytest
import torch

from evar.embedding import allocator
from evar.embedding.allocator import reused_buffers

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="the C library is not glibc")


def faults(times: int) -> int:
    """Page faults of allocating and filling 40 MB again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(12 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_a_freed_buffer_is_used_again():
    with reused_buffers():
        faults(8)
        inside = faults(8)
    outside = faults(8)
    assert inside < outside / 4


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with reused_buffers():
        assert torch.ones(3).sum() == 3
