"""The plain loop with every optimisation that fl_sim uses, and no framework around it.

Channels last, 8-bit pixels gathered in batch and normalised in the model, 16-bit features, ReLU
after pooling, one flat vector of parameters, torch's fused operations on lists of tensors; linear
heads are trained side by side by batched matrix products.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines.heads import train_heads
from benchmarks.engines.task import Task, compute_accuracy, load_task, make_parameter_groups
from benchmarks.pacer import Pacer
from fl_sim.core.perturbation import as_floats


def run(pacer: Pacer, experiment: str, evaluate_every: int = 0, **_: Any) -> nn.Sequential:
    """Run the rounds of an experiment, with an evaluation every `evaluate_every` rounds."""
    task = load_task(experiment)
    plain = task.build_plain_model()
    is_head = task.epochs > 0 and all(isinstance(s, nn.Linear | nn.Flatten) for s in plain)
    model = plain if is_head else deepcopy(task.federation.model)
    inputs = load_head_inputs(task) if is_head else torch.empty(0)
    flat = flatten_parameters(model)
    for round_num in range(1, task.federation.experiment.rounds + 1):
        pacer.wait()
        if is_head:
            flat.copy_(train_heads(task, flat, inputs, round_num))
        else:
            run_round(task, model, flat, round_num)
        if evaluate_every and round_num % evaluate_every == 0:
            compute_accuracy(plain, task.preloaded_test)
    pacer.wait()
    return model


def load_head_inputs(task: Task) -> Tensor:
    """Return the inputs of heads: features as stored, or normalised pixels."""
    stored = task.federation.inputs
    return (stored if stored.is_floating_point() else task.normalise(stored)).flatten(1)


def run_round(task: Task, model: nn.Sequential, flat: Tensor, round_num: int) -> None:
    """Move the parameters to the mean of the clients', weighted by the size of their shards."""
    start, total, weight = flat.clone(), torch.zeros_like(flat), 0
    for client in task.select_clients(round_num):
        flat.copy_(start)
        inputs, labels = task.shards[client]
        train(task, model, inputs, labels, round_num, client)
        total.add_(flat, alpha=len(labels))
        weight += len(labels)
    flat.copy_(total.div_(weight))


def train(
    task: Task, model: nn.Module, inputs: Tensor, labels: Tensor, round_num: int, client: int
) -> None:
    """Train one client in place."""
    groups = make_parameter_groups(model, task.learning_rate)
    optimizer = torch.optim.SGD(groups, lr=task.learning_rate, foreach=True)
    model.train()
    for rows in task.iterate_batches(round_num, client, len(labels)):
        batch = inputs.index_select(0, rows)
        logits = model(as_floats(batch))
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()


def flatten_parameters(model: nn.Module) -> Tensor:
    """Make all parameters views of one vector, with their strides, and return it."""
    parameters = list(model.parameters())
    vector = torch.empty(sum(parameter.numel() for parameter in parameters))
    for parameter, piece in zip(
        parameters, vector.split([p.numel() for p in parameters]), strict=True
    ):
        view = piece.as_strided(parameter.shape, parameter.stride(), piece.storage_offset())
        parameter.data = view.copy_(parameter.data)
    return vector
