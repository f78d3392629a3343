"""Sums over updates that keep float64 precision without a float64 copy of the stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import ThreadpoolController
from torch import Tensor

FEW_ROWS = 1 << 16  # values of float64 at once where there are few updates: 512 KiB
COLUMNS = 1 << 12  # of float64, for 100 updates: 3 MiB, which stay in a core's cache


def chunks(num_columns: int, width: int = COLUMNS) -> Iterator[slice]:
    """Yield slices that cover `num_columns` once, in order."""
    for start in range(0, num_columns, width):
        yield slice(start, min(start + width, num_columns))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy's algebra use one thread, as everything in a run does: sums depend on it."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def weighted_sum(
    coefficients: Float[Tensor, " n"],
    updates: Float[Tensor, "n p"],
    out: Float[Tensor, " p"] | None = None,
) -> Float[Tensor, " p"]:
    """Return the sum of the updates times their coefficients, accumulated in float64.

    It is written into `out`, where that is given.
    """
    count, size = updates.shape
    factors, rows = coefficients.double().numpy(), updates.numpy()
    total = np.empty(size) if out is None else out.numpy()
    width = max(COLUMNS, FEW_ROWS // max(1, count))
    room = np.empty((count, min(size, width)))
    with one_thread():
        for columns in chunks(size, width):
            part = room[:, : columns.stop - columns.start]
            np.copyto(part, rows[:, columns])
            np.dot(factors, part, out=total[columns])
    return torch.from_numpy(total) if out is None else out
