"""Inner products, distances and norms of updates, in float64 and in one pass over the stack."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.core.sums import chunks, column_chunks, use_one_thread

COLUMNS = 1 << 11  # of float64, for 100 updates: 1.6 MiB
FAR = 1e6  # ratio of squared lengths up to which the mean is a good enough origin


def gram_matrix(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"] | None = None
) -> Float[Tensor, "n n"]:
    """Return the [n, n] inner products of updates minus `origin`, in float64.

    The default origin is the mean of the updates, rounded to their type. Without centring, small
    differences between large vectors are lost to rounding. Numpy multiplies a matrix by its own
    transpose at half the cost, and the result is exactly symmetric.
    """
    count, size = updates.shape
    if not updates.is_cpu:
        return _multiply_on_accelerator(updates, origin)
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


def _multiply_on_accelerator(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"] | None
) -> Float[Tensor, "n n"]:
    """Return the inner products as `gram_matrix` does, with PyTorch."""
    total = updates.new_zeros(len(updates), len(updates), dtype=torch.float64)
    for columns in column_chunks(updates):
        part = updates[:, columns]
        middle = part.mean(0) if origin is None else origin[columns]
        centred = part.double() - middle.double()
        total += centred @ centred.T
    return (total + total.T) / 2


def centred_gram_matrix(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return the [n, n] inner products of updates minus an origin that is robust to outliers.

    An update of 1e12 moves the mean so far that the others look alike in float64. Then the origin
    is the update with the smallest median distance to the others.
    """
    products = gram_matrix(updates)
    middle = distances_from_gram(products).median(1).values
    if float(products.diagonal().max()) <= FAR * float(middle.median()):
        return products
    return gram_matrix(updates, updates[int(middle.argmin())])


def uncentred_gram_matrix(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return the [n, n] inner products of the updates themselves, in float64."""
    return gram_matrix(updates, torch.zeros(updates.shape[1], dtype=torch.float64))


def cosines_from_gram(products: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the [n, n] cosines from inner products; 0 where a vector is zero."""
    norms = products.diagonal().sqrt()
    lengths = norms[:, None] * norms[None, :]
    return torch.where(lengths > 0, products / lengths, 0.0).clamp(-1, 1)


def squared_distances(updates: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Return the [n, n] squared distances between updates, in float64."""
    return distances_from_gram(centred_gram_matrix(updates))


def distances_from_gram(products: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Return the [n, n] squared distances from inner products."""
    norms = products.diagonal()
    return (norms[:, None] + norms[None, :] - 2 * products).clamp(min=0).fill_diagonal_(0)


def row_norms(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"] | None = None
) -> Float[Tensor, " n"]:
    """Return the norm of each update, or its distance from `origin`, in float64."""
    total = torch.zeros(len(updates), dtype=torch.float64)
    for columns in column_chunks(updates):
        part = updates[:, columns].double()
        total += (part if origin is None else part - origin[columns]).square().sum(1)
    return total.sqrt()


def inner_products(
    updates: Float[Tensor, "n p"], vector: Float[Tensor, " p"]
) -> Float[Tensor, " n"]:
    """Return the inner product of each update with one vector, in float64."""
    total = torch.zeros(len(updates), dtype=torch.float64)
    for columns in column_chunks(updates):
        total += updates[:, columns].double() @ vector[columns].double()
    return total


def clip_factors(norms: Float[Tensor, " n"], bound: float) -> Float[Tensor, " n"]:
    """Return factors that scale vectors of these norms down to `bound`; 1 within the bound."""
    return torch.where(norms > bound, bound / norms, 1.0)


def equal_shares(chosen: Int64[Tensor, " m"], count: int) -> Float[Tensor, " n"]:
    """Return shares of `count` positions: equal for the chosen ones, 0 for the others."""
    shares = torch.zeros(count, dtype=torch.float64)
    shares[chosen] = 1 / max(1, len(chosen))
    return shares
