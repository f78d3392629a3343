"""Cut-mix: boxes of other images, with their share of the label."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Augmentation, Images
from fl_sim.core.errors import require_above
from fl_sim.countermeasures.cut_out import make_boxes
from fl_sim.countermeasures.mix_up import draw_beta


@final
@dataclass(frozen=True)
class CutMix(Augmentation):
    """Replacement of a box of each image by that of another one, with its share of the label.

    Source: Yun et al. (2019), section 3.1, https://arxiv.org/abs/1905.04899; one box per batch,
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
        """Return the mixed batch, and its targets weighted by area."""
        height, width = images.shape[2:]
        side = math.sqrt(1 - draw_beta(self.alpha, rng))
        sizes = torch.tensor([[int(height * side)], [int(width * side)]])
        row = torch.randint(0, height, (1,), generator=rng)
        column = torch.randint(0, width, (1,), generator=rng)
        mask = make_boxes(row, column, sizes[0], sizes[1], height, width)
        other = torch.randperm(len(images), generator=rng)
        share = 1 - float(mask.float().mean())
        mixed = torch.where(mask, images[other], images)
        return mixed, share * targets + (1 - share) * targets[other]
