"""Differential privacy of whole clients, in front of any rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import (
    AggregationResult,
    AggregationRule,
    Draw,
    LinearRule,
    Release,
    Releases,
    RoundContext,
)
from fl_sim.core import serialization
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import RequestError, require
from fl_sim.core.seeding import generator
from fl_sim.core.sums import weighted_sum
from fl_sim.privacy.accounting import compute_epsilon
from strategies._shared.mixing import WrappingRule, apply_scales, decide_mixed, make_scaling
from strategies.fedavg import FedAvg

PARTS = 10**9  # to which a probability is rounded, when planning


@final
@dataclass(frozen=True)
class DifferentialPrivacy(WrappingRule):
    """Any rule, given updates of bounded length and equal weight, with Gaussian noise added.

    Central differential privacy of a client's whole participation: the server is trusted, who
    sees the models is not. In front of a rule that needs only a weighted sum, the noise goes on
    the sum, and what the rule does with it costs no privacy. In front of any other rule the
    noise goes on the step, as if that were a mean: there is no guarantee, only noise.

    Rows `epsilon` of group `clients` say what each round has cost so far, by
    `fl_sim.privacy.accounting`: round by round, of those clients that could be drawn in it. No use
    is made of clients that drop out after they were asked. Under Poisson participation the sum is
    divided by the number of clients that are drawn on average, and noise is added also where
    nobody was. A draw of a fixed number is accounted from above, at up to twice the sensitivity.

    The guarantee is about the updates alone. It is not valid, and the rows say so, where more
    leaves the clients: statistics of BatchNorm (take a model with `norm="group"`), vectors that
    clients send beside their updates and that come back to all of them (SCAFFOLD), or losses
    that the rule weighs by. What clients report of their training, the server keeps to itself.

    Where shares of the sum are unequal, as FedNova's, noise follows the largest. Shares tell
    how many steps clients take, hence how much data they hold: no epsilon is given unless
    `public_counts` says that everybody may know.

    Source: McMahan et al. (2018), algorithm 1, https://arxiv.org/abs/1710.06963; with a fixed
    number of clients, unless they are drawn one by one. The noise depends on the run's seed and
    the round, so whoever knows the seed can take it off again: a simulation of privacy, not
    privacy. Flower's wrappers leave the weights as they are, at which a large client is
    protected less than they say; no epsilon is given for them.

    Attributes:
        clipping_norm: longest update that counts in full; C of the paper.
        noise_multiplier: standard deviation of the noise on the sum of the updates, as a
            multiple of `clipping_norm`; z of the paper.
        rule: what aggregates the bounded updates.
        delta: probability with which epsilon may fail.
        public_counts: whether everybody may know how many examples each client holds, and how
            many steps it takes.
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    rule: AggregationRule = field(default_factory=FedAvg)
    delta: float = 1e-5
    public_counts: bool = serialization.omit_if_default(False)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.clipping_norm > 0, "clipping_norm", "above 0", self.clipping_norm)
        noise = self.noise_multiplier
        require(noise >= 0, "noise_multiplier", "at least 0", noise)
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return what the rule makes of the bounded updates and the noise."""
        self.check_count(updates)
        scales = clip_factors(row_norms(updates), self.clipping_norm)
        even = torch.ones_like(scales)
        if isinstance(self.rule, LinearRule):
            shares = compute_even_shares(self.rule, even, context)
            total = weighted_sum(shares * scales, updates)
            total += self._draw_noise(len(total), float(shares.max()), context)
            state, step = self.rule.finish(state, total)
            return AggregationResult(state, step.to(updates.dtype), shares, scales)
        mix = make_scaling(scales)
        inner = apply_scales(decide_mixed(self.rule, state, mix, updates, even, context), scales)
        step = inner.step + self._draw_noise(updates.shape[1], 1 / len(updates), context)
        return replace(inner, step=step.to(updates.dtype))

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return what the rule makes of the noise alone, where it sums up."""
        if not isinstance(self.rule, LinearRule) or not context.expected:
            return self.rule.decide_empty(state, num_parameters, context)
        noise = self._draw_noise(num_parameters, 1 / context.expected, context)
        state, step = self.rule.finish(state, noise)
        return AggregationResult(state, step.float())

    def _draw_noise(self, size: int, share: float, context: RoundContext) -> Float[Tensor, " p"]:
        """Return noise for a sum in which an update counts by at most `share`."""
        rng = generator(context.seed, "differential privacy", context.round)
        deviation = self.noise_multiplier * self.clipping_norm * share
        return deviation * torch.randn(size, generator=rng, dtype=torch.float64)

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return one noisy sum a round.

        Raises:
            RequestError: in front of a rule that is not a weighted sum, or whose shares are
                unequal where counts are secret or draws are of random size.
        """
        check_accountable(self.rule, draws, self.public_counts)
        made = tuple(Release(self.noise_multiplier, draw) for draw in draws)
        return Releases(made, self.delta, "clients")

    def estimate_epsilon(self, num_rounds: int, participation: float) -> float:
        """Return what so many rounds would cost, by RDP, if all were alike.

        A figure to plan by. It is that of clients that take part at random, each by itself with
        the probability `participation`; 1 claims nothing from the draw.

        Args:
            num_rounds: number of rounds.
            participation: probability with which a client takes part in a round.

        Raises:
            RequestError: without dp-accounting, or where no guarantee is known.
        """
        check_accountable(self.rule, (), self.public_counts)
        draw = Draw(PARTS, round(participation * PARTS), "poisson")
        release = Release(self.noise_multiplier, draw, num_rounds)
        return compute_epsilon(Releases((release,), self.delta, "clients")).rdp


def compute_even_shares(
    rule: LinearRule, even: Float[Tensor, " n"], context: RoundContext
) -> Tensor:
    """Return how much each update counts in a sum to which all have the same right.

    Where the number of senders is left to chance, and hence a secret, the shares are those of
    as many as are expected.
    """
    shares = rule.coefficients(even, context)
    return shares if context.expected is None else shares * (len(shares) / context.expected)


def check_accountable(rule: AggregationRule, draws: Sequence[Draw], public_counts: bool) -> None:
    """Raise a `RequestError` where no guarantee is known for noise on what a rule sums up."""
    name = type(rule).__name__
    if not isinstance(rule, LinearRule):
        raise RequestError(f"no guarantee is known for noise on {name}")
    unlike = replace(RoundContext.anonymous(2), local_steps=torch.tensor([1.0, 9.0]).double())
    shares = rule.coefficients(torch.ones(2, dtype=torch.float64), unlike)
    if float(shares[0]) == float(shares[1]):
        return
    if not public_counts:
        raise RequestError(f"shares of {name} tell how much data clients hold: see public_counts")
    if any(draw.sampling == "poisson" for draw in draws):
        raise RequestError(f"shares of {name} depend on who else is drawn")
