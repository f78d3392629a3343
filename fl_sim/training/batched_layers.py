"""Linear and LoRA layers of many small models, with their parameters stacked along the clients.

Shapes: `k` clients, `b` records in a batch, `i` inputs and `o` outputs of a layer. Gradients are
written out by hand, since autograd would cost more than the products.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import SgdConfig
from fl_sim.models.architectures import Normalise
from fl_sim.models.low_rank import LowRank
from fl_sim.models.tuning import list_trained_parameters

SUPPORTED_MODULES = (nn.Linear, LowRank, Normalise, nn.ReLU, nn.Flatten, nn.Identity)


def can_batch(model: nn.Sequential) -> bool:
    """Return whether the model consists of linear layers and ReLUs, and all of it is trained.

    For a LoRA layer, all of its low-rank change has to be trained, and its base layer frozen.
    """
    layers = [module for module in model if _is_layer(module)]
    return (
        bool(layers)
        and all(type(module) in SUPPORTED_MODULES for module in model)
        and not any(isinstance(module, nn.ReLU) for module in _until_next_layer(list(model)))
        and all(_find_linear(layer) is not None for layer in layers)
    )


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | LowRank)


def _find_linear(module: nn.Module) -> nn.Linear | None:
    """Return the linear layer that a module is or wraps; None if it cannot be batched."""
    linear = module.layer if isinstance(module, LowRank) else module
    if type(linear) is not nn.Linear or linear.bias is None:
        return None
    all_trained = all(p.requires_grad for p in module.parameters(recurse=False))
    base_frozen = linear is module or not any(p.requires_grad for p in linear.parameters())
    return linear if all_trained and base_frozen else None


@dataclass(eq=False)
class ParameterStack:
    """One parameter of every client's model.

    Attributes:
        values: The current values; a bias is a matrix of one column.
        start: The values before training, common to all clients.
        velocity: The momentum buffer; None without momentum.
        rate_factor: Factor of the client's learning rate for this parameter.
    """

    values: Float[Tensor, "k o i"]
    start: Float[Tensor, "o i"]
    velocity: Float[Tensor, "k o i"] | None
    rate_factor: float

    def narrow(self, count: int) -> "ParameterStack":
        """Return the stack of the first `count` clients, in the same memory."""
        velocity = None if self.velocity is None else self.velocity[:count]
        return replace(self, values=self.values[:count], velocity=velocity)

    def sgd_step(
        self, grad_output: Float[Tensor, "k o b"], inputs: Float[Tensor, "k i b"], sgd: SgdConfig
    ) -> None:
        """Take a step along the gradient `grad_output @ inputs.mT`."""
        if self._is_plain(sgd):
            # One fused call: the gradient itself is never stored.
            rate = sgd.learning_rate * self.rate_factor
            self.values.baddbmm_(grad_output, inputs.mT, alpha=-rate)
        else:
            self.apply_gradient(torch.bmm(grad_output, inputs.mT), sgd)

    def apply_gradient(self, gradient: Float[Tensor, "k o i"], sgd: SgdConfig) -> None:
        """Take a step along a gradient, which is overwritten."""
        if sgd.weight_decay:
            gradient = gradient.add_(self.values, alpha=sgd.weight_decay)
        if sgd.mu:
            gradient = gradient.add_(self.values - self.start, alpha=sgd.mu)
        if self.velocity is not None:
            gradient = self.velocity.mul_(sgd.momentum).add_(gradient)
        self.values.sub_(gradient, alpha=sgd.learning_rate * self.rate_factor)

    def _is_plain(self, sgd: SgdConfig) -> bool:
        return not (sgd.weight_decay or sgd.mu or self.velocity is not None)


@dataclass(eq=False)
class DenseLayer:
    """A linear layer of every client's model, and the ReLU behind it if there is one."""

    weight: ParameterStack
    bias: ParameterStack
    has_relu: bool

    @property
    def stacks(self) -> tuple[ParameterStack, ...]:
        """The trained parameters, in the order of the module."""
        return self.weight, self.bias

    def narrow(self, count: int) -> "DenseLayer":
        """Return the layer of the first `count` clients, in the same memory."""
        return replace(self, weight=self.weight.narrow(count), bias=self.bias.narrow(count))

    def forward(self, inputs: Float[Tensor, "k i b"]) -> Float[Tensor, "k o b"]:
        """Return the outputs, before any ReLU."""
        return torch.baddbmm(self.bias.values, self.weight.values, inputs)

    def backward(self, grad_output: Float[Tensor, "k o b"]) -> Float[Tensor, "k i b"]:
        """Return the gradient of the loss by the inputs."""
        return torch.bmm(self.weight.values.mT, grad_output)

    def sgd_step(
        self, grad_output: Float[Tensor, "k o b"], inputs: Float[Tensor, "k i b"], sgd: SgdConfig
    ) -> None:
        """Take an SGD step on the trained parameters."""
        self.weight.sgd_step(grad_output, inputs, sgd)
        self.bias.apply_gradient(grad_output.sum(2, keepdim=True), sgd)


