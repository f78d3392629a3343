"""Fairness over clients against the definitions, written out slowly."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.metrics.fairness import best_share, entropy, gini, jain, spread, worst_share

# Accuracies are shares of a test set: k out of 1,000.
accuracies = st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=1, max_size=30)


def vector(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-12)


@given(accuracies)
def test_spread_is_the_population_deviation(values: list[float]) -> None:
    mean = math.fsum(values) / len(values)
    expected = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    assert spread(vector(values)) == close(expected)


@given(accuracies, st.sampled_from(["1/10", "1/5", "1/4", "3/10", "29/100", "57/100", "1"]))
def test_the_worst_share_is_the_mean_of_the_lowest(values: list[float], share: str) -> None:
    count = max(1, int(Fraction(share) * len(values)))
    expected = math.fsum(sorted(values)[:count]) / count
    assert worst_share(vector(values), float(Fraction(share))) == close(expected)


@pytest.mark.parametrize("count", [10, 20, 30, 70, 100, 1000])
@pytest.mark.parametrize("percent", [1, 7, 10, 14, 28, 29, 57, 58])
def test_a_share_of_the_clients_is_counted_exactly(count: int, percent: int) -> None:
    wanted = max(1, percent * count // 100)
    values = vector([0.0] * wanted + [1.0] * (count - wanted))
    assert worst_share(values, percent / 100) == 0.0
    one_more = vector([0.0] * (wanted - 1) + [1.0] * (count - wanted + 1))
    assert worst_share(one_more, percent / 100) > 0.0


@given(accuracies)
def test_the_best_share_is_the_mean_of_the_highest(values: list[float]) -> None:
    count = max(1, len(values) // 10)
    expected = math.fsum(sorted(values, reverse=True)[:count]) / count
    assert best_share(vector(values)) == close(expected)


@given(accuracies)
def test_jains_index_is_its_definition(values: list[float]) -> None:
    squares = math.fsum(v * v for v in values)
    expected = math.fsum(values) ** 2 / (len(values) * squares) if squares else 1.0
    assert jain(vector(values)) == close(expected)


@given(accuracies)
def test_ginis_coefficient_is_half_the_relative_mean_difference(values: list[float]) -> None:
    count, total = len(values), math.fsum(values)
    pairs = math.fsum(abs(a - b) for a in values for b in values)
    expected = pairs / (2 * count * total) if total else 0.0
    assert gini(vector(values)) == close(expected)


@given(accuracies)
def test_entropy_is_that_of_the_shares_over_its_maximum(values: list[float]) -> None:
    total = math.fsum(values)
    shares = [v / total for v in values if v] if total else []
    expected = 1.0
    if len(values) > 1 and total:
        expected = -math.fsum(s * math.log(s) for s in shares) / math.log(len(values))
    assert entropy(vector(values)) == close(expected)


@pytest.mark.parametrize("count", [2, 5, 50])
def test_an_even_federation_has_the_values_of_the_docstrings(count: int) -> None:
    even = vector([0.7] * count)
    assert (spread(even), gini(even)) == (close(0), close(0))
    assert (jain(even), entropy(even)) == (close(1), close(1))


@pytest.mark.parametrize("count", [2, 5, 50])
def test_one_client_that_has_all_has_the_values_of_the_docstrings(count: int) -> None:
    one = vector([0.0] * (count - 1) + [0.9])
    assert (jain(one), gini(one), entropy(one)) == (
        close(1 / count),
        close(1 - 1 / count),
        close(0),
    )


@given(accuracies, st.randoms(use_true_random=False))
def test_the_order_of_clients_does_not_matter(values: list[float], random: object) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for number in (spread, worst_share, best_share, jain, gini, entropy):
        assert number(vector(shuffled)) == close(number(vector(values)))


@given(accuracies)
def test_relative_measures_do_not_change_with_the_unit(values: list[float]) -> None:
    for number in (jain, gini, entropy):
        assert number(100 * vector(values)) == close(number(vector(values)))


@pytest.mark.parametrize("number", [spread, worst_share, best_share, jain, gini, entropy])
def test_single_precision_vectors_are_summed_in_double(number: object) -> None:
    values = torch.rand(200, generator=torch.Generator().manual_seed(0))
    assert number(values) == close(number(values.double()))  # type: ignore[operator]
