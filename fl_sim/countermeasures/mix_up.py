"""Mix-up: convex combinations of images and of labels."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Augmentation, Images
from fl_sim.core.errors import require_above
from fl_sim.core.seeding import numpy_generator


@final
@dataclass(frozen=True)
class MixUp(Augmentation):
    """Blending of each image and its label with another of the batch.

    Source: Zhang et al. (2018), section 2, https://arxiv.org/abs/1710.09412; one share per batch,
    as in the authors' code.

    Attributes:
        alpha: Parameter of the Beta(alpha, alpha) distribution of the share; 1 is uniform.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "alpha")

    def augment(
        self, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
    ) -> tuple[Images, Float[Tensor, "n y"]]:
        """Return the blended images and targets."""
        share = draw_beta(self.alpha, rng)
        other = torch.randperm(len(images), generator=rng)
        mixed = share * images + (1 - share) * images[other]
        return mixed, share * targets + (1 - share) * targets[other]


def draw_beta(alpha: float, rng: torch.Generator) -> float:
    """Return a draw from Beta(alpha, alpha), by NumPy: torch's takes no generator."""
    seed = int(torch.randint(2**62, (1,), generator=rng))
    return float(numpy_generator(seed, "beta").beta(alpha, alpha))
