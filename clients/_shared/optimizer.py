"""Stochastic gradient descent with momentum and weight decay.

The arithmetic is that of `torch.optim.SGD(foreach=True)`, bit by bit. The constructor of that class
imports torch's compiler, which takes longer than many a client's whole training.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fl_sim.models.tuning import list_trained_parameters


@dataclass(eq=False)
class SgdOptimizer:
    """Moves the trainable parameters of a model along their gradients.

    Attributes:
        model: Model to train; pretrained layers have a smaller learning rate than the head.
        learning_rate, momentum, weight_decay: As in `torch.optim.SGD`.
    """

    model: nn.Module
    learning_rate: float
    momentum: float
    weight_decay: float
    _groups: dict[float, list[nn.Parameter]] = field(default_factory=dict)
    _velocities: dict[float, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for parameter, rate in list_trained_parameters(self.model):
            self._groups.setdefault(rate, []).append(parameter)

    def zero_grad(self) -> None:
        """Drop the gradients of the last step."""
        for parameters in self._groups.values():
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step. The parameters without a gradient must be the same in every step."""
        for rate, parameters in self._groups.items():
            pairs = [(p.data, p.grad) for p in parameters if p.grad is not None]
            if not pairs:
                continue
            moved, slopes = [values for values, _ in pairs], [slope for _, slope in pairs]
            if self.weight_decay:
                slopes = list(torch._foreach_add(slopes, moved, alpha=self.weight_decay))
            if self.momentum:
                slopes = self._apply_momentum(rate, slopes)
            torch._foreach_add_(moved, slopes, alpha=-self.learning_rate * rate)

    def _apply_momentum(self, rate: float, slopes: list[Tensor]) -> list[Tensor]:
        velocities = self._velocities.get(rate)
        if velocities is None:
            velocities = self._velocities[rate] = [slope.clone() for slope in slopes]
            return velocities
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(velocities, slopes)
        return velocities
