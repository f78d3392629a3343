"""Convolution-based unlearnable data: one blur per class."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator


@final
@dataclass(frozen=True)
class Convolution(Protection):
    """Blur of each class by its own random filter, drawn from a private key (CUDA).

    Needs no surrogate, survives adversarial training, and is visible. All channels of an image
    are filtered by the filter of its class, as in the authors' code; with one filter per channel,
    the ratios of the mean colours would reveal the class, and the noise would be partly a colour
    shortcut.

    Source: Sadasivan et al. (2023), CUDA, section 3, https://arxiv.org/abs/2303.04278.

    Attributes:
        radius: Largest change of a pixel, in [0, 1]; 1 for no bound, as in the paper.
        blur: Upper bound of the filter's entries, except for a random one, which is 1.
        kernel: Side of the filter in pixels, an odd number.
        per_channel: Whether each channel has its own filter; not in the paper.
    """

    radius: float = 1.0
    blur: float = 0.3
    kernel: int = 3
    per_channel: bool = False  # not `omit_if_default`: it changed the noise
    short: ClassVar[str] = "cuda"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.blur <= 1, "blur", "in (0, 1]", self.blur)
        odd = self.kernel >= 3 and self.kernel % 2 == 1
        require(odd, "kernel", "an odd number from 3", self.kernel)

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return the change from each image to its blur, which is scaled to a maximum of 1."""
        channels = images.shape[1]
        filters = self.draw_filters(int(labels.max()) + 1, channels, seed)
        blurred = torch.empty_like(images)
        for label in labels.unique().tolist():
            rows, weights = labels == label, filters[label].unsqueeze(1)
            blurred[rows] = functional.conv2d(
                images[rows], weights, padding=self.kernel // 2, groups=channels
            )
        return blurred / blurred.amax((1, 2, 3), keepdim=True).clamp(min=1e-6) - images

    def draw_filters(self, num_classes: int, channels: int, seed: int) -> Float[Tensor, "y c k k"]:
        """Return random filters, one per class unless `per_channel`; the seed is the key."""
        rng = generator(seed, "convolution")
        shape = (num_classes, channels if self.per_channel else 1, self.kernel**2)
        drawn = self.blur * torch.rand(shape, generator=rng)
        ones = torch.randint(0, self.kernel**2, (*shape[:2], 1), generator=rng)
        filters = drawn.scatter(2, ones, 1.0).view(*shape[:2], self.kernel, self.kernel)
        return filters.expand(num_classes, channels, self.kernel, self.kernel)
