"""Linear and LoRA layers of many small models, as batched matrix products.

For a stack of linear layers, one client's SGD step costs less than the calls that make it up. Here
the weights of all clients are stacked, so that a step of all clients takes as many calls as a step
of one. Each client's matrices have the same sizes however many clients there are, and one client
alone gets the same bits as among many. Activations are stored as columns, one per record, since
products with few classes are fastest in this layout. Gradients are written out by hand, since
autograd would cost more than the products.

Shapes: `k` clients, `b` records in a batch, `i` inputs and `o` outputs of a layer.
"""

from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import SgdConfig
from fl_sim.models.architectures import Normalise
from fl_sim.models.low_rank import LowRank
from fl_sim.models.tuning import find_precision
from fl_sim.training.stacked_models import ParameterStack, Targets, stack_parameters

SUPPORTED_MODULES = (nn.Linear, LowRank, Normalise, nn.ReLU, nn.Flatten, nn.Identity)


def is_stack_of_layers(model: nn.Sequential) -> bool:
    """Return whether the model is linear layers and ReLUs in single precision, all trained.

    For a LoRA layer, all of its low-rank change has to be trained, and its base layer frozen.
    """
    layers = [module for module in model if _is_layer(module)]
    return (
        bool(layers)
        and find_precision(model) != "bf16"
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
        return torch.baddbmm(self.bias.values[..., None], self.weight.values, inputs)

    def backward(self, grad_output: Float[Tensor, "k o b"]) -> Float[Tensor, "k i b"]:
        """Return the gradient of the loss by the inputs."""
        return torch.bmm(self.weight.values.mT, grad_output)

    def sgd_step(
        self, grad_output: Float[Tensor, "k o b"], inputs: Float[Tensor, "k i b"], sgd: SgdConfig
    ) -> None:
        """Take an SGD step on the trained parameters."""
        _apply_product(self.weight, grad_output, inputs, sgd)
        self.bias.apply_gradient(grad_output.sum(2), sgd)


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
        _apply_product(self.up, grad_output, hidden, sgd)
        _apply_product(self.down, grad_hidden, inputs, sgd)


Layer = DenseLayer | LoRALayer


@dataclass(eq=False)
class StackedLayers:
    """A stack of linear layers and ReLUs of every client.

    Attributes:
        layers: The layers.
        normalisers: Normalisation of images, in front of the layers.
    """

    layers: list[Layer]
    normalisers: list[Normalise]

    @property
    def stacks(self) -> list[ParameterStack]:
        """The trained parameters, in the order of the model."""
        return [stack for layer in self.layers for stack in layer.stacks]

    def narrow(self, count: int) -> "StackedLayers":
        """Return the layers of the first `count` clients, in the same memory."""
        return replace(self, layers=[layer.narrow(count) for layer in self.layers])

    def take_step(self, records: Float[Tensor, "m ..."], targets: Targets, sgd: SgdConfig) -> None:
        """Take one SGD step per client, and write the outputs of the models before it."""
        for normalise in self.normalisers:
            records = normalise(records)
        layers, (count, _, width) = self.layers, targets.labels.shape
        inputs = [records.reshape(count, width, -1).mT]
        for layer in layers:
            output = layer.forward(inputs[-1])
            inputs.append(output.relu_() if layer.has_relu else output)
        gradient = compute_loss_gradient(inputs.pop().log_softmax(1), targets, sgd.label_smoothing)
        for depth in reversed(range(len(layers))):
            layer, layer_inputs = layers[depth], inputs[depth]
            # Before the layer's step, which changes the weights that the gradient goes back
            # through.
            gradient_below = layer.backward(gradient) if depth > 0 else gradient
            layer.sgd_step(gradient, layer_inputs, sgd)
            gradient = gradient_below
            if depth > 0 and layers[depth - 1].has_relu:
                gradient *= layer_inputs > 0


def compute_loss_gradient(
    log_p: Float[Tensor, "k c b"], targets: Targets, smoothing: float
) -> Float[Tensor, "k c b"]:
    """Return the gradient of the mean cross-entropy by the logits, in the memory of `log_p`.

    Args:
        log_p: Log-probability of each class; overwritten.
        targets: Labels and weights; receives log-likelihoods and predictions.
        smoothing: Share of label smoothing, in [0, 1).
    """
    labels, weights, log_likelihoods, predictions = targets
    torch.gather(log_p, 1, labels, out=log_likelihoods)
    torch.argmax(log_p, 1, keepdim=True, out=predictions)
    if smoothing:
        log_likelihoods.mul_(1 - smoothing).add_(log_p.mean(1, keepdim=True), alpha=smoothing)
    # softmax(logits) - target, where the target of class j is (1 - s) [j = label] + s / c.
    gradient = log_p.exp_()
    if smoothing:
        gradient -= smoothing / log_p.shape[1]
    return gradient.scatter_(1, labels, smoothing - 1, reduce="add").mul_(weights)


def stack_layers(
    model: nn.Sequential, start: Float[Tensor, " p"], sgd: SgdConfig, count: int
) -> StackedLayers:
    """Return the layers of a model that `is_stack_of_layers` accepts; see `stack_parameters`."""
    stacks = iter(stack_parameters(model, start, sgd, count))
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
    return StackedLayers(layers, [module for module in modules if isinstance(module, Normalise)])


def _apply_product(
    stack: ParameterStack,
    grad_output: Float[Tensor, "k o b"],
    inputs: Float[Tensor, "k i b"],
    sgd: SgdConfig,
) -> None:
    """Take a step along the gradient `grad_output @ inputs.mT`."""
    if sgd.weight_decay or sgd.mu or stack.velocity is not None:
        stack.apply_gradient(torch.bmm(grad_output, inputs.mT), sgd)
    else:
        # One fused call: the gradient itself is never stored.
        rate = sgd.learning_rate * stack.rate_factor
        stack.values.baddbmm_(grad_output, inputs.mT, alpha=-rate)


def _until_next_layer(modules: list[nn.Module]) -> list[nn.Module]:
    return list(takewhile(lambda module: not _is_layer(module), modules))
