"""Random fractals, which serve as clouds of brightness, as fog and as textures."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

ROUGHNESS = (0.3, 0.7)  # factor of a plasma's randomness on each finer grid
Images = Float[Tensor, "n c h w"]


def draw_plasma(images: Images, rng: torch.Generator) -> Images:
    """Return a random fractal for each channel of each image, in [0, 1].

    A grid of 3 x 3 points is refined until it covers the image. Each new point is a mixture of
    the mean of its neighbours and a uniform draw, whose share is multiplied by the roughness on
    every finer grid; the roughness of an image is uniform from 0.3 to 0.7. The corners of the
    first grid are uniform, and its other points are means of their neighbours.

    Source: the diamond-square algorithm, Fournier, Fussell and Carpenter (1982), Computer
    Rendering of Stochastic Models, with the mixture of Kornia's `diamond_square`.
    """
    count, channels, height, width = images.shape
    roughness = draw_uniform(*ROUGHNESS, count, rng).expand(count, channels, 1, 1).flatten(0, 1)
    grid = _draw_coarse_grid(count * channels, rng)
    share = torch.ones_like(roughness)
    while grid.shape[2] < max(height, width):
        share = share * roughness
        grid = _refine(grid, share, rng)
    return grid[:, :, :height, :width].reshape(count, channels, height, width)


def _draw_coarse_grid(count: int, rng: torch.Generator) -> Float[Tensor, "n 1 3 3"]:
    corners = torch.rand(count, 1, 2, 2, generator=rng)
    centre = corners.mean((2, 3), keepdim=True)
    grid = torch.zeros(count, 1, 3, 3)
    grid[:, :, ::2, ::2] = corners
    grid[:, :, 1:2, 1:2] = centre
    grid[:, :, 1:2, ::2] = (corners.sum(2, keepdim=True) + centre) / 3
    grid[:, :, ::2, 1:2] = (corners.sum(3, keepdim=True) + centre) / 3
    return grid


def _refine(
    grid: Float[Tensor, "n 1 s s"], share: Float[Tensor, "n 1 1"], rng: torch.Generator
) -> Float[Tensor, "n 1 t t"]:
    """Return the grid with a new point in the middle of each square and of each side."""
    side = 2 * grid.shape[2] - 1
    share = share.unsqueeze(1)
    noise = share * torch.rand(len(grid), 1, side, side, generator=rng)
    finer = torch.zeros_like(noise)
    finer[:, :, ::2, ::2] = grid
    centres = functional.avg_pool2d(grid, 2, stride=1)
    finer[:, :, 1::2, 1::2] = (1 - share) * centres + noise[:, :, 1::2, 1::2]
    means = _sum_neighbours(finer) / _sum_neighbours(torch.ones(1, 1, side, side))
    rows = torch.arange(side)
    on_side = (rows[:, None] + rows) % 2 == 1
    return torch.where(on_side, (1 - share) * means + noise, finer)


def _sum_neighbours(grid: Float[Tensor, "n 1 s s"]) -> Float[Tensor, "n 1 s s"]:
    """Return the sum over the points above, below, left and right, within the grid."""
    padded = functional.pad(grid, (1, 1, 1, 1))
    vertical = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1]
    return vertical + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]


def draw_uniform(
    low: float, high: float, count: int, rng: torch.Generator
) -> Float[Tensor, "n 1 1 1"]:
    """Return a uniform number from `low` to `high` for each image of a batch."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=rng)
