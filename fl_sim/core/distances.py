"""How far updates are apart: one pass over them serves every rule that compares them."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.core.sums import chunks, use_one_thread

COLUMNS = 1 << 11  # of float64, for 100 updates: 1.6 MiB
FAR = 1e6  # ratio of squared lengths up to which the mean is a good enough origin


def gram_matrix(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"] | None = None
) -> Float[Tensor, "n n"]:
    """Return the inner products of every two updates, seen from `origin`, in float64.

    The origin is the mean of the updates, as rounded to their type, where none is given. Without
    centring, and on parameters instead of updates, small differences drown in rounding. Numpy
    multiplies a matrix by its own transpose at half the price, and exactly symmetrically.
    """
    count, size = updates.shape
    rows = updates.numpy()
    mean = np.full(count, 1 / count, rows.dtype)
    centre = None if origin is None else origin.double().numpy()
    total, buffer = np.zeros((count, count)), np.empty((count, min(size, COLUMNS)))
    with use_one_thread():
        for columns in chunks(size, COLUMNS):
            part, centred = rows[:, columns], buffer[:, : columns.stop - columns.start]
            middle = (mean @ part).astype(np.float64) if centre is None else centre[columns]
            np.subtract(part, middle, out=centred)
            total += centred @ centred.T
    return torch.from_numpy(total)


def centred_gram_matrix(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return inner products from an origin from which most updates can be told apart.

    Next to an update of 1e12, the mean of all is so far off that the others look alike in
    float64. Then the origin is the update in the midst of the others.
    """
    products = gram_matrix(updates)
    middle = distances_from_gram(products).median(1).values
    if float(products.diagonal().max()) <= FAR * float(middle.median()):
        return products
    return gram_matrix(updates, updates[int(middle.argmin())])


def uncentred_gram_matrix(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return the inner products of the updates themselves, as cosines need them, in float64."""
    return gram_matrix(updates, torch.zeros(updates.shape[1], dtype=torch.float64))


def cosines_from_gram(products: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the cosines that follow from inner products; 0 beside a vector of zeros."""
    norms = products.diagonal().sqrt()
    lengths = norms[:, None] * norms[None, :]
    return torch.where(lengths > 0, products / lengths, 0.0).clamp(-1, 1)


def squared_distances(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return the squared distance of every two updates, in float64."""
    return distances_from_gram(centred_gram_matrix(updates))


def distances_from_gram(products: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
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


def inner_products(
    updates: Float[Tensor, "n p"], vector: Float[Tensor, " p"]
) -> Float[Tensor, " n"]:
    """Return the inner product of every update with one vector, in float64."""
    total = torch.zeros(len(updates), dtype=torch.float64)
    for columns in chunks(updates.shape[1]):
        total += updates[:, columns].double() @ vector[columns].double()
    return total


def clip_factors(norms: Float[Tensor, " n"], bound: float) -> Float[Tensor, " n"]:
    """Return what brings vectors of these lengths down to `bound`; one for those within it."""
    return torch.where(norms > bound, bound / norms, 1.0)


def equal_shares(chosen: Int64[Tensor, " m"], count: int) -> Float[Tensor, " n"]:
    """Return the same share for each position that is chosen among `count`, 0 for the others."""
    shares = torch.zeros(count, dtype=torch.float64)
    shares[chosen] = 1 / max(1, len(chosen))
    return shares
