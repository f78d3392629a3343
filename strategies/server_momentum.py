"""Server momentum around any rule: its step is a gradient for the server's own optimiser."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, Draw, Releases, RoundContext
from fl_sim.core import serialization
from fl_sim.core.errors import require
from strategies._shared.mixing import WrappingRule
from strategies.fedavg import FedAvg


@final
@dataclass(frozen=True)
class ServerMomentum(WrappingRule):
    """Any rule, whose step the server takes with momentum, a rate of its own, and weight decay.

    With the rule's step s and the parameters x, the velocity is v = momentum v + s -
    weight_decay x, and the server moves by `server_learning_rate` times v: SGD as in PyTorch on
    the gradient -s. Withstands the attackers that the rule does; a step that they turned lasts
    for 1 / (1 - momentum) rounds.

    Source: Hsu et al. (2019), section 4.3, https://arxiv.org/abs/1909.06335, whose momentum
    `FedAvgM` has around a mean; weight decay on the server, as distributed SGD has it in ByzFL
    (2025), https://arxiv.org/abs/2505.24802. There a client's gradient is an update at learning
    rate 1, and the learning rate is the server's.

    Attributes:
        momentum: share of the last velocity that stays.
        server_learning_rate: factor of the velocity.
        weight_decay: share of the parameters that is taken off the rule's step.
        rule: what aggregates the updates.
    """

    momentum: float = 0.9
    server_learning_rate: float = 1.0
    weight_decay: float = 0.0
    rule: AggregationRule = field(default_factory=FedAvg)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        rate = self.server_learning_rate
        require(rate > 0, "server_learning_rate", "above 0", rate)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)

    def initial_state(self, num_parameters: int) -> dict[str, Any]:
        """Return the velocity at rest, and the state of the wrapped rule."""
        velocity = torch.zeros(num_parameters, dtype=torch.float64)
        return {"velocity": velocity, "rule": self.rule.initial_state(num_parameters)}

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return what the wrapped rule tells the clients."""
        return self.rule.broadcast(state["rule"])

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return what the wrapped rule does: what follows on a private step costs nothing."""
        return self.rule.releases(draws)

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return the step along the velocity where the wrapped rule makes one of nobody."""
        inner = self.rule.decide_empty(state["rule"], num_parameters, context)
        return None if inner is None else self._move(state, inner, context)

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the step along the velocity; shares and scales are those of the wrapped rule.

        Raises:
            ValueError: with weight decay, where nobody told the parameters.
        """
        self.check_count(updates)
        inner = self.rule.decide(state["rule"], updates, weights, context)
        return self._move(state, inner, context)

    def _move(
        self, state: Any, inner: AggregationResult, context: RoundContext
    ) -> AggregationResult:
        """Return the step along the velocity, of the wrapped rule's step."""
        direction = inner.step.double()
        if self.weight_decay:
            if context.parameters is None:
                raise ValueError("ServerMomentum needs Senders.parameters for its weight decay")
            direction = direction - self.weight_decay * context.parameters.double()
        velocity = self.momentum * state["velocity"] + direction
        step = (self.server_learning_rate * velocity).to(inner.step.dtype)
        after = {"velocity": velocity, "rule": inner.state}
        return AggregationResult(after, step, inner.shares, inner.scales)
