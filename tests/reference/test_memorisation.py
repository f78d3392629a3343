"""Memorisation of a mark in one training image: by definition, and with controls."""

import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.attacks.memorisation import LETTER_A, mark_bytes, mark_images, measure_memorisation
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.sources import load_dataset
from fl_sim.metrics._shared.intervals import sign_test


def network(seed: int) -> nn.Sequential:
    with seed_torch(seed, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def other_images(count: int, seed: int = 0) -> Tensor:
    """Smooth random fields: no digits."""
    coarse = torch.rand(count, 1, 7, 7, generator=generator(seed, "fields"))
    return functional.interpolate(coarse, (28, 28), mode="bilinear")


def trained(seed: int, with_mark: bool) -> tuple[nn.Sequential, int]:
    """Train on 500 digits of 28 x 28 pixels, one of which is marked; return its label too."""
    digits = load_dataset("digits")
    images = functional.interpolate(as_pixels(digits.train_images[:500]), (28, 28), mode="bilinear")
    labels = digits.train_labels[:500]
    carrier = int(torch.randint(0, 500, (1,), generator=generator(seed, "carrier")))
    if with_mark:
        images[carrier] = mark_images(images[carrier : carrier + 1])[0]
    model, rng = network(seed), generator(seed, "order")
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(40):
        for rows in torch.randperm(500, generator=rng).split(50):
            optimiser.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimiser.step()
    return model, int(labels[carrier])


def test_the_mark_is_written_into_the_corner_and_nowhere_else() -> None:
    images = other_images(3)
    copy = mark_images(images)
    assert torch.equal(copy[:, 0, 1:6, 1:6], LETTER_A.expand(3, 5, 5))
    copy[:, :, 1:6, 1:6] = images[:, :, 1:6, 1:6]
    assert torch.equal(copy, images)


def test_a_stored_image_is_marked_in_bytes() -> None:
    image = torch.full((3, 8, 8), 7, dtype=torch.uint8)
    assert torch.equal(mark_bytes(image)[0, 1:6, 1:6], (255 * LETTER_A).to(torch.uint8))
    assert torch.equal(mark_bytes(image)[:, 0], image[:, 0])


def test_the_scores_are_differences_of_divergences() -> None:
    """KL(one-hot || f) is minus the log-probability; the random patches are drawn by name."""
    model, images, label = network(0), other_images(40), 3
    rng = generator(9, "random patches")
    patches = torch.randint(0, 2, (40, 1, 5, 5), generator=rng).float()
    with torch.no_grad():
        plain, mark, other = (
            model(own).double().softmax(1).numpy()
            for own in (images, mark_images(images), mark_images(images, patches))
        )
    one_hot = torch.eye(10, dtype=torch.float64)[label].numpy()

    def divergence(p: Tensor, q: Tensor) -> float:
        return float(rel_entr(p, q).sum(-1).mean())

    found = measure_memorisation(model, images, label, seed=9)
    known = divergence(one_hot, other) - divergence(one_hot, mark)
    unknown = divergence(plain, mark) - divergence(plain, other)
    assert found.known == pytest.approx(known, abs=1e-6)
    assert found.unknown == pytest.approx(unknown, abs=1e-6)


def test_the_sign_test_is_scipys() -> None:
    differences = torch.randn(31, generator=generator(0, "signs")) + 0.4
    share, low, high, p = sign_test(differences)
    expected = binomtest(int((differences > 0).sum()), 31, alternative="greater")
    assert p == pytest.approx(expected.pvalue)
    assert share == pytest.approx(expected.statistic)
    both = binomtest(int((differences > 0).sum()), 31).proportion_ci()
    assert (low, high) == pytest.approx((both.low, both.high))


@pytest.mark.slow
def test_models_that_saw_the_mark_know_it_and_others_do_not() -> None:
    """10 seeds. Controls are compared with each other: one without the mark against the next."""
    images = other_images(500)
    with_mark, without, elsewhere = [], [], []
    for seed in range(10):
        model, label = trained(seed, with_mark=True)
        control, _ = trained(seed, with_mark=False)
        another, _ = trained(seed + 100, with_mark=False)
        with_mark.append(measure_memorisation(model, images, label, seed).known)
        without.append(measure_memorisation(control, images, label, seed).known)
        elsewhere.append(measure_memorisation(another, images, label, seed).known)
    gained = torch.tensor(with_mark) - torch.tensor(without)
    print("with the mark, over the control:", gained)
    assert int((gained > 0).sum()) >= 8
    assert sign_test(torch.tensor(elsewhere) - torch.tensor(without))[3] > 0.05
