"""Client-level differential privacy with adaptive clipping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext
from fl_sim.contracts.privacy import Draw, Release, Releases
from fl_sim.contracts.rules import LinearRule, Updates, Weights
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import require, require_above
from fl_sim.core.seeding import generator
from fl_sim.core.sums import weighted_sum
from strategies._shared.mixing import WrappingRule, apply_scales, decide_mixed, make_scaling
from strategies.differential_privacy import check_accountable, compute_even_shares
from strategies.fedavg import FedAvg

SHARE = 1 / 20  # usual deviation of the noise on the bits, as a share of the clients


@final
@dataclass(frozen=True)
class DifferentialPrivacyAdaptiveClipping(WrappingRule):
    """Private averaging whose clipping norm follows a quantile of the updates' norms.

    Each client also sends one bit b_i: whether its norm is at most C. With the noisy mean of the
    bits b, C <- C exp(-eta_C (b - gamma)). Because the bits cost privacy, the noise on the updates
    is raised slightly, so that both together cost what `noise_multiplier` states. All else,
    including the meaning of epsilon, is as in `strategies.differential_privacy`.

    Source: Andrew et al. (2021), algorithm 1, https://arxiv.org/abs/1905.03871, without its server
    momentum, which `rule` may have. Bits are counted as 1/2 and -1/2, as in the paper.

    Attributes:
        initial_clipping_norm: Clipping norm of round 1; C^0 in the paper.
        target_quantile: Share of the updates to be left unclipped; gamma.
        clipping_learning_rate: Learning rate of the clipping norm; eta_C.
        noise_multiplier: Noise multiplier of updates and bits together; z.
        bit_noise: Standard deviation of the noise on the sum of the bits; sigma_b. None uses a
            twentieth of the clients of the round, as in the paper, and at least `noise_multiplier`,
            because the noise on updates would otherwise grow without bound.
        rule: Rule that aggregates the clipped updates.
        delta: Probability with which the epsilon guarantee may fail.
        public_counts: Whether the numbers of examples and steps of the clients are public.
    """

    initial_clipping_norm: float = 0.1
    target_quantile: float = 0.5
    clipping_learning_rate: float = 0.2
    noise_multiplier: float = 1.0
    bit_noise: float | None = None
    rule: AggregationRule = field(default_factory=FedAvg)
    delta: float = 1e-5
    public_counts: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "initial_clipping_norm")
        quantile = self.target_quantile
        require(0 <= quantile <= 1, "target_quantile", "between 0 and 1", quantile)
        require_above(self, 0, "clipping_learning_rate")
        noise, bits = self.noise_multiplier, self.bit_noise
        require(noise >= 0, "noise_multiplier", "at least 0", noise)
        allowed = f"above noise_multiplier / 2 = {noise / 2:g}, or None"
        enough = bits is None or bits > noise / 2 or bits == noise == 0
        require(enough, "bit_noise", allowed, bits)
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    def initial_state(self, num_parameters: int) -> dict[str, Any]:
        """Return the first clipping norm, and the state of the wrapped rule."""
        inner = self.rule.initial_state(num_parameters)
        return {"clipping_norm": self.initial_clipping_norm, "rule": inner}

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return the vectors that the wrapped rule sends to the clients."""
        return self.rule.broadcast(state["rule"])

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the rule's result for the clipped updates and the noise, and the next norm."""
        self.check_count(updates)
        norms, bound = row_norms(updates), state["clipping_norm"]
        scales, count = clip_factors(norms, bound), float(len(updates))
        even = torch.ones_like(scales)
        bits = float((norms <= bound).double().sub(0.5).sum())
        next_norm = self._update_norm(bound, bits, context.expected or count, context)
        if isinstance(self.rule, LinearRule):
            shares = compute_even_shares(self.rule, even, context)
            total = weighted_sum(shares * scales, updates)
            total += self._draw_noise(bound, len(total), float(shares.max()), count, context)
            inner, step = self.rule.finish(state["rule"], total)
            next_state = {"clipping_norm": next_norm, "rule": inner}
            return AggregationResult(next_state, step.to(updates.dtype), shares, scales)
        mix = make_scaling(scales)
        mixed = decide_mixed(self.rule, state["rule"], mix, updates, even, context)
        mixed = apply_scales(mixed, scales)
        step = mixed.step + self._draw_noise(bound, updates.shape[1], 1 / count, count, context)
        next_state = {"clipping_norm": next_norm, "rule": mixed.state}
        return replace(mixed, state=next_state, step=step.to(updates.dtype))

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return the result for the noise alone, if the rule is a weighted sum, and the norm."""
        expected, bound = context.expected, state["clipping_norm"]
        if not isinstance(self.rule, LinearRule) or not expected:
            return None
        noise = self._draw_noise(bound, num_parameters, 1 / expected, expected, context)
        inner, step = self.rule.finish(state["rule"], noise)
        next_norm = self._update_norm(bound, 0.0, expected, context)
        return AggregationResult({"clipping_norm": next_norm, "rule": inner}, step.float())

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return one noisy sum per round, of updates and bits together.

        Raises:
            RequestError: If the rule's shares are unequal while counts are secret or the number of
                clients is random.
        """
        check_accountable(self.rule, draws, self.public_counts)
        made = tuple(Release(self.noise_multiplier, draw) for draw in draws)
        return Releases(made, self.delta, "clients")

    def _draw_noise(
        self, bound: float, size: int, share: float, count: float, context: RoundContext
    ) -> Float[Tensor, " p"]:
        """Return noise for a sum in which an update has a share of at most `share`."""
        rng = generator(context.seed, "differential privacy", context.round)
        multiplier = self.compute_update_noise(self.compute_bit_noise(context.expected or count))
        drawn = torch.randn(size, generator=rng, dtype=torch.float64)
        return multiplier * bound * share * drawn

    def _update_norm(self, bound: float, bits: float, count: float, context: RoundContext) -> float:
        """Return the clipping norm after a round with this sum of bits."""
        rng = generator(context.seed, "differential privacy", context.round, "bits")
        drawn = float(torch.randn((), generator=rng, dtype=torch.float64))
        short_enough = 0.5 + (bits + self.compute_bit_noise(count) * drawn) / count
        pace = -self.clipping_learning_rate * (short_enough - self.target_quantile)
        return bound * math.exp(pace)

    def compute_bit_noise(self, num_clients: float) -> float:
        """Return the standard deviation of the noise on the sum of the bits."""
        if self.bit_noise is not None:
            return self.bit_noise
        usual = SHARE * num_clients
        return max(usual, self.noise_multiplier) if self.noise_multiplier else 0.0

    def compute_update_noise(self, bit_noise: float) -> float:
        """Return the noise multiplier of the updates; z_Delta in the paper, theorem 1.

        >>> rule = DifferentialPrivacyAdaptiveClipping(noise_multiplier=1.0)
        >>> round(rule.compute_update_noise(1.0), 4)
        1.1547
        """
        part = self.noise_multiplier / (2 * bit_noise) if self.noise_multiplier else 0.0
        return self.noise_multiplier / math.sqrt(1 - part**2)
