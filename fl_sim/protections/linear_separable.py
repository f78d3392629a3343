"""Linearly separable perturbations: synthetic noise that a linear model can tell apart."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import Protection
from fl_sim.errors import require
from fl_sim.perturbation import check_radius
from fl_sim.seeding import generator

SEPARATION = 10.0  # half the side of the hypercube whose corners are the class centres


@final
@dataclass(frozen=True)
class LinearSeparable(Protection):
    """Patches of constant grey or colour, drawn around one hypercube corner a class (LSP).

    Needs no surrogate. A network finds the patches sooner than the objects, and stops looking.

    Source: Yu et al. (2022), Availability Attacks Create Shortcuts, algorithm 1,
    https://arxiv.org/abs/2111.00898; also called synthetic or shortcut noise (SC).

    Attributes:
        radius: root mean square of an image's noise, in pixels of [0, 1]; the paper uses
            6 / 255. Single pixels go about twice as far.
        patch: side of a patch in pixels; 7 divides 28, 8 divides 32.
    """

    radius: float = 6 / 255
    patch: int = 7
    norm: ClassVar[Literal["linf", "l2"]] = "l2"
    short: ClassVar[str] = "lsp"

    def __post_init__(self) -> None:
        description.check_types(self)
        check_radius(self.radius)
        require(self.patch >= 1, "patch", "at least 1", self.patch)

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Draw one point an image around its class's corner, and spread it over the patches."""
        count, channels, height, width = images.shape
        rows, columns = -(-height // self.patch), -(-width // self.patch)
        size, num_classes = channels * rows * columns, int(labels.max()) + 1
        rng = generator(seed, "linear_separable")
        corners = SEPARATION * (
            2.0 * torch.randint(0, 2, (num_classes, size), generator=rng).float() - 1
        )
        mixing = 2 * torch.rand(num_classes, size, size, generator=rng) - 1
        drawn = torch.randn(count, 1, size, generator=rng)
        points = torch.empty(count, size)
        for own in range(num_classes):
            points[labels == own] = (drawn[labels == own] @ mixing[own]).squeeze(1) + corners[own]
        patches = points.view(count, channels, rows, columns)
        spread = patches.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        noise = spread[:, :, :height, :width]
        return self.radius * noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
