"""The plain PyTorch loop: what a federation costs without any framework.

Tensors are loaded and normalised before the first round, batches are gathered by index, the
optimiser is torch's SGD as it comes, and the state of the model is a dictionary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines.task import Task, accuracy, rate_groups, task
from benchmarks.turns import Turns

State = dict[str, Tensor]


def run(turns: Turns, experiment: str, evaluate_every: int = 0, **_: Any) -> State:
    """Run the rounds of an experiment; evaluate now and then, if wanted."""
    ours = task(experiment)
    model, shards = ours.plain_model(), ours.preloaded
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for number in range(1, ours.ours.experiment.rounds + 1):
        turns.next()
        state = one_round(ours, model, state, shards, number)
        if evaluate_every and number % evaluate_every == 0:
            model.load_state_dict(state)
            accuracy(model, ours.preloaded_test)
    turns.next()
    return state


def one_round(
    ours: Task, model: nn.Sequential, state: State, shards: list[tuple[Tensor, Tensor]], number: int
) -> State:
    """Return the mean of the clients' states, weighted by their sizes."""
    total: State = {}
    weight = 0
    for client in ours.clients_of_round(number):
        model.load_state_dict(state)
        inputs, labels = shards[client]
        train(ours, model, inputs, labels, number, client)
        for name, value in model.state_dict().items():
            own = value * len(labels)
            total[name] = total[name] + own if name in total else own
        weight += len(labels)
    return {name: (value / weight).to(state[name].dtype) for name, value in total.items()}


def train(
    ours: Task, model: nn.Module, inputs: Tensor, labels: Tensor, number: int, client: int
) -> None:
    """Train one client in place."""
    optimizer = torch.optim.SGD(rate_groups(model, ours.learning_rate), lr=ours.learning_rate)
    model.train()
    for rows in ours.order(number, client, len(labels)):
        loss = functional.cross_entropy(model(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
