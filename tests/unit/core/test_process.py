"""Tests of threads and memory of a process."""

import platform
import resource

import torch

from fl_sim.core.process import configure_process

SIZE, COUNT = 40 << 20, 8  # bytes above glibc's own largest threshold, and blocks at a time


def _fill_blocks() -> int:
    """Return the number of fresh pages that some large blocks take, which are freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for block in [torch.empty(SIZE, dtype=torch.uint8) for _ in range(COUNT)]:
        block.fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_used_again() -> None:
    configure_process()
    assert torch.get_num_threads() == 1
    fresh_pages = min(_fill_blocks() for _ in range(4))  # the heap has grown after the first ones
    if platform.libc_ver()[0] == "glibc":
        assert fresh_pages < SIZE * COUNT / resource.getpagesize() / 10
