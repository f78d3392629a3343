"""The check of the q-FFL paper: three classes of Fashion-MNIST, one a client, and the published
accuracies of each.

The clients' gradients and the rules, without an engine. Data as the authors' code prepares them
(github.com/litian96/fair_flearn): every pixel standardised by all 60,000 images, 6,000 images a
client, one full gradient a round. The paper gives neither the learning rate nor the start; here
the rate is 0.03 at q = 0, where 0.1 does not settle, and 0.1 above, where the rule shortens its
steps itself.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import AggregationRule, Dataset, Senders
from fl_sim.data.sources import MissingDataError, load
from fl_sim.seeding import generator
from strategies.afl import AFL
from strategies.fedavg import FedAvg
from strategies.q_fedavg import QFedAvg

ROUNDS = 2500
SHIRT, PULLOVER, T_SHIRT = 6, 2, 0
CLASSES = (SHIRT, PULLOVER, T_SHIRT)


@dataclass
class Run:
    """A rule, the rate of its clients, and where its model stands: one row a class."""

    rule: AggregationRule
    rate: float
    model: Tensor = field(
        default_factory=lambda: 0.05 * torch.randn(3, 785, generator=generator(0, "start"))
    )
    state: Any = None


RUNS = {
    "q0": Run(QFedAvg(q=0.0, client_learning_rate=0.03), 0.03),
    "q5": Run(QFedAvg(q=5.0, client_learning_rate=0.1), 0.1),
    "q15": Run(QFedAvg(q=15.0, client_learning_rate=0.1), 0.1),
    "afl": Run(AFL(mixture_learning_rate=0.1), 0.03),
    "fedavg": Run(FedAvg(), 0.03),
}


def prepared(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return standardised pixels and a one, of each client's training and test images."""
    train, test = (
        images.flatten(1).float() for images in (dataset.train_images, dataset.test_images)
    )
    mean, deviation = train.mean(0), train.std(0, correction=0)
    found = []
    for pixels, labels in ((train, dataset.train_labels), (test, dataset.test_labels)):
        scaled = (pixels - mean) / (deviation + 0.001)
        own = torch.stack([scaled[labels == number] for number in CLASSES])
        found.append(torch.cat([own, torch.ones(*own.shape[:2], 1)], 2))
    return found[0], found[1]


def step(run: Run, number: int, gradients: Tensor, losses: Tensor) -> None:
    steps = torch.ones(3, dtype=torch.float64)
    senders = Senders(torch.arange(3), 3, number, 0, steps, losses.double())
    updates = (-run.rate * gradients).reshape(3, -1)
    decision = run.rule.decide(run.state, updates, 6000 * steps, senders)
    run.model = run.model + decision.step.view_as(run.model)
    run.state = decision.state


@pytest.fixture(scope="module")
def accuracies() -> dict[str, list[float]]:
    """Train by every rule at once, and return the accuracies of the classes in percent."""
    try:
        train, test = prepared(load("fashion_mnist"))
    except MissingDataError as error:
        pytest.skip(str(error))
    for number in range(1, ROUNDS + 1):
        models = torch.cat([run.model for run in RUNS.values()])
        scores = functional.linear(train, models).view(3, -1, len(RUNS), 3).log_softmax(-1)
        errors = scores.exp()
        for own in range(3):
            errors[own, ..., own] -= 1
        flat = errors.reshape(3, train.shape[1], -1)
        gradients = (flat.mT @ train / train.shape[1]).view(3, len(RUNS), 3, 785)
        losses = torch.stack([-scores[own, ..., own].mean(0) for own in range(3)])
        for i, run in enumerate(RUNS.values()):
            step(run, number, gradients[:, i], losses[:, i])
    return {
        name: [
            100 * float((images @ run.model.T).argmax(1).eq(own).double().mean())
            for own, images in enumerate(test)
        ]
        for name, run in RUNS.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [("q0", (66.0, 84.5, 85.9)), ("q5", (74.2, 78.9, 80.4)), ("q15", (74.7, 77.9, 78.7))],
)
def test_q_ffl_serves_each_client_as_published(
    name: str, published: tuple[float, ...], accuracies: dict[str, list[float]]
) -> None:
    assert accuracies[name] == [pytest.approx(value, abs=1.5) for value in published]


@pytest.mark.slow
def test_without_fairness_it_is_federated_averaging(accuracies: dict[str, list[float]]) -> None:
    assert accuracies["q0"] == accuracies["fedavg"]


@pytest.mark.slow
def test_agnostic_learning_serves_the_worst_better_than_published(
    accuracies: dict[str, list[float]],
) -> None:
    """71.4, 81.0 and 82.1 are published; settled, the losses are equal and shirts do better."""
    shirt, pullover, t_shirt = accuracies["afl"]
    assert shirt > max(71.4, accuracies["q0"][0] + 5)
    assert pullover == pytest.approx(81.0, abs=1.5)
    assert t_shirt == pytest.approx(82.1, abs=2.0)
