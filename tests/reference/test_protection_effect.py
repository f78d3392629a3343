"""Protections do what their papers say, as far as small grey images allow.

Trained centrally on 5,000 Fashion-MNIST images, all protected, 8 epochs, radius 16/255, seeds 0, 1
and 2. Bounds are on means over seeds, in points of accuracy; single seeds differ by more than ten.
"""

from collections.abc import Callable

import pytest
import torch

from clients.sgd import SgdClient
from fl_sim.contracts import Countermeasure, Dataset, Protection, Shard
from fl_sim.core.seeding import generator
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.sources import MissingDataError, load_dataset, take_subset
from fl_sim.experiment import Model
from fl_sim.models.architectures import to_channels_last
from fl_sim.models.tuning import build_network
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.rounds.measure import compute_logits

pytestmark = pytest.mark.slow
SEEDS, COUNT = (0, 1, 2), 5000
RADIUS = 16 / 255
EM = ErrorMinimizing(RADIUS, form="class")
ADVERSARY = AdversarialTraining(RADIUS / 2, steps=3, step_size=2.5 / 3 * RADIUS / 2)
Accuracy = Callable[..., float]


@pytest.fixture(scope="module")
def accuracy() -> Accuracy:
    """Return the mean accuracy over seeds after training on protected images."""
    try:
        dataset = take_subset(load_dataset("fashion_mnist"), COUNT, 2000)
    except MissingDataError as error:
        pytest.skip(str(error))

    def mean(protection: Protection | None, *countermeasures: Countermeasure) -> float:
        found = [central(dataset, protection, countermeasures, seed) for seed in SEEDS]
        return sum(found) / len(found)

    return mean


@pytest.fixture(scope="module")
def clean(accuracy: Accuracy) -> float:
    return accuracy(None)


def central(
    dataset: Dataset,
    protection: Protection | None,
    countermeasures: tuple[Countermeasure, ...],
    seed: int,
) -> float:
    images, labels, ids = dataset.train_images, dataset.train_labels, torch.arange(COUNT)
    if protection is not None:
        images = protection.protect(images, labels, ids, seed)
    model = to_channels_last(build_network(Model(), (1, 28, 28), 10, seed).trained)
    client = SgdClient(0.05, batch_size=64, local_epochs=8, countermeasures=countermeasures)
    client.train(model, Shard(0, images, labels, ids, 10), generator(seed, "central"))
    guesses = compute_logits(model, dataset.test_images).argmax(1)
    return float((guesses == dataset.test_labels).double().mean())


@pytest.mark.parametrize(
    ("protection", "points"),
    [
        (EM, 25),
        (ErrorMinimizing(RADIUS, noise_steps=5, step_size=RADIUS / 5), 15),
        (LinearSeparable(RADIUS), 15),
    ],
    ids=["EM class-wise", "EM sample-wise", "LSP"],
)
def test_protection_costs_accuracy(
    accuracy: Accuracy, clean: float, protection: Protection, points: float
) -> None:
    assert 100 * (clean - accuracy(protection)) >= points


def test_random_noise_costs_little(accuracy: Accuracy, clean: float) -> None:
    assert 100 * (clean - accuracy(RandomNoise(RADIUS))) <= 6


def test_adversarial_training_gives_back_what_em_took(accuracy: Accuracy, clean: float) -> None:
    """At half of the noise's radius, at least 80 % of the drop."""
    protected, regained = accuracy(EM), accuracy(EM, ADVERSARY)
    assert regained - protected >= 0.8 * (clean - protected)
