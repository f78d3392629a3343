"""Client-level differential privacy around any rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext
from fl_sim.contracts.privacy import Draw, Release, Releases
from fl_sim.contracts.rules import LinearRule, Updates, Weights
from fl_sim.core import serialization
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import RequestError, require, require_above, require_at_least
from fl_sim.core.seeding import generator
from fl_sim.core.sums import weighted_sum
from fl_sim.privacy.accounting import compute_epsilon
from strategies._shared.mixing import WrappingRule, apply_scales, decide_mixed, make_scaling
from strategies.fedavg import FedAvg

PARTS = 10**9  # resolution of a probability, when planning


@final
@dataclass(frozen=True)
class DifferentialPrivacy(WrappingRule):
    """Any rule on clipped updates of equal weight, with Gaussian noise added.

    Central differential privacy of a client's whole participation: the server is trusted, and those
    who see the models are not. If the rule only needs a weighted sum, the noise is added to the
    sum, and everything after it is post-processing. With any other rule the noise is added to the
    step as if that were a mean: noise without a guarantee.

    Rows `epsilon` of group `clients` hold the privacy spent up to each round, by
    `fl_sim.privacy.accounting`, for the clients that could be sampled in it. Drop-out after
    sampling is not used. With Poisson participation the sum is divided by the expected number of
    clients, and noise is added even if no client was sampled. Sampling a fixed number is accounted
    for by an upper bound, at up to twice the sensitivity.

    The guarantee covers the updates alone. It is invalid, and the rows are marked so, if more
    leaves the clients: BatchNorm statistics (use a model with `norm="group"`), vectors sent beside
    the updates and broadcast to all clients (SCAFFOLD), or losses that the rule weights by.
    Training metrics that clients report stay on the server.

    If the shares of the sum are unequal, as FedNova's are, the noise follows the largest. Shares
    reveal how many steps clients take, hence how much data they hold: no epsilon is given unless
    `public_counts` states that this is public.

    Source: McMahan et al. (2018), algorithm 1, https://arxiv.org/abs/1710.06963; with a fixed
    number of clients, unless participation is Poisson. The noise depends on the run's seed and the
    round, and can be removed by those who know the seed: a simulation of privacy, not privacy.
    Flower's wrappers keep the clients' weights, at which a large client is protected less than
    stated; no epsilon is given for them.

    Attributes:
        clipping_norm: Largest L2 norm of an update; C in the paper.
        noise_multiplier: Standard deviation of the noise on the sum of the updates, as a multiple
            of `clipping_norm`; z in the paper.
        rule: Rule that aggregates the clipped updates.
        delta: Probability with which the epsilon guarantee may fail.
        public_counts: Whether the numbers of examples and steps of the clients are public.
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    rule: AggregationRule = field(default_factory=FedAvg)
    delta: float = 1e-5
    public_counts: bool = serialization.omit_if_default(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "clipping_norm")
        require_at_least(self, 0, "noise_multiplier")
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the rule's result for the clipped updates and the noise."""
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
        """Return the rule's result for the noise alone, if the rule is a weighted sum."""
        if not isinstance(self.rule, LinearRule) or not context.expected:
            return self.rule.decide_empty(state, num_parameters, context)
        noise = self._draw_noise(num_parameters, 1 / context.expected, context)
        state, step = self.rule.finish(state, noise)
        return AggregationResult(state, step.float())

    def _draw_noise(self, size: int, share: float, context: RoundContext) -> Float[Tensor, " p"]:
        """Return noise for a sum in which an update has a share of at most `share`."""
        rng = generator(context.seed, "differential privacy", context.round)
        deviation = self.noise_multiplier * self.clipping_norm * share
        return deviation * torch.randn(size, generator=rng, dtype=torch.float64)

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return one noisy sum per round.

        Raises:
            RequestError: If the rule is no weighted sum, or its shares are unequal while counts are
                secret or the number of clients is random.
        """
        check_accountable(self.rule, draws, self.public_counts)
        made = tuple(Release(self.noise_multiplier, draw) for draw in draws)
        return Releases(made, self.delta, "clients")

    def estimate_epsilon(self, num_rounds: int, participation: float) -> float:
        """Return the epsilon of `num_rounds` equal rounds, by Rényi accounting, for planning.

        Each client takes part independently with probability `participation`; 1 means no
        amplification by sampling.

        Args:
            num_rounds: Number of rounds.
            participation: Probability with which a client takes part in a round.

        Raises:
            RequestError: If dp-accounting is missing, or no guarantee is known for the rule.
        """
        check_accountable(self.rule, (), self.public_counts)
        draw = Draw(PARTS, round(participation * PARTS), "poisson")
        release = Release(self.noise_multiplier, draw, num_rounds)
        return compute_epsilon(Releases((release,), self.delta, "clients")).rdp


def compute_even_shares(
    rule: LinearRule, even: Float[Tensor, " n"], context: RoundContext
) -> Tensor:
    """Return the share of each update in a sum of equally weighted updates.

    If the number of updates is random, and hence secret, the shares are those of the expected
    number of updates.
    """
    shares = rule.coefficients(even, context)
    return shares if context.expected is None else shares * (len(shares) / context.expected)


def check_accountable(rule: AggregationRule, draws: Sequence[Draw], public_counts: bool) -> None:
    """Raise a `RequestError` if no guarantee is known for noise on the rule's weighted sum."""
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