@dataclass(eq=False)
class LoRALayer:
    """A frozen linear layer common to all clients, with each client's low-rank change of it.

    The output is (W + s U D) x + c, computed without ever forming W + s U D for a client.

    Attributes:
        down: D, from the inputs to the rank.
        up: U, from the rank to the outputs.
        weight: W, the frozen weight.
        bias: c, the frozen bias.
        scaling: s, the factor of the change.
        has_relu: Whether a ReLU follows.
    """

    down: ParameterStack
    up: ParameterStack
    weight: Float[Tensor, "o i"]
    bias: Float[Tensor, "o 1"]
    scaling: float
    has_relu: bool

    @property
    def stacks(self) -> tuple[ParameterStack, ...]:
        """The trained parameters, in the order of the module."""
        return self.down, self.up

    def narrow(self, count: int) -> "LoRALayer":
        """Return the layer of the first `count` clients, in the same memory."""
        return replace(self, down=self.down.narrow(count), up=self.up.narrow(count))

    def forward(self, inputs: Float[Tensor, "k i b"]) -> Float[Tensor, "k o b"]:
        """Return the outputs, before any ReLU."""
        base = torch.bmm(self.weight.expand(len(inputs), -1, -1), inputs).add_(self.bias)
        hidden = torch.bmm(self.down.values, inputs)
        return base.baddbmm_(self.up.values, hidden, alpha=self.scaling)

    def backward(self, grad_output: Float[Tensor, "k o b"]) -> Float[Tensor, "k i b"]:
        """Return the gradient of the loss by the inputs."""
        base = torch.bmm(self.weight.mT.expand(len(grad_output), -1, -1), grad_output)
        grad_hidden = torch.bmm(self.up.values.mT, grad_output)
        return base.baddbmm_(self.down.values.mT, grad_hidden, alpha=self.scaling)

    def sgd_step(
        self, grad_output: Float[Tensor, "k o b"], inputs: Float[Tensor, "k i b"], sgd: SgdConfig
    ) -> None:
        """Take an SGD step on the trained parameters."""
        # Both gradients are those before the step: compute them before either factor moves.
        hidden = torch.bmm(self.down.values, inputs).mul_(self.scaling)
        grad_hidden = torch.bmm(self.up.values.mT, grad_output).mul_(self.scaling)
        self.up.sgd_step(grad_output, hidden, sgd)
        self.down.sgd_step(grad_hidden, inputs, sgd)


Layer = DenseLayer | LoRALayer


def stack_layers(
    model: nn.Sequential, start: Float[Tensor, " p"], sgd: SgdConfig, count: int
) -> list[Layer]:
    """Return the layers of a model, with the parameters `start` repeated for each client.

    Args:
        model: A model that `can_batch` accepts.
        start: The trained parameters as one vector.
        sgd: The settings of training, which say whether there is a momentum buffer.
        count: Number of clients.
    """
    trained = list_trained_parameters(model)
    pieces = start.split([parameter.numel() for parameter, _ in trained])
    stacks = iter(map(partial(_stack_parameter, sgd, count), trained, pieces))
    layers: list[Layer] = []
    modules = list(model)
    for index, module in enumerate(modules):
        has_relu = any(isinstance(m, nn.ReLU) for m in _until_next_layer(modules[index + 1 :]))
        if isinstance(module, nn.Linear):
            layers.append(DenseLayer(next(stacks), next(stacks), has_relu))
        elif isinstance(module, LowRank):
            base: Any = module.layer
            weight, bias = base.weight.detach(), base.bias.detach()[:, None]
            scaling = module.scaling
            layers.append(LoRALayer(next(stacks), next(stacks), weight, bias, scaling, has_relu))
    return layers


def _stack_parameter(
    sgd: SgdConfig, count: int, trained: tuple[nn.Parameter, float], piece: Float[Tensor, " q"]
) -> ParameterStack:
    parameter, rate_factor = trained
    start = piece.view(len(parameter), -1)
    values = start.expand(count, -1, -1).clone()
    velocity = torch.zeros_like(values) if sgd.momentum > 0 else None
    return ParameterStack(values, start, velocity, rate_factor)


def _until_next_layer(modules: list[nn.Module]) -> list[nn.Module]:
    return list(takewhile(lambda module: not _is_layer(module), modules))
