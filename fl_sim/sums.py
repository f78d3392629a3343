"""Sums over updates that keep float64 precision without a float64 copy of the stack."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

COLUMNS = 1 << 16  # of float64, for 100 updates: 50 MiB, the most that a chunk may cost


def chunks(num_columns: int, width: int = COLUMNS) -> Iterator[slice]:
    """Yield slices that cover `num_columns` once, in order."""
    for start in range(0, num_columns, width):
        yield slice(start, min(start + width, num_columns))


def weighted_sum(
    coefficients: Float[Tensor, " n"], updates: Float[Tensor, "n p"]
) -> Float[Tensor, " p"]:
    """Return the sum of the rows times their coefficients, accumulated in float64."""
    total = torch.empty(updates.shape[1], dtype=torch.float64)
    for columns in chunks(updates.shape[1]):
        total[columns] = coefficients.double() @ updates[:, columns].double()
    return total
