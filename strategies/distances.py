"""How far updates are apart: one pass over them serves every rule that compares them."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import ThreadpoolController
from torch import Tensor

from fl_sim.sums import COLUMNS, chunks


def gram(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"] | None = None
) -> Float[Tensor, "n n"]:
    """Return the inner products of every two updates, seen from `origin`, in float64.

    The origin is the mean of the updates where none is given. Without centring, and on
    parameters instead of updates, small differences drown in rounding. Numpy multiplies a
    matrix by its own transpose at half the price, and exactly symmetrically.
    """
    count, size = updates.shape
    total = np.zeros((count, count))
    room = torch.empty(count, min(size, COLUMNS), dtype=torch.float64)
    with _controller().limit(limits=1, user_api="blas"):
        for columns in chunks(size):
            part = room[:, : columns.stop - columns.start].copy_(updates[:, columns])
            part -= part.mean(0) if origin is None else origin[columns]
            rows = part.numpy()
            total += rows @ rows.T
    return torch.from_numpy(total)


def squared_distances(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return the squared distance of every two updates, in float64."""
    return distances_from(gram(updates))


def distances_from(products: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the squared distances that follow from inner products."""
    norms = products.diagonal()
    return (norms[:, None] + norms[None, :] - 2 * products).clamp(min=0).fill_diagonal_(0)


def row_norms(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"] | None = None
) -> Float[Tensor, " n"]:
    """Return the distance of every update from `origin`, or from zero, in float64."""
    total = torch.zeros(len(updates), dtype=torch.float64)
    for columns in chunks(updates.shape[1]):
        part = updates[:, columns].double()
        total += (part if origin is None else part - origin[columns]).square().sum(1)
    return total.sqrt()


def shortening(norms: Float[Tensor, " n"], bound: float) -> Float[Tensor, " n"]:
    """Return what brings vectors of these lengths down to `bound`; one for those within it."""
    return torch.where(norms > bound, bound / norms, 1.0)


@cache
def _controller() -> ThreadpoolController:
    """Return what sets the threads of numpy's algebra: one, as everywhere in a run."""
    return ThreadpoolController()
