"""Randomness by name, never by order.

Whatever draws takes a generator made from the run's seed and a few labels, such as
`generator(seed, "round", 7, "client", 3)`. So a result does not depend on who drew first,
on the engine, or on the number of workers.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return 63 bits that depend on `seed` and every label, and on nothing else.

    >>> derive_seed(0, "round", 1) == derive_seed(0, "round", 1)
    True
    >>> derive_seed(0, "round", 1) == derive_seed(0, "round", 11)
    False
    """
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """Return a torch generator named by `labels`."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


def numpy_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a numpy generator named by `labels` (torch has no Dirichlet that takes one)."""
    return np.random.default_rng(derive_seed(seed, *labels))


@contextmanager
def seed_torch(seed: int, *labels: str | int) -> Iterator[None]:
    """Make the constructors of `torch.nn`, which know only the global generator, draw by name.

    The global state is put back afterwards.
    """
    generator, before = torch.default_generator, torch.get_rng_state()
    generator.manual_seed(derive_seed(seed, *labels))  # torch.manual_seed costs a stack trace
    try:
        yield
    finally:
        torch.set_rng_state(before)
