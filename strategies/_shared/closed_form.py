"""Base class of the rules that solve statistics of clients' features for a linear head."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import (
    AggregationResult,
    AggregationRule,
    Draw,
    LinearRule,
    Releases,
    RoundContext,
    Updates,
    Weights,
)
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import RequestError, require, require_above
from fl_sim.core.sums import use_one_thread
from fl_sim.models.closed_form import HEAD, fill_symmetric, split_parameters
from strategies._shared.mixing import WrappingRule
from strategies.fedavg import FedAvg

Head = tuple[Float[Tensor, "y d"], Float[Tensor, " y"]]  # weight and bias of a linear layer
CANDIDATES = torch.logspace(-6, 3, 91, dtype=torch.float64)  # penalties, of the mean variance
EPSILON = torch.finfo(torch.float64).eps
FEWEST = 0.5  # examples of a class, on average: below, it counts as absent


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of the features of all clients, per example, in float64.

    Attributes:
        shares: Share of each class.
        sums: Sum of the features of each class divided by the number of all examples.
        mean: Mean of the features.
        class_means: Mean of the features of each class; that of all for an absent class.
        squares: Upper triangle of the second moments, or their trace.
        num_examples: Number of examples.
    """

    shares: Float[Tensor, " y"]
    sums: Float[Tensor, "y d"]
    mean: Float[Tensor, " d"]
    class_means: Float[Tensor, "y d"]
    squares: Float[Tensor, " s"]
    num_examples: int

    @classmethod
    def of(cls, statistics: Mapping[str, Tensor], num_examples: int) -> "Moments | None":
        """Return the moments in aggregated statistics; None if these hold no example.

        Statistics are divided by the sum of the class shares, so that a rule may scale them. Noise
        and attacks can make a share negative: the class then counts as absent.
        """
        counts = statistics["counts"].clamp(min=0)
        total = counts.sum()
        if not float(total) > 0:
            return None
        shares, sums, squares = (
            values / total for values in (counts, statistics["sums"], statistics["squares"])
        )
        fewest = FEWEST / max(1, num_examples)
        present = shares >= fewest
        mean = sums.sum(0)
        class_means = torch.where(
            present[:, None], sums / shares.clamp(min=fewest)[:, None], mean[None]
        )
        return cls(shares, sums, mean, class_means, squares, num_examples)

    def second_moments(self) -> Float[Tensor, "d d"]:
        """Return the matrix of second moments about zero."""
        return fill_symmetric(self.squares, len(self.mean))

    def within(self) -> Float[Tensor, "d d"]:
        """Return the covariance of the features about the mean of their class."""
        means = self.class_means
        return self.second_moments() - means.T @ (self.shares[:, None] * means)


