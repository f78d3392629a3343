"""Cut-out: black squares in the images."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim.contracts import Augmentation, Images
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class CutOut(Augmentation):
    """A black square at a random position of each image, which may reach over the border.

    Source: DeVries and Taylor (2017), section 3, https://arxiv.org/abs/1708.04552.

    Attributes:
        side: Side of the square, as a share of the shorter side of the image.
    """

    side: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.side <= 1, "side", "in (0, 1]", self.side)

    def augment(
        self, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
    ) -> tuple[Images, Float[Tensor, "n y"]]:
        """Return the batch with a black square in each image."""
        count, _, height, width = images.shape
        side = max(1, round(self.side * min(height, width)))
        rows = torch.randint(0, height, (count,), generator=rng)
        columns = torch.randint(0, width, (count,), generator=rng)
        sides = torch.tensor(side).expand(count)
        return images.masked_fill(
            make_boxes(rows, columns, sides, sides, height, width), 0
        ), targets


def make_boxes(
    rows: Int64[Tensor, " n"],
    columns: Int64[Tensor, " n"],
    heights: Int64[Tensor, " n"],
    widths: Int64[Tensor, " n"],
    height: int,
    width: int,
) -> Bool[Tensor, "n 1 h w"]:
    """Return a mask of one box per image, given by centre and size and cut at the border."""
    down, across = torch.arange(height), torch.arange(width)
    top, left = rows - heights // 2, columns - widths // 2
    inside_rows = (down >= top[:, None]) & (down < (top + heights)[:, None])
    inside_columns = (across >= left[:, None]) & (across < (left + widths)[:, None])
    return (inside_rows[:, :, None] & inside_columns[:, None, :]).unsqueeze(1)
