"""The values of each coordinate in order: what every coordinate-wise rule starts from."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from fl_sim.core.sums import chunks

WIDTH = 1 << 10  # of 100 updates in float32: 400 KiB, and as much for what is made of them
SAMPLE = 1 << 11  # coordinates, on which it is estimated how often an update is used


def sort_chunks(
    updates: Float[Tensor, "n p"], chosen: Int64[Tensor, " m"] | None = None
) -> Iterator[tuple[slice, Float[Tensor, "m c"]]]:
    """Yield slices of columns, and the updates there with every column sorted.

    Numpy sorts short contiguous rows several times as fast as torch sorts columns. So what is
    yielded is the transpose of a contiguous matrix.

    Args:
        updates: one row a client.
        chosen: positions of the updates that count; all where None.
    """
    for columns in chunks(updates.shape[1], WIDTH):
        part = updates[:, columns]
        part = part if chosen is None else part[chosen]
        rows = np.array(part.numpy().T, order="C")
        rows.sort(axis=1)
        yield columns, torch.from_numpy(rows).T


def average_ordered(ordered: Float[Tensor, "n c"], low: int, high: int) -> Float[Tensor, " c"]:
    """Return the mean of each column from the value in place `low` to that before `high`."""
    rows: NDArray[np.floating] = ordered.T.numpy()[:, low:high]
    middle = rows.astype(np.float64)
    return torch.from_numpy(middle @ np.ones(high - low) / (high - low))  # faster than `mean`


def sample_coordinates(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
    """Return a fixed sample of the coordinates, evenly spread: all of a small model."""
    return updates[:, :: max(1, updates.shape[1] // SAMPLE)]


def compute_share_between(
    updates: Float[Tensor, "n p"], low: int, high: int
) -> Float[Tensor, " n"]:
    """Return the share of coordinates at which each update lies between two places in order.

    Estimated on a sample of the coordinates. A value that equals one of the two counts.

    Args:
        updates: one row a client.
        low, high: the places in rising order, from 0, both of them used.
    """
    part = sample_coordinates(updates)
    ordered = torch.from_numpy(np.sort(part.numpy().T, axis=1)).T
    return ((part >= ordered[low]) & (part <= ordered[high])).double().mean(1)
