"""Training on the hardest of several strong augmentations (UEraser-style)."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fl_sim.contracts import Images, WorstCase
from fl_sim.core.errors import require, require_at_least
from fl_sim.core.plasma import draw_plasma, draw_uniform
from fl_sim.core.seeding import seed_torch
from fl_sim.core.transforms import draw_crop_flip

INTENSITY = (0.5, 1.0)  # factor of the plasma of brightness
CONTRAST = 4.0  # largest factor of the contrast, where the plasma is 1


@final
@dataclass(frozen=True)
class WorstAugmentation(WorstCase):
    """The augmentation with the largest loss of several random strong ones, per image.

    Each draw adds a plasma of brightness to half of the images, multiplies the contrast of half
    of them by another plasma, from 0 to 4, shuffles the channels of half of them, and crops and
    flips all. Losses are compared in the network's training mode, on all draws as one batch, as
    in the authors' code; its statistics are not changed.

    Source: Qin et al. (2023), Learning the Unlearnable (UEraser),
    https://arxiv.org/abs/2303.15127; ranges as in the authors' code, which takes its plasmas from
    Kornia. Theirs also ends with Kornia's TrivialAugment, which is left out here, and leaves crops
    and flips to the loader. After the first 60 of 200 epochs the authors use a single draw
    (`draws=1`).

    Attributes:
        draws: Number of augmentations per image, of which the hardest is trained on.
        strength: Strength of both plasmas, from 0 for none to 1 for the authors' ranges.
        padding: Largest shift of the crops, in pixels.
        probability: Probability of each plasma, per image; 0.5 in the authors' library, 1 in
            their experiments on error-minimising noise.
    """

    draws: int = 5
    strength: float = 1.0
    padding: int = 4
    probability: float = 0.5  # not `omit_if_default`: it changed the results

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "draws")
        require(0 <= self.strength <= 1, "strength", "between 0 and 1", self.strength)
        require_at_least(self, 0, "padding")
        share = self.probability
        require(0 <= share <= 1, "probability", "between 0 and 1", share)

    def find_worst(
        self, model: nn.Module, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
    ) -> Images:
        """Return the hardest version of each image."""
        versions = torch.stack([self._augment(images, rng) for _ in range(self.draws)])
        if self.draws == 1:
            return versions[0]
        losses = _losses(model, versions.flatten(0, 1), targets.repeat(self.draws, 1), rng)
        hardest = losses.view(self.draws, len(images)).argmax(0)
        return versions[hardest, torch.arange(len(images))]

    def _augment(self, images: Images, rng: torch.Generator) -> Images:
        """Return one random augmentation of each image."""
        brighter = images + self.strength * _draw_brightness(images, rng)
        images = torch.where(self._draw_mask(images, rng), brighter.clamp(0, 1), images)
        factor = 1 + self.strength * (CONTRAST * draw_plasma(images, rng) - 1)
        stretched = ((images - 0.5) * factor + 0.5).clamp(0, 1)
        images = torch.where(self._draw_mask(images, rng), stretched, images)
        channels = torch.rand(images.shape[:2], generator=rng).argsort(1)
        shuffled = images.gather(1, channels[:, :, None, None].expand_as(images))
        coins = torch.rand(len(images), 1, 1, 1, generator=rng) < 0.5
        images = torch.where(coins, shuffled, images)
        return draw_crop_flip(len(images), self.padding, True, rng)(images)

    def _draw_mask(self, images: Images, rng: torch.Generator) -> Bool[Tensor, "n 1 1 1"]:
        return torch.rand(len(images), 1, 1, 1, generator=rng) < self.probability


@torch.no_grad()
def _losses(
    model: nn.Module, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
) -> Float[Tensor, " n"]:
    """Return the losses in the network's current mode, without changing buffers or generators."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with seed_torch(int(torch.randint(2**62, (1,), generator=rng)), "dropout"):
        scores: Tensor = functional_call(model, buffers, (images,))
    return functional.cross_entropy(scores, targets, reduction="none")


def _draw_brightness(images: Images, rng: torch.Generator) -> Images:
    """Return plasmas from -1 to 1, times a random intensity per image."""
    return draw_uniform(*INTENSITY, len(images), rng) * (2 * draw_plasma(images, rng) - 1)
