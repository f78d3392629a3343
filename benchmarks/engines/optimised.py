"""The same loop with every trick that the engine uses, and no framework around it.

Channels last, pixels of 8 bits gathered in batch and normalised in the model, features of 16
bits, ReLU after pooling, one flat vector of parameters, torch's fused operations on lists of
tensors; linear heads are trained side by side by batched matrix products.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines.heads import train_heads
from benchmarks.engines.task import Task, accuracy, rate_groups, task
from benchmarks.turns import Turns
from fl_sim.core.perturbation import as_floats


def run(turns: Turns, experiment: str, evaluate_every: int = 0, **_: Any) -> nn.Sequential:
    """Run the rounds of an experiment; evaluate now and then, if wanted."""
    ours = task(experiment)
    plain = ours.plain_model()
    is_head = ours.epochs > 0 and all(isinstance(s, nn.Linear | nn.Flatten) for s in plain)
    model = plain if is_head else deepcopy(ours.ours.model)
    inputs = records(ours) if is_head else torch.empty(0)
    flat = flattened(model)
    for number in range(1, ours.ours.experiment.rounds + 1):
        turns.next()
        if is_head:
            flat.copy_(train_heads(ours, flat, inputs, number))
        else:
            one_round(ours, model, flat, number)
        if evaluate_every and number % evaluate_every == 0:
            accuracy(plain, ours.preloaded_test)
    turns.next()
    return model


def records(ours: Task) -> Tensor:
    """Return what heads are trained on: features as they are stored, or pixels normalised."""
    stored = ours.ours.inputs
    return (stored if stored.is_floating_point() else ours.prepared(stored)).flatten(1)


def one_round(ours: Task, model: nn.Sequential, flat: Tensor, number: int) -> None:
    """Move the parameters to the mean of the clients', weighted by their sizes."""
    start, total, weight = flat.clone(), torch.zeros_like(flat), 0
    for client in ours.clients_of_round(number):
        flat.copy_(start)
        inputs, labels = ours.shards[client]
        train(ours, model, inputs, labels, number, client)
        total.add_(flat, alpha=len(labels))
        weight += len(labels)
    flat.copy_(total.div_(weight))


def train(
    ours: Task, model: nn.Module, inputs: Tensor, labels: Tensor, number: int, client: int
) -> None:
    """Train one client in place."""
    groups = rate_groups(model, ours.learning_rate)
    optimizer = torch.optim.SGD(groups, lr=ours.learning_rate, foreach=True)
    model.train()
    for rows in ours.order(number, client, len(labels)):
        batch = inputs.index_select(0, rows)
        logits = model(as_floats(batch))
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()


def flattened(model: nn.Module) -> Tensor:
    """Make all parameters views of one vector, each laid out as it was, and return it."""
    parameters = list(model.parameters())
    vector = torch.empty(sum(parameter.numel() for parameter in parameters))
    for parameter, piece in zip(
        parameters, vector.split([p.numel() for p in parameters]), strict=True
    ):
        view = piece.as_strided(parameter.shape, parameter.stride(), piece.storage_offset())
        parameter.data = view.copy_(parameter.data)
    return vector
