"""The models of many clients in one, and the step that all of them take together.

A kind of `StackedModels` stores each trained parameter of all clients in one `ParameterStack`, and
computes the gradients of all clients at once. There are two: `StackedLayers` of `batched_layers`,
with gradients written out by hand, and `StackedNetwork` of `batched_networks`, for other networks.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fl_sim.contracts import SgdConfig
from fl_sim.models.tuning import list_trained_parameters


class Targets(NamedTuple):
    """Labels and weights of one step's records, and the tensors that receive the model's outputs.

    Attributes:
        labels: Labels of the records.
        weights: Weight of each record in the mean over its batch; 0 for padding.
        log_likelihoods: Output: log-likelihood of each label.
        predictions: Output: predicted class of each record.
    """

    labels: Int64[Tensor, "k 1 b"]
    weights: Float[Tensor, "k 1 b"]
    log_likelihoods: Float[Tensor, "k 1 b"]
    predictions: Int64[Tensor, "k 1 b"]


class StackedModels(Protocol):
    """The models of `k` clients while they are trained."""

    @property
    def stacks(self) -> list["ParameterStack"]:
        """The trained parameters, in the order of the model."""

    def narrow(self, count: int) -> "StackedModels":
        """Return the models of the first `count` clients, in the same memory."""

    def take_step(self, records: Float[Tensor, "m ..."], targets: Targets, sgd: SgdConfig) -> None:
        """Take one SGD step per client, and write the outputs of the models before it to `targets`.

        Args:
            records: The records of all clients, as many of each, one client after another.
            targets: Labels and weights; receives log-likelihoods and predictions.
            sgd: The settings of training.
        """


@dataclass(eq=False)
class ParameterStack:
    """One parameter of every client's model.

    Attributes:
        values: The current values.
        start: The values before training, common to all clients.
        velocity: The momentum buffer; None without momentum.
        rate_factor: Factor of the client's learning rate for this parameter.
    """

    values: Float[Tensor, "k ..."]
    start: Float[Tensor, "..."]
    velocity: Float[Tensor, "k ..."] | None
    rate_factor: float

    def narrow(self, count: int) -> "ParameterStack":
        """Return the stack of the first `count` clients, in the same memory."""
        velocity = None if self.velocity is None else self.velocity[:count]
        return replace(self, values=self.values[:count], velocity=velocity)

    def apply_gradient(self, gradient: Float[Tensor, "k ..."], sgd: SgdConfig) -> None:
        """Take a step along a gradient, which is overwritten."""
        if sgd.weight_decay:
            gradient = gradient.add_(self.values, alpha=sgd.weight_decay)
        if sgd.mu:
            gradient = gradient.add_(self.values - self.start, alpha=sgd.mu)
        if self.velocity is not None:
            gradient = self.velocity.mul_(sgd.momentum).add_(gradient)
        self.values.sub_(gradient, alpha=sgd.learning_rate * self.rate_factor)


def stack_parameters(
    model: nn.Module, start: Float[Tensor, " p"], sgd: SgdConfig, count: int
) -> list[ParameterStack]:
    """Return the trained parameters of a model, with the values `start` for each client.

    Args:
        model: The model.
        start: The trained parameters as one vector.
        sgd: The settings of training, which say whether there is a momentum buffer.
        count: Number of clients.
    """
    trained = list_trained_parameters(model)
    pieces = start.split([parameter.numel() for parameter, _ in trained])
    stacks = []
    for (parameter, rate_factor), piece in zip(trained, pieces, strict=True):
        values = piece.expand(count, -1).clone().view(count, *parameter.shape)
        velocity = torch.zeros_like(values) if sgd.momentum > 0 else None
        stacks.append(ParameterStack(values, piece.view_as(parameter), velocity, rate_factor))
    return stacks
