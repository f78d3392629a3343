"""Bucketing, in front of any rule."""

from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import AggregationRule
from fl_sim.errors import require
from fl_sim.seeding import generator
from strategies.median import CoordinateMedian
from strategies.mixing import aggregate_mixed


@final
@dataclass(frozen=True)
class Bucketing(AggregationRule):
    """Any rule, given the means of small random buckets of updates.

    Means differ less than updates do where shards differ, but one attacker spoils its whole
    bucket: withstands as many clients as the rule does among n / `bucket_size` updates.

    Source: Karimireddy et al. (2022), algorithm 1, https://arxiv.org/abs/2006.09365. A bucket
    has the mean weight of its clients. The buckets of a round depend on `seed`, the number of
    the round and the positions of the clients, on nothing that clients send.

    Attributes:
        bucket_size: updates in a bucket; the last may have fewer.
        rule: what aggregates the means.
        seed: names the random buckets.
    """

    bucket_size: int = 2
    rule: AggregationRule = field(default_factory=CoordinateMedian)
    seed: int = 0

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.bucket_size >= 1, "bucket_size", "at least 1", self.bucket_size)

    @property
    def min_updates(self) -> int:
        """The fewest that give as many buckets as the rule needs updates."""
        return self.bucket_size * (self.rule.min_updates - 1) + 1

    def initial_state(self, num_parameters: int) -> dict[str, Any]:
        """Return the number of rounds so far, none, and the state of the rule."""
        return {"round": 0, "rule": self.rule.initial_state(num_parameters)}

    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return what the rule makes of the means of this round's buckets."""
        self.check_count(updates)
        rng = generator(self.seed, "bucketing", state["round"])
        order = torch.randperm(len(updates), generator=rng)
        buckets = order.split(self.bucket_size)
        mixture = torch.zeros(len(buckets), len(updates), dtype=torch.float64)
        for row, members in zip(mixture, buckets, strict=True):
            row[members] = 1 / len(members)
        inner, step = aggregate_mixed(
            self.rule, state["rule"], mixture.matmul, updates, mixture @ weights.double()
        )
        return {"round": state["round"] + 1, "rule": inner}, step