@dataclass(frozen=True)
class ClosedFormRule(WrappingRule, ABC):
    """A rule that aggregates statistics by another rule, and solves them for the head.

    In a network without statistics it is the rule that it wraps.

    Attributes:
        rule: Rule that aggregates the statistics.
        clip: Largest norm of a client's class shares, class sums and second moments, each as a
            multiple of the median norm over the clients of the round; None does not clip.
    """

    tune: ClassVar[str]
    rule: AggregationRule = field(default_factory=FedAvg)
    clip: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "clip", or_none=True)
        solves, name = bool(self.rule.tune), type(self.rule).__name__
        require(not solves, "rule", "a rule that aggregates, since this one solves", name)

    @abstractmethod
    def solve_moments(self, moments: Moments) -> Head:
        """Return the weight and bias of the head."""

    def solve(
        self,
        parameters: Float[Tensor, " p"],
        shapes: Mapping[str, tuple[int, ...]],
        num_examples: int,
    ) -> Float[Tensor, " p"]:
        """Return the parameters of the solved head, with statistics of zero.

        The statistics stay on the server: the global model is the head alone, which is zero if the
        statistics hold no example.
        """
        solved = torch.zeros_like(parameters)
        parts = split_parameters(solved, shapes)
        if "counts" not in parts:
            return parameters
        moments = Moments.of(split_parameters(parameters, shapes), num_examples)
        if moments is not None:
            with use_one_thread():  # the same bits for any number of threads
                head = self.solve_moments(moments)
            for name, values in zip(HEAD, head, strict=True):
                parts[name].copy_(values)
        return solved

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the wrapped rule's result for the statistics, clipped if asked for."""
        if self.clip is None or not len(updates):
            return self.rule.decide(state, updates, weights, context)
        clipped, scales = clip_blocks(updates, self.clip, context.shapes)
        inner = self.rule.decide(state, clipped, weights, context)
        again = 1.0 if inner.scales is None else inner.scales
        return replace(inner, scales=scales * again)

    @property
    def linear(self) -> LinearRule | None:
        """The wrapped rule as a weighted sum; None if statistics are clipped before."""
        return self.rule.linear if self.clip is None else None

    def num_attackers(self) -> int | None:
        """Return the number of attackers that the wrapped rule is set for."""
        return self.rule.num_attackers()

    def with_num_attackers(self, num_attackers: int) -> AggregationRule:
        """Return the rule with the wrapped one set for another number of attackers."""
        wrapper: Any = self
        return replace(wrapper, rule=self.rule.with_num_attackers(num_attackers))  # type: ignore[no-any-return]

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return the releases of the wrapped rule: a solved head is computed from its step.

        Raises:
            RequestError: If the number of all examples, which the head is solved with, is secret.
        """
        releases = self.rule.releases(draws)
        if releases is not None and not getattr(self.rule, "public_counts", False):
            name = type(self).__name__
            raise RequestError(f"{name} uses how many examples there are: see public_counts")
        return releases


def clip_blocks(
    updates: Float[Tensor, "n p"], factor: float, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
    """Return updates with each kind of statistic clipped, and the smallest factor of each client.

    A client's vector is scaled down to `factor` times the median norm over all clients: fewer than
    half of the clients cannot raise it above what honest clients send. Kinds are clipped apart,
    since second moments are far longer than class sums and would hide them.
    """
    clipped, least = updates.clone(), torch.ones(len(updates), dtype=torch.float64)
    sizes = [torch.Size(shape).numel() for shape in shapes.values()] or [updates.shape[1]]
    for block in clipped.split(sizes, dim=1):
        norms = row_norms(block)
        scales = clip_factors(norms, factor * float(norms.quantile(0.5)))
        block *= scales[:, None].to(block.dtype)
        least = least.minimum(scales)
    return clipped, least


def decompose(matrix: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return eigenvalues in ascending order, and eigenvectors as columns, of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix.numpy())  # a third faster than torch's
    return torch.from_numpy(values), torch.from_numpy(vectors)


@dataclass(frozen=True, eq=False)
class Regression:
    """Least squares of the one-hot labels on the features, for any penalty on the weights.

    Attributes:
        values: Eigenvalues of the features' covariance; negative ones, due to noise, count as zero.
        vectors: Its eigenvectors, as columns.
        along: Covariance of the labels with the features, in the basis of the eigenvectors.
        spread: Variance of the labels, summed over classes.
        lowest: Size of the most negative eigenvalue.
        num_examples: Number of examples.
    """

    values: Float[Tensor, " d"]
    vectors: Float[Tensor, "d d"]
    along: Float[Tensor, "y d"]
    spread: float
    lowest: float
    num_examples: int

    @classmethod
    def of(cls, moments: Moments) -> "Regression":
        """Return the regression for the moments of all clients."""
        mean, shares = moments.mean, moments.shares
        values, vectors = decompose(moments.second_moments() - torch.outer(mean, mean))
        along = (moments.sums - torch.outer(shares, mean)) @ vectors
        spread = float((shares * (1 - shares)).sum())
        lowest = float(values[0].clamp(max=0).abs())
        count = moments.num_examples
        return cls(values.clamp(min=0), vectors, along, spread, lowest, count)

    def invert(self, penalties: Float[Tensor, " l"]) -> Float[Tensor, "l d"]:
        """Return 1 / (value + penalty) for each penalty; 0 for what is zero up to rounding."""
        sums = self.values + penalties[:, None]
        usable = sums > len(self.values) * EPSILON * self.values.max()
        return torch.where(usable, 1 / sums.where(usable, 1.0), 0.0)

    def estimate_errors(self, penalties: Float[Tensor, " l"]) -> Float[Tensor, " l"]:
        """Return the expected squared error on new examples, summed over classes, by penalty.

        The mean squared residual over (1 - f / n)^2, with the f parameters that a penalty leaves
        free: generalised cross-validation.

        Source: Golub, Heath and Wahba (1979), https://doi.org/10.1080/00401706.1979.10489751.
        """
        inverse = self.invert(penalties)
        explained = self.along.square().sum(0) * inverse * (2 - self.values * inverse)
        free = 1 + (self.values * inverse).sum(1)
        left = (1 - free / max(1, self.num_examples)).clamp(min=1e-9)
        return (self.spread - explained.sum(1)).clamp(min=0) / left.square()

    def choose_penalty(self) -> float:
        """Return the penalty with the smallest estimated error; of equal ones, the largest.

        Only penalties above the most negative eigenvalue count: noise is at least as large.
        """
        penalties = (CANDIDATES * self.values.mean()).clamp(min=self.lowest).flip(0)
        return float(penalties[self.estimate_errors(penalties).argmin()])


def shrink_by_oas(eigenvalues: Float[Tensor, " d"], num_examples: int) -> float:
    """Return the share of the identity in a covariance that the data themselves suggest.

    Source: Chen et al. (2010), oracle approximating shrinkage,
    https://arxiv.org/abs/0907.4698, in the form that scikit-learn computes.
    """
    size = len(eigenvalues)
    scale, spread = eigenvalues.mean().square(), eigenvalues.square().sum() / size**2
    excess = (num_examples + 1) * (spread - scale / size)
    return 1.0 if float(excess) <= 0 else float(((spread + scale) / excess).clamp(max=1))


def solve_gaussian(
    moments: Moments, values: Float[Tensor, " d"], vectors: Float[Tensor, "d d"], shrinkage: float
) -> Head:
    """Return the head of Gaussian classes with one covariance: logits are log posteriors.

    Args:
        moments: Shares and means of the classes.
        values: Eigenvalues of the covariance of the features within classes, at least 0.
        vectors: Its eigenvectors, as columns.
        shrinkage: Share of a multiple of the identity in it.
    """
    shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
    usable = shrunk > len(values) * EPSILON * shrunk.max()
    inverse = torch.where(usable, 1 / shrunk.where(usable, 1.0), 0.0)
    weight = (moments.class_means @ vectors * inverse) @ vectors.T
    shares = moments.shares.clamp(min=FEWEST / max(1, moments.num_examples))
    bias = shares.log() - (weight * moments.class_means).sum(1) / 2
    return weight, bias
