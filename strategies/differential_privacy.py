"""Differential privacy of whole clients, in front of any rule."""

from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import AggregationRule, Decision, LinearRule, Senders
from fl_sim.distances import row_norms, shortening
from fl_sim.errors import RequestError, require
from fl_sim.seeding import generator
from fl_sim.sums import weighted_sum
from strategies.fedavg import FedAvg
from strategies.mixing import WrappingRule, decide_mixed, shortened_by, with_scales


@final
@dataclass(frozen=True)
class DifferentialPrivacy(WrappingRule):
    """Any rule, given updates of bounded length and equal weight, with Gaussian noise added.

    Central differential privacy of a client's whole participation: the server is trusted, who
    sees the models is not. In front of a rule that needs only a weighted sum, the noise goes on
    the sum, and what the rule does with it costs no privacy. In front of any other rule the
    noise goes on the step, as if that were a mean: there is no guarantee, only noise.

    Source: McMahan et al. (2018), algorithm 1, https://arxiv.org/abs/1710.06963, with a fixed
    number of clients. The noise depends on the run's seed and the round, so whoever knows the
    seed can take it off again: a simulation of privacy, not privacy. Flower's wrappers leave
    the weights as they are, at which a large client is protected less than they say.

    Attributes:
        clipping_norm: longest update that counts in full; C of the paper.
        noise_multiplier: standard deviation of the noise on the sum of the updates, as a
            multiple of `clipping_norm`; z of the paper.
        rule: what aggregates the bounded updates.
        delta: probability with which epsilon may fail.
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    rule: AggregationRule = field(default_factory=FedAvg)
    delta: float = 1e-5

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.clipping_norm > 0, "clipping_norm", "above 0", self.clipping_norm)
        noise = self.noise_multiplier
        require(noise >= 0, "noise_multiplier", "at least 0", noise)
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        senders: Senders,
    ) -> Decision:
        """Return what the rule makes of the bounded updates and the noise."""
        self.check_count(updates)
        scales = shortening(row_norms(updates), self.clipping_norm)
        even = torch.ones_like(scales)
        if isinstance(self.rule, LinearRule):
            shares = self.rule.coefficients(even, senders)
            total = weighted_sum(shares * scales, updates)
            total += self._noise(len(total), float(shares.max()), senders)
            state, step = self.rule.finish(state, total)
            return Decision(state, step.to(updates.dtype), shares, scales)
        mix = shortened_by(scales)
        inner = with_scales(decide_mixed(self.rule, state, mix, updates, even, senders), scales)
        step = inner.step + self._noise(updates.shape[1], 1 / len(updates), senders)
        return replace(inner, step=step.to(updates.dtype))

    def _noise(self, size: int, share: float, senders: Senders) -> Float[Tensor, " p"]:
        """Return noise for a sum in which an update counts by at most `share`."""
        rng = generator(senders.seed, "differential privacy", senders.round)
        deviation = self.noise_multiplier * self.clipping_norm * share
        return deviation * torch.randn(size, generator=rng, dtype=torch.float64)

    def epsilon(self, num_rounds: int, participation: float) -> float:
        """Return the epsilon that is spent after some rounds, by Opacus' RDP accountant.

        It holds for a rule that needs only a weighted sum, for adding or removing a client, and
        for clients that take part at random, each with the probability `participation`. A run
        draws a fixed number of clients instead, for which it is an approximation; 1 claims
        nothing from the draw.

        Args:
            num_rounds: rounds so far.
            participation: share of the clients that take part in a round.

        Raises:
            RequestError: without Opacus, or in front of a rule that is not a weighted sum.
        """
        if not isinstance(self.rule, LinearRule):
            raise RequestError(f"no guarantee is known for noise on {type(self.rule).__name__}")
        if self.noise_multiplier == 0:
            return float("inf")
        try:
            from opacus.accountants import RDPAccountant
        except ImportError:
            raise RequestError("accounting needs Opacus: pip install fl-sim[dp]") from None
        accountant = RDPAccountant()
        accountant.history = [(self.noise_multiplier, participation, num_rounds)]
        return float(accountant.get_epsilon(self.delta))
