"""The plain PyTorch loop: the cost of a federation without any framework.

Tensors are loaded and normalised before the first round, batches are gathered by index, the
optimiser is an unmodified `torch.optim.SGD`, and the state of the model is a dictionary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines.task import Task, compute_accuracy, load_task, make_parameter_groups
from benchmarks.pacer import Pacer

State = dict[str, Tensor]


def run(pacer: Pacer, experiment: str, evaluate_every: int = 0, **_: Any) -> State:
    """Run the rounds of an experiment, with an evaluation every `evaluate_every` rounds."""
    task = load_task(experiment)
    model, shards = task.build_plain_model(), task.preloaded
    state = {name: value.clone() for name, value in task.get_state(model).items()}
    for round_num in range(1, task.federation.experiment.rounds + 1):
        pacer.wait()
        state = run_round(task, model, state, shards, round_num)
        if evaluate_every and round_num % evaluate_every == 0:
            model.load_state_dict(state, strict=False)
            compute_accuracy(model, task.preloaded_test)
    pacer.wait()
    return state


def run_round(
    task: Task,
    model: nn.Sequential,
    state: State,
    shards: list[tuple[Tensor, Tensor]],
    round_num: int,
) -> State:
    """Return the mean of the clients' states, weighted by the size of their shards."""
    total: State = {}
    weight = 0
    for client in task.select_clients(round_num):
        model.load_state_dict(state, strict=False)
        inputs, labels = shards[client]
        train(task, model, inputs, labels, round_num, client)
        for name, value in task.get_state(model).items():
            weighted = value * len(labels)
            total[name] = total[name] + weighted if name in total else weighted
        weight += len(labels)
    return {name: (value / weight).to(state[name].dtype) for name, value in total.items()}


def train(
    task: Task, model: nn.Module, inputs: Tensor, labels: Tensor, round_num: int, client: int
) -> None:
    """Train one client in place."""
    groups = make_parameter_groups(model, task.learning_rate)
    optimizer = torch.optim.SGD(groups, lr=task.learning_rate)
    model.train()
    for rows in task.iterate_batches(round_num, client, len(labels)):
        loss = functional.cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
