"""Random generators named by labels, independent of the order in which they are used.

Code that draws takes a generator made from the run's seed and a few labels, such as
`generator(seed, "round", 7, "client", 3)`. So results do not depend on the order of draws, the
engine, or the number of workers.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fl_sim.core.device import new_tensors_device


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a seed of 63 bits that is a hash of `seed` and all labels.

    >>> derive_seed(0, "round", 1) == derive_seed(0, "round", 1)
    True
    >>> derive_seed(0, "round", 1) == derive_seed(0, "round", 11)
    False
    """
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """Return a torch generator seeded by `seed` and `labels`."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


def numpy_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a numpy generator seeded by `seed` and `labels`, for Dirichlet draws."""
    return np.random.default_rng(derive_seed(seed, *labels))


@contextmanager
def seed_torch(seed: int, *labels: str | int) -> Iterator[None]:
    """Seed the global generator inside the block, for layers of `torch.nn` that need it.

    On a device, such as for dropout, that of the device is seeded too. The global states are
    restored afterwards.
    """
    generator, before = torch.default_generator, torch.get_rng_state()
    number, kind = derive_seed(seed, *labels), new_tensors_device().type
    generator.manual_seed(number)  # torch.manual_seed costs a stack trace
    module: Any = None if kind == "cpu" else torch.get_device_module(kind)
    before_on_device = None if module is None else module.get_rng_state()
    if module is not None:
        module.manual_seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if module is not None:
            module.set_rng_state(before_on_device)
