"""Sorted coordinates for the coordinate-wise rules."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from fl_sim.core.sums import chunks

WIDTH = 1 << 10  # columns per chunk: 400 KiB for 100 updates in float32, twice that in use
SAMPLE = 1 << 11  # number of coordinates on which shares are estimated


def sort_chunks(
    updates: Float[Tensor, "n p"], chosen: Int64[Tensor, " m"] | None = None
) -> Iterator[tuple[slice, Float[Tensor, "m c"]]]:
    """Yield slices of columns, and the updates in them with every column sorted.

    NumPy sorts short contiguous rows several times as fast as torch sorts columns, so each chunk is
    the transpose of a contiguous matrix.

    Args:
        updates: Updates, one row per client.
        chosen: Positions of the updates to use; None uses all.
    """
    for columns in chunks(updates.shape[1], WIDTH):
        part = updates[:, columns]
        part = part if chosen is None else part[chosen]
        rows = np.array(part.numpy().T, order="C")
        rows.sort(axis=1)
        yield columns, torch.from_numpy(rows).T


def average_ordered(ordered: Float[Tensor, "n c"], low: int, high: int) -> Float[Tensor, " c"]:
    """Return the mean of the values at positions `low` to `high` - 1 of each sorted column."""
    rows: NDArray[np.floating] = ordered.T.numpy()[:, low:high]
    middle = rows.astype(np.float64)
    return torch.from_numpy(middle @ np.ones(high - low) / (high - low))  # faster than `mean`


def sample_coordinates(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
    """Return evenly spaced coordinates, the same each time; all coordinates of a small model."""
    return updates[:, :: max(1, updates.shape[1] // SAMPLE)]


def compute_share_between(
    updates: Float[Tensor, "n p"], low: int, high: int
) -> Float[Tensor, " n"]:
    """Return the share of coordinates at which each update lies between two order statistics.

    Estimated on a sample of the coordinates. Ties with one of the two values count.

    Args:
        updates: Updates, one row per client.
        low, high: Positions in rising order, counted from 0, both inclusive.
    """
    part = sample_coordinates(updates)
    ordered = torch.from_numpy(np.sort(part.numpy().T, axis=1)).T
    return ((part >= ordered[low]) & (part <= ordered[high])).double().mean(1)
