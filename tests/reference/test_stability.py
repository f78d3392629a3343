"""Measures of stable noise on models where the right answer is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_sim.core.seeding import generator
from fl_sim.metrics import stability


class Threshold(nn.Module):
    """Two classes by the mean pixel: the logit is `slope` times its distance from a half."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images: Tensor) -> Tensor:
        score = self.slope * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-score, score], 1)


LABELS = torch.arange(40) % 2
IMAGES = (0.4 + 0.2 * LABELS).view(-1, 1, 1, 1).expand(-1, 1, 3, 3).contiguous()


def loss_at(distance: float, slope: float) -> float:
    """Cross-entropy where the mean pixel lies `distance` on the right side."""
    return math.log1p(math.exp(-2 * slope * distance))


def test_delusiveness_is_the_mean_loss() -> None:
    found = stability.delusiveness(Threshold(10.0), IMAGES, LABELS)
    assert found == pytest.approx(loss_at(0.1, 10), rel=1e-4)
    wrong = stability.delusiveness(Threshold(10.0), IMAGES, 1 - LABELS)
    assert wrong == pytest.approx(loss_at(-0.1, 10), rel=1e-4)
    even = stability.delusiveness(Threshold(0.0), IMAGES, LABELS)
    assert even == pytest.approx(math.log(2))


@pytest.mark.parametrize(("noise", "adversary"), [(0.05, 0.02), (0.02, 0.05)])
def test_the_robustness_of_a_threshold_is_known(noise: float, adversary: float) -> None:
    """The adversary moves pixels to the wrong side by its radius, the noise back by its own."""
    found = stability.surrogate_robustness(
        Threshold(10.0), IMAGES, LABELS, noise, adversary, generator(0, "attack")
    )
    assert found == pytest.approx(-loss_at(0.1 + noise - adversary, 10), rel=1e-3)


def test_the_model_is_left_as_it_was() -> None:
    model = Threshold(10.0).train()
    stability.surrogate_robustness(model, IMAGES, LABELS, 0.1, 0.1, generator(0, "attack"))
    assert model.training
    assert model.slope.requires_grad
    assert model.slope.grad is None


def test_the_robustness_of_noise_counts_what_is_left_after_retraining() -> None:
    """A training that does not look gives the loss at the adversary's corner."""
    seen: list[Tensor] = []

    def train(images: Tensor) -> nn.Module:
        seen.append(images)
        return Threshold(10.0)

    found = stability.noise_robustness(
        train, IMAGES, torch.zeros_like(IMAGES), LABELS, 0.03, generator(0, "attack")
    )
    assert found == pytest.approx(-loss_at(0.07, 10), rel=1e-3)
    assert len(seen) == 3
    assert all(float((own - IMAGES).abs().max()) <= 0.03 + 1e-6 for own in seen)


def test_stability_is_the_opposite_of_the_least_delusiveness_over_draws() -> None:
    slopes = iter([-3.0, -1.0, -2.0])

    def train(images: Tensor) -> nn.Module:
        return Threshold(next(slopes))

    found = stability.stability(train, IMAGES, IMAGES, LABELS, 0.01, generator(0, "draws"))
    assert found == pytest.approx(-loss_at(-0.1, 1), rel=1e-4)


def test_the_worst_draw_is_not_known_where_a_model_diverged() -> None:
    slopes = iter([-3.0, math.nan, -2.0])

    def train(images: Tensor) -> nn.Module:
        return Threshold(next(slopes))

    found = stability.stability(train, IMAGES, IMAGES, LABELS, 0.01, generator(0, "draws"))
    assert math.isnan(found)


def test_delusiveness_trains_through_transforms_where_it_is_given_any() -> None:
    seen: list[Tensor] = []

    def train(images: Tensor) -> nn.Module:
        seen.append(images)
        return Threshold(-2.0)

    plain = stability.measure_delusiveness(train, IMAGES, IMAGES, LABELS)
    mirrored = stability.measure_delusiveness(
        train, IMAGES, IMAGES, LABELS, lambda own: own.flip(3)
    )
    assert plain == mirrored == pytest.approx(loss_at(-0.1, 2), rel=1e-4)
    assert torch.equal(seen[0], IMAGES)
    assert torch.equal(seen[1], IMAGES.flip(3))


def by_definition(first: list[float], second: list[float]) -> tuple[float, float, float]:
    def pearson(x: list[float], y: list[float]) -> float:
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        top = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
        return top / math.sqrt(
            sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)
        )

    def ranks(x: list[float]) -> list[float]:
        return [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]

    def sign(value: float) -> int:
        return (value > 0) - (value < 0)

    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    ordered = [(sign(first[i] - first[j]), sign(second[i] - second[j])) for i, j in pairs]
    untied = math.sqrt(sum(a != 0 for a, _ in ordered) * sum(b != 0 for _, b in ordered))
    kendall = sum(a * b for a, b in ordered) / untied
    return pearson(first, second), pearson(ranks(first), ranks(second)), kendall


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=12))
def test_correlations_are_those_of_their_definitions(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = stability.correlations(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert all(math.isnan(value) for value in found)
    else:
        assert tuple(found) == pytest.approx(by_definition(first, second), abs=1e-9)


def test_pairs_without_a_number_are_left_out() -> None:
    nan = math.nan
    found = stability.correlations([1.0, nan, 2.0, 3.0, 9.0], [2.0, 5.0, 4.0, 5.0, nan])
    assert found == stability.correlations([1.0, 2.0, 3.0], [2.0, 4.0, 5.0])
    assert all(math.isnan(v) for v in stability.correlations([1.0, 2.0, nan], [1.0, 3.0, 2.0]))


def test_two_values_say_nothing() -> None:
    assert all(math.isnan(value) for value in stability.correlations([1.0, 2.0], [3.0, 5.0]))
    with pytest.raises(ValueError, match="as many values on both sides; got 1 and 2"):
        stability.correlations([1.0], [1.0, 2.0])
