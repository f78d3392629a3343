"""The values of each coordinate in order: what every coordinate-wise rule starts from."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.sums import chunks

WIDTH = 1 << 10  # of 100 updates in float32: 400 KiB, and as much for what is made of them


def ordered_chunks(
    updates: Float[Tensor, "n p"], chosen: Int64[Tensor, " m"] | None = None
) -> Iterator[tuple[slice, Float[Tensor, "m c"]]]:
    """Yield slices of columns, and the updates there with every column sorted.

    Numpy sorts short contiguous rows several times as fast as torch sorts columns.

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
