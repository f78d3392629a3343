"""Orthogonal projection: take out of the images what a linear model learns from them."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from fl_sim import description
from fl_sim.contracts import Filter
from fl_sim.errors import require
from fl_sim.perturbation import as_pixels


@final
@dataclass(frozen=True)
class OrthogonalProjection(Filter):
    """The directions of a linear classifier are removed from all images.

    A linear model finds class-wise noise first; what is left is trained on. Against sample-wise
    noise it does little.

    Source: Sandoval-Segura et al. (2023), What Can We Learn from Unlearnable Datasets?, section
    4.3, https://arxiv.org/abs/2305.19254; the result is clipped and rounded to 8 bits here.

    Attributes:
        epochs, learning_rate, batch_size: of the linear model (SGD, momentum 0.9).
    """

    epochs: int = 20
    learning_rate: float = 0.1
    batch_size: int = 128

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)

    def filtered(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
        rng: torch.Generator,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images without the directions of the classifier."""
        if len(images) == 0:
            return images
        rows = as_pixels(images).flatten(1)
        basis = torch.linalg.qr(self._weights(rows, labels, rng)).Q
        left: Tensor = rows - rows @ basis @ basis.T
        return (left * 255).round().clamp(0, 255).to(torch.uint8).view_as(images)

    def _weights(
        self, rows: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], rng: torch.Generator
    ) -> Float[Tensor, "d y"]:
        """Return the weights of a linear model, from a start at 0."""
        weights = torch.zeros(rows.shape[1], int(labels.max()) + 1, requires_grad=True)
        optimizer = torch.optim.SGD([weights], self.learning_rate, momentum=0.9)
        for _ in range(self.epochs):
            for own in torch.randperm(len(rows), generator=rng).split(self.batch_size):
                optimizer.zero_grad()
                functional.cross_entropy(rows[own] @ weights, labels[own]).backward()
                optimizer.step()
        return weights.detach()
