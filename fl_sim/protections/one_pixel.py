"""One-pixel shortcuts: one pixel a class is enough."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import Protection
from fl_sim.core import serialization
from fl_sim.core.perturbation import check_radius
from fl_sim.core.seeding import generator

FLAT = 1e-3  # added to a variance: pixels that never change would divide by zero


@final
@dataclass(frozen=True)
class OnePixel(Protection):
    """One pixel of each class is set to one colour, in all its images (OPS).

    The pixel and the colour are those that change the class most, and most evenly. Two classes
    never share both, which on black borders they otherwise would. Survives adversarial
    training; cut-out, JPEG and median filters remove it.

    Source: Wu et al. (2023), One-Pixel Shortcut, https://arxiv.org/abs/2205.12141. How evenly a
    pixel changes is judged by the variance over images of the mean over channels, after the
    paper's formula; the authors' code takes the standard deviation over images and channels.
    Both add 0.001 here, so that pixels that never change are not divided by 0.

    Attributes:
        radius: farthest that the one pixel moves, in pixels of [0, 1]; 1: to the colour itself.
        score: what the mean change is divided by: `variance`, or `deviation` as in the authors'
            code.
    """

    radius: float = 1.0
    score: Literal["variance", "deviation"] = serialization.omit_if_default("variance")
    short: ClassVar[str] = "ops"

    def __post_init__(self) -> None:
        serialization.check_types(self)
        check_radius(self.radius)

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Search each class's pixel and colour, and move that pixel in all its images."""
        channels, width = images.shape[1], images.shape[3]
        colours = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * channels).view(-1, channels)
        order = torch.randperm(
            len(colours) * images[0, 0].numel(), generator=generator(seed, "ops")
        )
        taken = torch.zeros(len(order), dtype=torch.bool)
        noise = torch.zeros_like(images)
        for label in labels.unique().tolist():
            own = (labels == label).nonzero().squeeze(1)
            score = score_pixels(images[own], colours, self.score).flatten()
            score[taken] = -1
            best = order[score[order].argmax()]  # ties are broken by the seed
            taken[best] = True
            colour, pixel = divmod(int(best), images[0, 0].numel())
            row, column = divmod(pixel, width)
            moved = colours[colour] - images[own, :, row, column]
            noise[own, :, row, column] = moved.clamp(-self.radius, self.radius)
        return noise


def score_pixels(
    images: Float[Tensor, "n c h w"],
    colours: Float[Tensor, "v c"],
    score: Literal["variance", "deviation"] = "variance",
) -> Float[Tensor, "v q"]:
    """Return how far each colour at each pixel is from the images, over how much that varies.

    The mean over images of the mean absolute difference over channels, divided by its variance;
    or the mean over images and channels of the absolute difference, by its standard deviation.
    """
    found = []
    for colour in colours:
        distance = (images - colour.view(1, -1, 1, 1)).abs().flatten(2)
        if score == "variance":
            distance = distance.mean(1)
            spread = distance.var(0, unbiased=False)
        else:
            distance = distance.flatten(0, 1)
            spread = distance.std(0, unbiased=False)
        found.append(distance.mean(0) / (spread + FLAT))
    return torch.stack(found)
