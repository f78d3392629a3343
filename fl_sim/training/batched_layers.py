"""The layers of many small models of one kind, their parameters stacked client by client."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import SgdConfig
from fl_sim.models.architectures import Normalise
from fl_sim.models.low_rank import LowRank
from fl_sim.models.tuning import list_trained_parameters

SUPPORTED_MODULES = (nn.Linear, LowRank, Normalise, nn.ReLU, nn.Flatten, nn.Identity)


def can_batch(model: nn.Sequential) -> bool:
    """Return whether the model is linear layers and rectifiers, and all of it is trained.

    Of a layer with a low-rank change, that change.
    """
    layers = [stage for stage in model if _is_layer(stage)]
    return (
        bool(layers)
        and all(type(stage) in SUPPORTED_MODULES for stage in model)
        and not any(isinstance(stage, nn.ReLU) for stage in _until_next_layer(list(model)))
        and all(_find_linear(layer) is not None for layer in layers)
    )


def _is_layer(stage: nn.Module) -> bool:
    return isinstance(stage, nn.Linear | LowRank)


def _find_linear(stage: nn.Module) -> nn.Linear | None:
    """Return the linear layer that a stage is or changes, if it is of use here."""
    inner = stage.layer if isinstance(stage, LowRank) else stage
    if type(inner) is not nn.Linear or inner.bias is None:
        return None
    trained = all(own.requires_grad for own in stage.parameters(recurse=False))
    common = inner is stage or not any(own.requires_grad for own in inner.parameters())
    return inner if trained and common else None


@dataclass(eq=False)
class ParameterStack:
    """One parameter of each client, with its velocity and its start."""

    values: Float[Tensor, "k o i"]
    start: Float[Tensor, "o i"]
    velocity: Float[Tensor, "k o i"] | None
    rate_factor: float  # of learning, as a share of the client's

    def narrow(self, count: int) -> "ParameterStack":
        """Return those of the first clients, in the same memory."""
        velocity = None if self.velocity is None else self.velocity[:count]
        return replace(self, values=self.values[:count], velocity=velocity)

    def sgd_step(
        self, slope: Float[Tensor, "k o b"], received: Float[Tensor, "k i b"], sgd: SgdConfig
    ) -> None:
        """Move along the gradient, which is the product of the two."""
        if self._is_plain(sgd):
            rate = sgd.learning_rate * self.rate_factor
            self.values.baddbmm_(slope, received.mT, alpha=-rate)
        else:
            self.apply_gradient(torch.bmm(slope, received.mT), sgd)

    def apply_gradient(self, gradient: Float[Tensor, "k o i"], sgd: SgdConfig) -> None:
        """Move along a gradient, which is overwritten."""
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
    """A linear layer of each client."""

    weight: ParameterStack
    bias: ParameterStack
    has_relu: bool

    @property
    def stacks(self) -> tuple[ParameterStack, ...]:
        """What is trained, in the order of the module."""
        return self.weight, self.bias

    def narrow(self, count: int) -> "DenseLayer":
        """Return the layers of the first clients, in the same memory."""
        return replace(self, weight=self.weight.narrow(count), bias=self.bias.narrow(count))

    def forward(self, inputs: Float[Tensor, "k i b"]) -> Float[Tensor, "k o b"]:
        """Return what comes out, before any rectifier."""
        return torch.baddbmm(self.bias.values, self.weight.values, inputs)

    def backward(self, slope: Float[Tensor, "k o b"]) -> Float[Tensor, "k i b"]:
        """Return the derivative of the loss by what came in."""
        return torch.bmm(self.weight.values.mT, slope)

    def sgd_step(
        self, slope: Float[Tensor, "k o b"], inputs: Float[Tensor, "k i b"], sgd: SgdConfig
    ) -> None:
        """Take a step."""
        self.weight.sgd_step(slope, inputs, sgd)
        self.bias.apply_gradient(slope.sum(2, keepdim=True), sgd)


@dataclass(eq=False)
class LoRALayer:
    """A linear layer that all have in common, with each client's low-rank change of it."""

    down: ParameterStack
    up: ParameterStack
    weight: Float[Tensor, "o i"]
    bias: Float[Tensor, "o 1"]
    has_relu: bool

    @property
    def stacks(self) -> tuple[ParameterStack, ...]:
        """What is trained, in the order of the module."""
        return self.down, self.up

    def narrow(self, count: int) -> "LoRALayer":
        """Return the layers of the first clients, in the same memory."""
        return replace(self, down=self.down.narrow(count), up=self.up.narrow(count))

    def forward(self, inputs: Float[Tensor, "k i b"]) -> Float[Tensor, "k o b"]:
        """Return what comes out, before any rectifier."""
        common = torch.bmm(self.weight.expand(len(inputs), -1, -1), inputs).add_(self.bias)
        return common.baddbmm_(self.up.values, torch.bmm(self.down.values, inputs))

    def backward(self, slope: Float[Tensor, "k o b"]) -> Float[Tensor, "k i b"]:
        """Return the derivative of the loss by what came in."""
        common = torch.bmm(self.weight.mT.expand(len(slope), -1, -1), slope)
        return common.baddbmm_(self.down.values.mT, torch.bmm(self.up.values.mT, slope))

    def sgd_step(
        self, slope: Float[Tensor, "k o b"], inputs: Float[Tensor, "k i b"], sgd: SgdConfig
    ) -> None:
        """Take a step."""
        narrow, back = torch.bmm(self.down.values, inputs), torch.bmm(self.up.values.mT, slope)
        self.up.sgd_step(slope, narrow, sgd)
        self.down.sgd_step(back, inputs, sgd)


Layer = DenseLayer | LoRALayer


def stack_layers(
    model: nn.Sequential, start: Float[Tensor, " p"], sgd: SgdConfig, count: int
) -> list[Layer]:
    """Return the layers of a model, once a client, as they stand at `start`."""
    trained = list_trained_parameters(model)
    pieces = start.split([parameter.numel() for parameter, _ in trained])
    stacks = iter(map(partial(_stack_parameter, sgd, count), trained, pieces))
    layers: list[Layer] = []
    stages = list(model)
    for index, stage in enumerate(stages):
        rectified = any(isinstance(s, nn.ReLU) for s in _until_next_layer(stages[index + 1 :]))
        if isinstance(stage, nn.Linear):
            layers.append(DenseLayer(next(stacks), next(stacks), rectified))
        elif isinstance(stage, LowRank):
            common = stage.layer
            assert common.bias is not None
            weight, bias = common.weight.detach(), common.bias.detach()[:, None]
            layers.append(LoRALayer(next(stacks), next(stacks), weight, bias, rectified))
    return layers


def _stack_parameter(
    sgd: SgdConfig,
    count: int,
    trained: tuple[nn.Parameter, float],
    piece: Float[Tensor, " q"],
) -> ParameterStack:
    parameter, rate = trained
    start = piece.view(len(parameter), -1)
    values = start.expand(count, -1, -1).clone()
    velocity = torch.zeros_like(values) if sgd.momentum > 0 else None
    return ParameterStack(values, start, velocity, rate)


def _until_next_layer(stages: list[nn.Module]) -> list[nn.Module]:
    return list(takewhile(lambda stage: not _is_layer(stage), stages))
