"""Autoregressive noise: a linear recurrence over pixels, one a class."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import Protection
from fl_sim.perturbation import check_radius
from fl_sim.seeding import generator

WINDOW = 3
CROP = 4  # rows and columns at the start of the recurrence that are thrown away
CANDIDATES = 64  # recurrences that are tried at once
PROBE = 32  # side on which a candidate has to stay even


@final
@dataclass(frozen=True)
class Autoregressive(Protection):
    """Noise in which each pixel follows from its eight neighbours above and to the left (AR).

    The coefficients belong to a class and channel, and the start of the recurrence to an image:
    a convolution can tell classes apart although no two images carry the same noise. Needs no
    surrogate.

    Source: Sandoval-Segura et al. (2022), Autoregressive Perturbations, section 3,
    https://arxiv.org/abs/2206.03693. The paper ships coefficients; these are drawn, and drawn
    again until the recurrence neither grows nor dies out.

    Attributes:
        radius: root mean square of an image's noise, in pixels of [0, 1]; the paper's L2 norm
            of 1 on 3 x 32 x 32 pixels is 4.6 / 255. Single pixels go several times as far.
    """

    radius: float = 4.6 / 255
    norm: ClassVar[Literal["linf", "l2"]] = "l2"
    short: ClassVar[str] = "ar"

    def __post_init__(self) -> None:
        description.check_types(self)
        check_radius(self.radius)

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Run each image's recurrence, all images at once, and scale it to the radius."""
        count, channels, height, width = images.shape
        coefficients = torch.stack(
            [
                torch.stack([_even_coefficients(seed, label, c) for c in range(channels)])
                for label in range(int(labels.max()) + 1)
            ]
        )
        rng = generator(seed, "autoregressive", "start")
        start = torch.randn(count, channels, height + CROP, width + CROP, generator=rng).double()
        signal = recurrence(start, coefficients[labels])[:, :, CROP:, CROP:].float()
        return self.radius * signal / signal.square().mean((1, 2, 3), keepdim=True).sqrt()


def recurrence(
    start: Float[Tensor, "n c h w"], coefficients: Float[Tensor, "n c 3 3"]
) -> Float[Tensor, "n c h w"]:
    """Return the signal: the first rows and columns as given, the rest from its neighbours.

    Each pixel is the sum of the 3 x 3 window that ends in it, times the coefficients, of which
    the last one is 0.
    """
    signal, edge = start.clone(), WINDOW - 1
    for row in range(edge, start.shape[2]):
        for column in range(edge, start.shape[3]):
            window = signal[:, :, row - edge : row + 1, column - edge : column + 1]
            signal[:, :, row, column] = (window * coefficients).sum((2, 3))
    return signal


def _even_coefficients(seed: int, label: int, channel: int) -> Float[Tensor, "3 3"]:
    """Draw coefficients until a recurrence neither grows nor dies out."""
    rng = generator(seed, "autoregressive", label, channel)
    while True:
        drawn = torch.randn(CANDIDATES, 1, WINDOW, WINDOW, generator=rng).double()
        drawn[:, :, -1, -1] = 0
        drawn = drawn / drawn.sum((2, 3), keepdim=True)
        start = torch.randn(CANDIDATES, 1, PROBE, PROBE, generator=rng).double()
        signal = recurrence(start, drawn)
        late = signal[:, :, PROBE // 2 :, PROBE // 2 :].square().mean((1, 2, 3)).sqrt()
        lively = signal[:, 0, -1].std(1)
        even = ((late > 0.2) & (late < 5) & (lively > 0.2)).nonzero()
        if len(even):
            return drawn[int(even[0]), 0]
