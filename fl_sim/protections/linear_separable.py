"""Linearly separable perturbations: synthetic noise that a linear model can classify."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Int64
from torch import Tensor

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core.errors import require, require_at_least
from fl_sim.core.seeding import generator

SEPARATION = 10.0  # half the side of the hypercube whose corners are the class centres
MAX_PATCHES = 2**14  # per image, in all channels: the mixing matrix of a class takes 1 GiB


@final
@dataclass(frozen=True)
class LinearSeparable(Protection):
    """Patches of constant grey or colour, drawn around one hypercube corner per class (LSP).

    Needs no surrogate. A network learns the patches as a shortcut instead of the objects.

    Source: Yu et al. (2022), Availability Attacks Create Shortcuts, algorithm 1,
    https://arxiv.org/abs/2111.00898; also called synthetic or shortcut noise (SC). Corners are
    drawn without replacement, as in scikit-learn's `make_classification`, which the authors use;
    so there must be at least as many as classes: 2^(number of patches in all channels).

    Attributes:
        radius: Root mean square of an image's noise, in [0, 1]; the paper uses 6/255. Single
            pixels change about twice as much.
        patch: Side of a patch in pixels; 7 divides 28, 8 divides 32.
    """

    radius: float = 6 / 255
    patch: int = 7
    norm: ClassVar[Literal["linf", "l2"]] = "l2"
    short: ClassVar[str] = "lsp"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "patch")

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Refuse patches for which there are fewer corners than classes, or too many patches."""
        size = math.prod(self._patch_grid(image_shape))
        few = f"so large that an image has at most {MAX_PATCHES} patches in all channels"
        require(size <= MAX_PATCHES, "patch", f"{few}, not {size}", self.patch)
        allowed = f"so small that 2^{size}, with {size} patches an image, is at least {num_classes}"
        require(size >= 64 or 2**size >= num_classes, "patch", f"{allowed} classes", self.patch)

    def _patch_grid(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the number of channels, and of rows and columns of patches."""
        channels, height, width = image_shape
        return channels, -(-height // self.patch), -(-width // self.patch)

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return one random point per image around its class's corner, spread over the patches."""
        count, channels, height, width = images.shape
        _, rows, columns = self._patch_grid((channels, height, width))
        size, num_classes = channels * rows * columns, int(labels.max()) + 1
        rng = generator(seed, "linear_separable")
        drawn_corners = torch.randint(0, 2, (num_classes, size), generator=rng)
        corners = SEPARATION * (2.0 * _make_distinct(drawn_corners, seed).float() - 1)
        # The points are drawn after all matrices, which may not fit into memory at once: the
        # matrices are drawn twice, and the second time one after another from a copied state.
        again = torch.Generator().set_state(rng.get_state())
        for _ in range(num_classes):
            torch.rand(size, size, generator=rng)
        drawn = torch.randn(count, 1, size, generator=rng)
        points = torch.empty(count, size)
        for label in range(num_classes):
            mixing, rows_of_class = 2 * torch.rand(size, size, generator=again) - 1, labels == label
            points[rows_of_class] = (drawn[rows_of_class] @ mixing).squeeze(1) + corners[label]
        patches = points.view(count, channels, rows, columns)
        spread = patches.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        noise = spread[:, :, :height, :width]
        return self.radius * noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()


def _make_distinct(corners: Int64[Tensor, "y d"], seed: int) -> Int64[Tensor, "y d"]:
    """Return the corners, with every repeated one drawn again until it is new.

    The result is uniform without replacement. There must be enough corners.
    """
    rng = generator(seed, "linear_separable", "corners")
    chosen: dict[tuple[int, ...], None] = {}  # in the order of the classes
    for first in corners.tolist():
        corner = tuple(first)
        while corner in chosen:
            corner = tuple(torch.randint(0, 2, (len(first),), generator=rng).tolist())
        chosen[corner] = None
    return torch.tensor(list(chosen))
