"""Bucketing before any rule."""

from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext, Updates, Weights
from fl_sim.core.errors import require_at_least
from fl_sim.core.seeding import generator
from fl_sim.core.sums import column_chunks
from strategies._shared.mixing import WrappingRule, decide_mixed, trace_back
from strategies.median import CoordinateMedian


@final
@dataclass(frozen=True)
class Bucketing(WrappingRule):
    """Any rule, applied to the means of small random buckets of updates.

    Bucket means vary less than updates of heterogeneous shards, but one attacker contaminates its
    whole bucket: tolerates as many clients as the rule does among n / `bucket_size` updates.

    Source: Karimireddy et al. (2022), algorithm 1, https://arxiv.org/abs/2006.09365. A bucket has
    the mean weight, number of steps, loss and further vectors of its clients, and the number of its
    first client. The buckets depend on the run's seed, the round and the clients that take part,
    and on nothing that clients send.

    Attributes:
        bucket_size: Number of updates in a bucket; the last bucket may have fewer.
        rule: Rule that aggregates the means.
    """

    bucket_size: int = 2
    rule: AggregationRule = field(default_factory=CoordinateMedian)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "bucket_size")

    @property
    def min_updates(self) -> int:
        """Smallest number of updates that gives as many buckets as the rule needs."""
        return self.bucket_size * (self.rule.min_updates - 1) + 1

    @property
    def max_updates(self) -> int | None:
        """Largest number of updates that gives no more buckets than the rule accepts."""
        most = self.rule.max_updates
        return None if most is None else self.bucket_size * most

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the rule's result for the means of this round's buckets."""
        self.check_count(updates)
        rng = generator(context.seed, "bucketing", context.round)
        ranks = torch.rand(context.num_clients, generator=rng, dtype=torch.float64)
        buckets = ranks[context.clients].argsort().split(self.bucket_size)
        mixture = torch.zeros(len(buckets), len(updates), dtype=torch.float64)
        for row, members in zip(mixture, buckets, strict=True):
            row[members] = 1 / len(members)

        def means(part: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
            return (mixture @ part.double()).to(part.dtype)

        together = replace(
            context,
            clients=context.clients[torch.stack([members[0] for members in buckets])],
            local_steps=mixture @ context.local_steps,
            losses=mixture @ context.losses,
            sent={name: _mix_rows(mixture, rows) for name, rows in context.sent.items()},
        )
        inner = decide_mixed(self.rule, state, means, updates, mixture @ weights.double(), together)
        return trace_back(inner, mixture)


def _mix_rows(mixture: Float[Tensor, "m n"], rows: Float[Tensor, "n p"]) -> Float[Tensor, "m p"]:
    means = rows.new_empty(len(mixture), rows.shape[1])
    for columns in column_chunks(rows):
        means[:, columns] = (mixture @ rows[:, columns].double()).to(rows.dtype)
    return means
