"""One-pixel shortcuts: one changed pixel per class."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core import serialization
from fl_sim.core.seeding import generator

FLAT = 1e-3  # added to a spread, which is 0 for constant pixels


@final
@dataclass(frozen=True)
class OnePixel(Protection):
    """One pixel per class that is set to one colour in all images of the class (OPS).

    Pixel and colour are those that change the images of the class most, and most evenly. No two
    classes share both, which black borders would otherwise cause. Survives adversarial training;
    cut-out, JPEG and median filters remove it.

    Source: Wu et al. (2023), One-Pixel Shortcut, https://arxiv.org/abs/2205.12141. The evenness
    of a change is the variance over images of the mean over channels, as in the paper's formula;
    the authors' code takes the standard deviation over images and channels. Here, 0.001 is added
    to both, since they are 0 for constant pixels.

    Attributes:
        radius: Largest change of the pixel, in [0, 1]; 1 sets it to the colour itself.
        score: Divisor of the mean change: `variance`, or `deviation` as in the authors' code.
    """

    radius: float = 1.0
    score: Literal["variance", "deviation"] = serialization.omit_if_default("variance")
    short: ClassVar[str] = "ops"

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return the change of the best pixel of each class towards the best colour."""
        channels, width = images.shape[1], images.shape[3]
        colours = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * channels).view(-1, channels)
        order = torch.randperm(
            len(colours) * images[0, 0].numel(), generator=generator(seed, "ops")
        )
        taken = torch.zeros(len(order), dtype=torch.bool)
        noise = torch.zeros_like(images)
        for label in labels.unique().tolist():
            rows = (labels == label).nonzero().squeeze(1)
            score = score_pixels(images[rows], colours, self.score).flatten()
            score[taken] = -1
            best = order[score[order].argmax()]  # ties are broken by the seed
            taken[best] = True
            colour, pixel = divmod(int(best), images[0, 0].numel())
            row, column = divmod(pixel, width)
            change = colours[colour] - images[rows, :, row, column]
            noise[rows, :, row, column] = change.clamp(-self.radius, self.radius)
        return noise


def score_pixels(
    images: Images,
    colours: Float[Tensor, "v c"],
    score: Literal["variance", "deviation"] = "variance",
) -> Float[Tensor, "v q"]:
    """Return the mean distance of each colour from each pixel, divided by the distance's spread.

    The mean over images of the mean absolute difference over channels, divided by its variance;
    or the mean over images and channels of the absolute difference, by its standard deviation.
    """
    pixel_scores = []
    for colour in colours:
        distance = (images - colour.view(1, -1, 1, 1)).abs().flatten(2)
        if score == "variance":
            distance = distance.mean(1)
            spread = distance.var(0, unbiased=False)
        else:
            distance = distance.flatten(0, 1)
            spread = distance.std(0, unbiased=False)
        pixel_scores.append(distance.mean(0) / (spread + FLAT))
    return torch.stack(pixel_scores)
