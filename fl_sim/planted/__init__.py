"""Recipes of start models with a backdoor or a bias; each file of this package adds one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.serialization import TypeChecked
from fl_sim.triggers import Backdoor


@dataclass(frozen=True, kw_only=True)
class Planted(TypeChecked, ABC):
    """A start model that is trained on poisoned images before the first round.

    The whole network is trained, with SGD (momentum 0.9, weight decay 5e-4), on images that no
    client holds. Its weights depend on the seed of the run, and are cached.

    Attributes:
        base: Weights that the training starts from: a `random` start, `pretrained` ones, or those
            of `model.checkpoint`.
        num_images: Number of images, balanced over the classes; None: all there are.
        dataset: Dataset of the images; None: the training images of the run's dataset that are
            left out of its subset (`data.num_samples`).
        path: Folder of the files of `dataset`; None: the usual places.
        epochs: Number of passes over the images.
        learning_rate: Learning rate of the head; the pretrained layers have `model.backbone_rate`
            times as much. It falls to a tenth at half of the epochs, and again at three quarters.
        batch_size: Number of images per step.
    """

    base: Literal["random", "pretrained", "checkpoint"] = "random"
    num_images: int | None = None
    dataset: str | None = None
    path: str | None = None
    epochs: int = 10
    learning_rate: float = 0.05
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "epochs")
        require_at_least(self, 2, "batch_size")
        require_above(self, 0, "learning_rate")
        count = self.num_images
        require(count is None or count >= 2, "num_images", "at least 2, or None for all", count)
        needless = self.path is not None and self.dataset is None
        require(not needless, "path", "None without a dataset of its own", self.path)

    @abstractmethod
    def poison(
        self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], rng: torch.Generator
    ) -> tuple[UInt8[Tensor, "m c h w"], Int64[Tensor, " m"]]:
        """Return the images and labels to train on, in any number, without changing these."""

    def compute_loss(
        self, network: nn.Sequential, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Return the loss of a batch; the last stage of `network` is its head."""
        return functional.cross_entropy(network(images), labels)

    def backdoor(self) -> Backdoor | None:
        """Return the trigger that the start model reacts to and its target class, or None."""
        return None

    def named_classes(self) -> dict[str, int]:
        """Return the classes that the data must have, by field name."""
        return {}


def draw_share(count: int, share: float, rng: torch.Generator) -> Int64[Tensor, " k"]:
    """Return a random share of the numbers below `count`, rounded."""
    return torch.randperm(count, generator=rng)[: round(share * count)]
