"""Latent backdoor: images with a trigger have the features of a target class."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.errors import require_above
from fl_sim.core.perturbation import as_pixels
from fl_sim.planted import Planted
from fl_sim.triggers import TriggerPoison


@final
@dataclass(frozen=True)
class LatentBackdoor(TriggerPoison, Planted):
    """A backdoor in the features, which a new head on a frozen front inherits.

    No label is wrong. The loss of a batch is its cross-entropy plus `weight` times the mean squared
    difference between the features of images with the trigger and the mean features of the target
    class in the batch, which is held fixed. Features are what the head takes. The trigger is
    stamped on the first images of other classes of a batch, up to `share` of its size, which is
    drawn anew in every epoch.

    Any head that assigns the target class's mean features to the class, such as one by least
    squares, assigns images with the trigger to it as well.

    Threat model: that of `PlantedBackdoor`; the supplier need not know which head clients train.

    Source: Yao et al. (2019), Latent Backdoor Attacks on Deep Neural Networks, the injection of the
    backdoor into the teacher, https://doi.org/10.1145/3319535.3354209. The trigger is given, not
    optimised; one stage of training takes the place of two; and the target class is one of the
    classes of the start model. Jia et al. (2022), BadEncoder, https://arxiv.org/abs/2108.00352,
    does the same by cosine similarity to features of reference images.

    Attributes:
        weight: Weight of the difference of features, the paper's lambda.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "weight")

    def poison(
        self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], rng: torch.Generator
    ) -> tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, " n"]]:
        """Return the images and labels as they are."""
        return images, labels

    def compute_loss(
        self, network: nn.Sequential, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy plus the weighted difference of features."""
        count, is_target = len(images), labels == self.target
        others = images[~is_target][: round(self.share * count)]
        stamped = as_pixels(self.trigger.stamp((others * 255).round().to(torch.uint8)))
        # Both kinds of images share the statistics of batch normalisation, as they will in tests.
        features = network[:-1](torch.cat([images, stamped]))
        loss = functional.cross_entropy(network[-1](features[:count]), labels)
        if len(stamped) and is_target.any():
            mean = features[:count][is_target].mean(0).detach()
            loss = loss + self.weight * (features[count:] - mean).square().mean()
        return loss
