"""Calibration error and Brier score against their definitions and scikit-learn."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss
from torch import Tensor

from fl_sim.contracts import RoundRecord
from fl_sim.core.seeding import generator
from fl_sim.metrics.calibration import Calibration, brier_score, expected_calibration_error


def draw(count: int, num_classes: int, seed: int, sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    rng = generator(seed, "calibration")
    logits = sharpness * torch.randn(count, num_classes, generator=rng, dtype=torch.float64)
    return logits.softmax(1), torch.randint(num_classes, (count,), generator=rng)


def slow_error(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """Return equation 3 of Guo et al. (2017), by loops over bins and images."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = []
        for row, label in zip(probabilities, labels, strict=True):
            confidence = float(row.max())
            if (m - 1) / bins < confidence <= m / bins:
                inside.append((confidence, float(int(row.argmax()) == int(label))))
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(a for _, a in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@given(st.integers(1, 40), st.integers(2, 10), st.integers(0, 10**6))
def test_the_error_is_that_of_its_definition(count: int, num_classes: int, seed: int) -> None:
    probabilities, labels = draw(count, num_classes, seed)
    found = expected_calibration_error(probabilities, labels)
    assert found == pytest.approx(slow_error(probabilities, labels, 15), abs=1e-9)


@given(st.integers(5, 80), st.integers(2, 10), st.integers(0, 10**6))
def test_the_score_is_scikit_learns(count: int, num_classes: int, seed: int) -> None:
    probabilities, labels = draw(count, num_classes, seed)
    expected = brier_score_loss(
        labels.numpy(), probabilities.numpy(), labels=range(num_classes), scale_by_half=False
    )
    assert brier_score(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_lower_one() -> None:
    """In float, 0.6 * 15 is 9 but 0.2 * 15 above 3: both are the upper edges of their bins."""
    edges = torch.arange(1, 16, dtype=torch.float64) / 15
    just_below = edges - 1e-6
    for edge, below in zip(edges, just_below, strict=True):
        pair = torch.stack([edge, below])
        rest = ((1 - pair) / 20)[:, None].expand(2, 20)
        probabilities = torch.cat([pair[:, None], rest], 1)
        labels = torch.tensor([0, 1])  # one right, one wrong: in one bin they offset each other
        both = expected_calibration_error(probabilities, labels)
        assert both == pytest.approx(abs(0.5 - float(pair.mean())), abs=1e-5)


def test_a_calibrated_model_reads_what_the_bias_says() -> None:
    """Labels drawn from the probabilities: the error shrinks as 1 / sqrt(images)."""
    errors = {}
    for count in (100, 10_000):
        drawn = []
        for seed in range(8):
            probabilities, _ = draw(count, 10, seed, sharpness=1.0)
            labels = torch.multinomial(probabilities, 1, generator=generator(seed, "labels"))[:, 0]
            drawn.append(expected_calibration_error(probabilities, labels))
        errors[count] = sum(drawn) / len(drawn)
        assert 0 < errors[count] < 0.4 * math.sqrt(15 / count)
    assert 6 < errors[100] / errors[10_000] < 15


def test_rows_are_of_the_softmax_of_the_logits(observation: Callable[..., RoundRecord]) -> None:
    guessing = {row.metric: row.value for row in Calibration().rows(observation())}
    assert guessing == {"calibration_error": pytest.approx(0), "brier_score": pytest.approx(0.9)}
    labels = torch.arange(10).repeat(3)
    sure = 50 * torch.nn.functional.one_hot((labels + 1) % 10, 10).float()
    wrong = Calibration().rows(observation(test_logits=sure))
    assert [row.value for row in wrong] == [pytest.approx(1), pytest.approx(2)]
    assert all(
        math.isnan(value)
        for value in (
            expected_calibration_error(torch.empty(0, 3), torch.empty(0).long()),
            brier_score(torch.empty(0, 3), torch.empty(0).long()),
        )
    )
