"""Sums over updates that keep float64 precision without a float64 copy of the stack."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

COLUMNS = 1 << 12  # of float64, for 100 updates: 3 MiB, which stay in a core's cache


def chunks(num_columns: int, width: int = COLUMNS) -> Iterator[slice]:
    """Yield slices that cover `num_columns` once, in order."""
    for start in range(0, num_columns, width):
        yield slice(start, min(start + width, num_columns))


def weighted_sum(
    coefficients: Float[Tensor, " m"],
    updates: Float[Tensor, "n p"],
    rows: Int64[Tensor, " m"] | None = None,
) -> Float[Tensor, " p"]:
    """Return the sum of the rows times their coefficients, accumulated in float64.

    Args:
        coefficients: one a row.
        updates: all rows.
        rows: positions of those that are summed; all where None.
    """
    total = torch.empty(updates.shape[1], dtype=torch.float64)
    for columns in chunks(updates.shape[1]):
        part = updates[:, columns]
        chosen = part if rows is None else part[rows]
        total[columns] = coefficients.double() @ chosen.double()
    return total
