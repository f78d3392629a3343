"""The hardest of several strong augmentations (UEraser-style)."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fl_sim import description
from fl_sim.contracts import WorstCase
from fl_sim.errors import require
from fl_sim.models.modes import at_rest
from fl_sim.transforms import draw_crop_flip

OCTAVES = (2, 4, 8)  # grids of the cloud, coarse to fine


@final
@dataclass(frozen=True)
class WorstAugmentation(WorstCase):
    """Of several random strong augmentations of an image, the one with the largest loss.

    Each is a cloud of brightness, a cloud of contrast, a shuffle of the channels for half of
    the images, and a crop and flip.

    Source: Qin et al. (2023), Learning the Unlearnable (UEraser),
    https://arxiv.org/abs/2303.15127; the fractal clouds are sums of three smooth grids here, and
    TrivialAugment is left out.

    Attributes:
        draws: augmentations an image, of which the hardest is kept.
        strength: of the clouds, from 0 to 1.
        padding: of the crops.
    """

    draws: int = 5
    strength: float = 0.5
    padding: int = 4

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.draws >= 1, "draws", "at least 1", self.draws)
        require(0 <= self.strength <= 1, "strength", "between 0 and 1", self.strength)
        require(self.padding >= 0, "padding", "at least 0", self.padding)

    def worst(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        targets: Float[Tensor, "n y"],
        rng: torch.Generator,
    ) -> Float[Tensor, "n c h w"]:
        """Return the hardest version of each image."""
        hardest = images
        largest = torch.full((len(images),), -torch.inf)
        with at_rest(model) as still, torch.no_grad():
            for _ in range(self.draws):
                drawn = self._drawn(images, rng)
                loss = functional.cross_entropy(still(drawn), targets, reduction="none")
                harder = loss > largest
                hardest = torch.where(harder.view(-1, 1, 1, 1), drawn, hardest)
                largest = torch.where(harder, loss, largest)
        return hardest

    def _drawn(
        self, images: Float[Tensor, "n c h w"], rng: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        brightness, contrast = (self.strength * cloud(images, rng) for _ in range(2))
        seen = ((images - 0.5) * (1 + contrast) + 0.5 + brightness).clamp(0, 1)
        order = torch.rand(images.shape[:2], generator=rng).argsort(1)
        kept = torch.rand(len(images), 1, generator=rng) < 0.5
        order = torch.where(kept, torch.arange(images.shape[1]), order)
        shuffled = seen.gather(1, order[:, :, None, None].expand_as(seen))
        return draw_crop_flip(len(images), self.padding, True, rng)(shuffled)


def cloud(images: Float[Tensor, "n c h w"], rng: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Return one smooth random field an image, in [-1, 1]: grids from coarse to fine, halved."""
    total = torch.zeros(len(images), 1, *images.shape[2:])
    for octave, side in enumerate(OCTAVES):
        grid = 2 * torch.rand(len(images), 1, side, side, generator=rng) - 1
        size = (images.shape[2], images.shape[3])
        smooth = functional.interpolate(grid, size, mode="bilinear", align_corners=True)
        total = total + smooth * 2.0**-octave
    largest = sum(2.0**-octave for octave in range(len(OCTAVES)))
    return (total / largest).clamp(-1, 1)
