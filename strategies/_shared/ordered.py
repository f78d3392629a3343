"""Sorted coordinates for the coordinate-wise rules."""

from collections.abc import Iterator

from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.core.sums import average_rows, column_chunks, sort_columns

WIDTH = 1 << 10  # columns per chunk: 400 KiB for 100 updates in float32, twice that in use
SAMPLE = 1 << 11  # number of coordinates on which shares are estimated


def sort_chunks(
    updates: Float[Tensor, "n p"], chosen: Int64[Tensor, " m"] | None = None
) -> Iterator[tuple[slice, Float[Tensor, "m c"]]]:
    """Yield slices of columns, and the updates in them with every column sorted.

    Args:
        updates: Updates, one row per client.
        chosen: Positions of the updates to use; None uses all.
    """
    for columns in column_chunks(updates, WIDTH):
        part = updates[:, columns]
        yield columns, sort_columns(part if chosen is None else part[chosen])


def average_ordered(ordered: Float[Tensor, "n c"], low: int, high: int) -> Float[Tensor, " c"]:
    """Return the mean of the values at positions `low` to `high` - 1 of each sorted column."""
    return average_rows(ordered[low:high])


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
    ordered = sort_columns(part)
    return ((part >= ordered[low]) & (part <= ordered[high])).double().mean(1)
