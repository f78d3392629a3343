"""Label flipping: honest training on wrong labels."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from clients._shared.poisoning import select_share
from clients._shared.wrapping import Wrapper
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Shard
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator


@final
@dataclass(frozen=True)
class LabelFlipClient(Wrapper):
    """Train on wrong labels.

    Threat model: the attacker controls its own data and nothing else.

    Source: Fang et al. (2020), section 5.1 (mirrored labels), https://arxiv.org/abs/1911.11815;
    Tolpegin et al. (2020) (from a source to a target class), https://arxiv.org/abs/2007.08432.

    Attributes:
        labels: Kind of flip: `mirror` maps y to C - 1 - y, `random` draws another class for each
            image, `targeted` maps the source class to the target class.
        share: Share of the images concerned with wrong labels, the same in each round.
        source, target: Source and target class of a `targeted` flip.
        honest: Training on the wrong labels.
    """

    action: ClassVar[str] = "flip labels"

    labels: Literal["mirror", "random", "targeted"] = "mirror"
    share: float = 1.0
    source: int = 1
    target: int = 0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.share <= 1, "share", "in (0, 1]", self.share)
        require(self.source >= 0, "source", "the number of a class, from 0", self.source)
        differ = self.target >= 0 and self.target != self.source
        require(differ, "target", f"the number of a class other than {self.source}", self.target)

    def named_classes(self) -> dict[str, int]:
        """Return the source and the target."""
        return {"source": self.source, "target": self.target}

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place on the wrong labels."""
        return self.honest.train(model, replace(shard, labels=self._flip_labels(shard)), rng)

    def _flip_labels(self, shard: Shard) -> Int64[Tensor, " n"]:
        """Return the labels with a share of them wrong."""
        concerned = torch.arange(len(shard))
        if self.labels == "targeted":
            concerned = (shard.labels == self.source).nonzero().squeeze(1)
        if len(concerned) == 0:
            return shard.labels
        rows = select_share(shard, self.share, "label flip", among=concerned)
        labels = shard.labels.clone()
        labels[rows] = self._draw_wrong_labels(shard)[rows]
        return labels

    def _draw_wrong_labels(self, shard: Shard) -> Int64[Tensor, " n"]:
        """Return a wrong label for every image."""
        if self.labels == "targeted":
            return torch.full_like(shard.labels, self.target)
        if self.labels == "mirror":
            return shard.num_classes - 1 - shard.labels
        rng, count = generator(shard.client, "random labels"), shard.num_classes
        return (shard.labels + torch.randint(1, count, (len(shard),), generator=rng)) % count
