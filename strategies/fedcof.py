"""FedCOF: a discriminant whose covariance is estimated from clients' class means alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.errors import require
from fl_sim.core.sums import use_one_thread, weighted_sum
from fl_sim.models.closed_form import HEAD, split_parameters
from strategies._shared.closed_form import FEWEST, Moments, decompose, shrink_by_oas, solve_gaussian


@final
@dataclass(frozen=True)
class FedCOF(InformedRule):
    """Gaussian classes whose covariance comes from the spread of clients' class means.

    The mean over n images of a class deviates from the class mean by its covariance over n. Hence
    S = sum over clients k and classes y of n_ky (m_ky - m_y) (m_ky - m_y)^T, divided by the number
    of means less that of classes, estimates the covariance within classes without bias where
    clients draw images of a class alike, and clients send as little as under `NearestClassMean`.
    Directions are those of the paper, S^-1 m_y without the scatter between classes; lengths and
    biases are those of `LinearDiscriminant`, so that logits are log posteriors. With a single
    client, or none of whose classes another one holds, nothing can be estimated, and S is a
    multiple of the identity.

    The covariance depends on the partition, unlike that of the other heads, and needs each
    client's own statistics: no other rule can aggregate them. Selected by `model.tune=fedcof`,
    together with `StatisticsClient` and a single round; in other networks it is the weighted mean.

    Source: Goswami et al. (2025), FedCOF, https://arxiv.org/abs/2412.14326; the shrinkage by Chen
    et al. (2010), https://arxiv.org/abs/0907.4698, instead of a fixed multiple of the identity.

    Attributes:
        shrinkage: Share of the identity in the covariance, in [0, 1]; None: oracle approximating
            shrinkage for as many examples as the estimate has degrees of freedom.
    """

    tune: ClassVar[str] = "fedcof"
    shrinkage: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.shrinkage
        require(share is None or 0 <= share <= 1, "shrinkage", "in [0, 1], or None", share)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the step to the solved head, or the weighted mean if there are no statistics."""
        self.check_count(updates)
        shares = weights.double() / weights.double().sum()
        step = weighted_sum(shares, updates)
        mean = AggregationResult(state, step.to(updates.dtype), shares)
        if "counts" not in split_parameters(step, context.shapes or {"": tuple(step.shape)}):
            return mean
        solved = self._solve(updates, weights.double(), step, context.shapes)
        return replace(mean, step=solved.to(updates.dtype))

    def _solve(
        self,
        updates: Updates,
        weights: Weights,
        mean: Float[Tensor, " p"],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> Float[Tensor, " p"]:
        """Return the parameters of the head, with statistics of zero."""
        solved = torch.zeros_like(mean)
        moments = Moments.of(split_parameters(mean, shapes), int(weights.sum()))
        if moments is None:
            return solved
        own = split_parameters(updates, shapes)
        images = own["counts"].double() * weights[:, None]  # [k, y]
        held = images >= FEWEST
        class_means = own["sums"].double() / own["counts"].double().where(held, 1.0)[..., None]
        away = (class_means - moments.class_means)[held] * images[held].sqrt()[:, None]
        freedom = len(away) - int(held.any(0).sum())
        with use_one_thread():
            covariance = away.T @ away / max(1, freedom)
            if freedom < 1:
                covariance = torch.eye(away.shape[1], dtype=torch.float64) * self._spread(moments)
            values, vectors = decompose(covariance)
            values, share = values.clamp(min=0), self.shrinkage
            share = shrink_by_oas(values, max(1, freedom)) if share is None else share
            head = solve_gaussian(moments, values, vectors, share)
        for name, values in zip(HEAD, head, strict=True):
            split_parameters(solved, shapes)[name].copy_(values)
        return solved

    def _spread(self, moments: Moments) -> float:
        """Return the variance of a feature within classes, from the mean squared length."""
        lengths = moments.class_means.square().sum(1)
        inside = moments.squares.sum() - moments.shares @ lengths
        return float(inside.clamp(min=0)) / moments.class_means.shape[1]
