"""Server momentum around any rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext, Updates, Weights
from fl_sim.contracts.privacy import Draw, Releases
from fl_sim.core.errors import require, require_above, require_at_least
from strategies._shared.mixing import WrappingRule
from strategies.fedavg import FedAvg


@final
@dataclass(frozen=True)
class ServerMomentum(WrappingRule):
    """Any rule, followed by a server step with momentum, learning rate and weight decay.

    With the rule's step s and the parameters x, v <- momentum v + s - weight_decay x, and the
    server moves by `server_learning_rate` v: PyTorch's SGD on the gradient -s. Tolerates the
    attackers that the rule does; a step they have turned lasts for 1 / (1 - momentum) rounds.

    Source: Hsu et al. (2019), section 4.3, https://arxiv.org/abs/1909.06335, whose momentum
    `FedAvgM` applies to a mean; weight decay on the server, as in ByzFL's distributed SGD (2025),
    https://arxiv.org/abs/2505.24802. There a client's gradient is an update at learning rate 1, and
    the learning rate is the server's.

    Attributes:
        momentum: Decay of the velocity.
        server_learning_rate: Factor of the velocity.
        weight_decay: Factor of the parameters that are subtracted from the rule's step.
        rule: Rule that aggregates the updates.
    """

    momentum: float = 0.9
    server_learning_rate: float = 1.0
    weight_decay: float = 0.0
    rule: AggregationRule = field(default_factory=FedAvg)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require_above(self, 0, "server_learning_rate")
        require_at_least(self, 0, "weight_decay")

    def initial_state(self, num_parameters: int) -> dict[str, Any]:
        """Return a velocity of zero, and the state of the wrapped rule."""
        velocity = torch.zeros(num_parameters, dtype=torch.float64)
        return {"velocity": velocity, "rule": self.rule.initial_state(num_parameters)}

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return the vectors that the wrapped rule sends to the clients."""
        return self.rule.broadcast(state["rule"])

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return those of the wrapped rule: momentum is post-processing."""
        return self.rule.releases(draws)

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return the step along the velocity, if the wrapped rule has one for an empty round."""
        inner = self.rule.decide_empty(state["rule"], num_parameters, context)
        return None if inner is None else self._move(state, inner, context)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the step along the velocity; shares and scales are those of the wrapped rule.

        Raises:
            ValueError: If there is weight decay and the context has no parameters.
        """
        self.check_count(updates)
        inner = self.rule.decide(state["rule"], updates, weights, context)
        return self._move(state, inner, context)

    def _move(
        self, state: Any, inner: AggregationResult, context: RoundContext
    ) -> AggregationResult:
        """Return the step along the velocity, given the wrapped rule's result."""
        direction = inner.step.double()
        if self.weight_decay:
            if context.parameters is None:
                raise ValueError(
                    "ServerMomentum needs RoundContext.parameters for its weight decay"
                )
            direction = direction - self.weight_decay * context.parameters.double()
        velocity = self.momentum * state["velocity"] + direction
        step = (self.server_learning_rate * velocity).to(inner.step.dtype)
        after = {"velocity": velocity, "rule": inner.state}
        return AggregationResult(after, step, inner.shares, inner.scales)
