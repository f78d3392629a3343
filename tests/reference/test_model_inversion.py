"""Model inversion: parts against hand values, and the whole on digits."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clients.sgd import smoothed_cross_entropy
from fl_sim.attacks.model_inversion import (
    PriorGuidedInversion,
    crop_randomly,
    poincare_distance,
    train_generator,
)
from fl_sim.config.experiment_file import load_python
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.sources import load_dataset
from fl_sim.metrics.extraction import attack_accuracy, feature_distance, knowledge_extraction

QUICK = PriorGuidedInversion(samples=600, candidates=20, kept=10, steps=20, crops=5)


def network(seed: int, hidden: int = 64) -> nn.Sequential:
    with seed_torch(seed, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def train(seed: int, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> nn.Sequential:
    model, rng = network(seed), generator(seed, "order")
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(60):
        # Negative smoothing from the first step does not train: it starts half-way.
        now = 0.0 if smoothing < 0 and epoch < 30 else smoothing
        for rows in torch.randperm(len(images), generator=rng).split(32):
            optimiser.zero_grad()
            smoothed_cross_entropy(model(images[rows]), labels[rows], now).backward()
            optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    loaded = load_dataset("digits")
    return as_pixels(loaded.train_images), loaded.train_labels


def test_the_poincare_loss_has_its_hand_value() -> None:
    """u = (0.75, -0.25) and v = (0.9999, 0)."""
    logits = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    apart = (0.75 - 0.9999) ** 2 + 0.25**2
    room = (1 - 0.75**2 - 0.25**2) * (1 - 0.9999**2)
    expected = math.acosh(1 + 2 * apart / room)
    assert float(poincare_distance(logits, torch.tensor([0]))) == pytest.approx(expected, rel=1e-6)


def test_a_surer_model_is_closer() -> None:
    logits = torch.tensor([[1.0, 1.0], [5.0, 1.0], [5.0, 0.1]])
    distance = poincare_distance(logits, torch.zeros(3, dtype=torch.int64))
    assert bool((distance.diff() < 0).all())


def test_a_crop_of_the_whole_image_is_the_image() -> None:
    images = torch.rand(4, 1, 8, 8, generator=generator(0))
    whole = crop_randomly(images, 1.0, 1.0, generator(1))
    torch.testing.assert_close(whole, images, rtol=1e-4, atol=1e-5)


def test_a_crop_shows_a_part_larger() -> None:
    """Of a ramp, a crop shows a shorter range of values."""
    ramp = torch.linspace(0, 1, 32).expand(6, 1, 32, 32)
    part = crop_randomly(ramp, 0.5, 0.5, generator(0))
    span = (part.amax((1, 2, 3)) - part.amin((1, 2, 3))) / (31 / 32)
    torch.testing.assert_close(span, torch.full((6,), 0.5**0.5), rtol=0.05, atol=0.05)


def test_accuracy_at_k_by_hand() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 1, 0])
    assert attack_accuracy(logits, labels) == pytest.approx(1 / 3)
    assert attack_accuracy(logits, labels, top=2) == pytest.approx(2 / 3)


def test_the_distance_is_to_the_nearest_image_of_the_class() -> None:
    found, labels = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
    real = torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 1.0]])
    assert feature_distance(found, labels, real, torch.tensor([0, 0, 1])) == pytest.approx(0.5)


def test_candidates_have_to_be_drawn() -> None:
    with pytest.raises(FieldError, match="candidates: at least kept and at most samples"):
        PriorGuidedInversion(samples=10, candidates=20)


def test_an_inversion_finds_images_of_each_class(digits: tuple[Tensor, Tensor]) -> None:
    """Private, public and the evaluator's digits are disjoint; guessing gives 0.1."""
    images, labels = digits
    model = train(0, images[:400], labels[:400])
    evaluator = train(1, images[400:800], labels[400:800])
    prior = train_generator(images[800:1200], seed=0, epochs=20)
    found, classes = QUICK.reconstruct(model, prior, 10, seed=0)
    again, _ = QUICK.reconstruct(model, prior, 10, seed=0)
    assert torch.equal(found, again)
    assert found.shape == (100, 1, 8, 8)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    with torch.no_grad():
        assert attack_accuracy(evaluator(found), classes) > 0.8


@pytest.mark.slow
def test_smoothing_helps_and_negative_smoothing_hinders_extraction(
    digits: tuple[Tensor, Tensor],
) -> None:
    """Mean extraction score over 3 seeds: positive above none above negative smoothing."""
    images, labels = digits
    private, private_labels = images[:500], labels[:500]
    attack = PriorGuidedInversion(samples=1000, candidates=50, kept=25)
    score = {0.1: 0.0, 0.0: 0.0, -0.05: 0.0}
    for seed in range(3):
        prior = train_generator(images[500:1000], seed)

        def accuracy(student: nn.Module) -> float:
            with torch.no_grad():
                return float((student(private).argmax(1) == private_labels).double().mean())

        for smoothing in score:
            model = train(seed, private, private_labels, smoothing)
            found, classes = attack.reconstruct(model, prior, 10, seed)
            student = network(seed + 10)
            score[smoothing] += knowledge_extraction(student, found, classes, accuracy, seed) / 3
    print("extraction score by smoothing:", score)
    assert score[0.1] > score[0.0] > score[-0.05]
    assert score[-0.05] > 0.2


def test_negative_smoothing_comes_on_between_half_and_three_quarters_of_training() -> None:
    """Struppek et al. (2024): none for half of the epochs, then a ramp, then all of it."""
    module = load_python(Path(__file__).parents[2] / "experiments/label_smoothing_inversion.py")
    on = [module.ramp(share) for share in (0.0, 0.25, 0.5, 0.625, 0.75, 1.0)]
    assert on == [0.0, 0.0, 0.0, 0.5, 1.0, 1.0]
