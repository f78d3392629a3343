"""Weighted sums of updates in float64, without a float64 copy of the stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

COLUMNS = 1 << 12  # in float64, for 100 updates: 3 MiB, which fits into a core's cache
# Few rows and many columns, so that memory is read in order; 4 MiB in float64.
ROWS, RUN = 4, 1 << 17
ACCELERATOR_COLUMNS = 1 << 18  # enough for a kernel to keep an accelerator busy


def chunks(size: int, width: int = COLUMNS) -> Iterator[slice]:
    """Yield consecutive slices of at most `width` that cover `size`."""
    for start in range(0, size, width):
        yield slice(start, min(start + width, size))


def column_chunks(updates: Float[Tensor, "n p"], width: int = COLUMNS) -> Iterator[slice]:
    """Yield slices that cover the columns of a stack, of `width` where a CPU's cache counts."""
    return chunks(updates.shape[1], width if updates.is_cpu else ACCELERATOR_COLUMNS)


def sort_columns(part: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
    """Return a few columns of updates, each of them sorted.

    On a CPU, NumPy sorts short contiguous rows several times as fast as torch sorts columns, so the
    result is the transpose of a contiguous matrix.
    """
    if not part.is_cpu:
        return part.sort(0).values
    rows = np.array(part.numpy().T, order="C")
    rows.sort(axis=1)
    return torch.from_numpy(rows).T


def average_rows(part: Float[Tensor, "m c"]) -> Float[Tensor, " c"]:
    """Return the mean of the rows of a few columns, as by `sort_columns`, in float64."""
    if not part.is_cpu:
        return part.double().mean(0)
    columns: NDArray[np.float64] = part.T.numpy().astype(np.float64)
    count = len(part)
    return torch.from_numpy(columns @ np.ones(count) / count)  # faster than `mean`


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside the block, since the bits of sums depend on the number."""
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
    """Return the sum of updates times coefficients, in float64, written into `out` if given."""
    count, size = updates.shape
    factors = coefficients.double()
    total = torch.empty(size, dtype=torch.float64) if out is None else out
    buffer = torch.empty(min(count, ROWS), min(size, RUN), dtype=torch.float64)
    for columns in chunks(size, RUN):
        part = total[columns].zero_()
        for rows in chunks(count, ROWS):
            few = updates[rows, columns]
            exact = buffer[: few.shape[0], : few.shape[1]].copy_(few)
            part.addmv_(exact.T, factors[rows])
    return total


def narrow(values: Float[Tensor, " p"], dtype: torch.dtype) -> Float[Tensor, " p"]:
    """Return finite values in another type, clamped to its range."""
    largest = torch.finfo(dtype).max
    return values.clamp(-largest, largest).to(dtype)
