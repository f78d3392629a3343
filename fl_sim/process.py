"""What every process that computes begins with."""

import torch

LARGE = 30 << 20  # bytes, just below what glibc learns from


def settle() -> None:
    """Use one thread, as everywhere: reductions depend on it. And keep memory that is freed.

    glibc gives large blocks back to the system as soon as they are freed, and a network's
    activations would come as fresh pages in every batch, until it has seen one block as large
    as this freed (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.set_num_threads(1)
    torch.empty(LARGE, dtype=torch.uint8)
