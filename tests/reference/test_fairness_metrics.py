"""Fairness over clients against the definitions, written out slowly."""

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import describe
from scipy.stats import entropy as scipy_entropy

from fl_sim.metrics.fairness import (
    best_share,
    cvar,
    entropy,
    gini,
    jain,
    parity_gap,
    spread,
    statistics,
    variance,
    worst_share,
)

# Accuracies are shares of a test set: k out of 1,000.
accuracies = st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=1, max_size=30)

NUMBERS = (spread, variance, parity_gap, worst_share, best_share, cvar, jain, gini, entropy)


def vector(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-12)


@given(accuracies)
def test_spread_is_the_population_deviation(values: list[float]) -> None:
    mean = math.fsum(values) / len(values)
    expected = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    assert spread(vector(values)) == close(expected)


@given(accuracies)
def test_the_variance_is_that_of_percents(values: list[float]) -> None:
    expected = describe([100 * v for v in values], ddof=0).variance
    assert variance(vector(values)) == pytest.approx(expected, abs=1e-8)


def test_the_variance_has_the_unit_of_the_papers() -> None:
    assert variance(vector([0.8, 0.9])) == pytest.approx(25, abs=1e-10)


@given(accuracies)
def test_the_parity_gap_is_the_range(values: list[float]) -> None:
    assert parity_gap(vector(values)) == close(max(values) - min(values))


@given(accuracies, st.floats(0.01, 1))
def test_cvar_is_its_maximum_over_thresholds(values: list[float], share: float) -> None:
    # concave and piecewise linear in the threshold, so the maximum lies at one of the values
    expected = max(
        c - math.fsum(max(c - x, 0) for x in values) / (share * len(values)) for c in values
    )
    assert cvar(vector(values), share) == pytest.approx(expected, abs=1e-10)


@given(accuracies, st.floats(0.01, 1))
def test_cvar_lies_between_the_worst_client_and_the_mean(values: list[float], share: float) -> None:
    mean = math.fsum(values) / len(values)
    assert min(values) - 1e-12 <= cvar(vector(values), share) <= mean + 1e-12


@given(accuracies)
def test_cvar_of_whole_clients_is_the_worst_share(values: list[float]) -> None:
    count = len(values)
    for taken in range(1, count + 1):
        share = taken / count
        assert cvar(vector(values), share) == close(worst_share(vector(values), share))


def test_cvar_takes_a_part_of_a_client() -> None:
    values = vector([0.1, 0.3] + [0.9] * 13)
    assert cvar(values, 0.1) == close((0.1 + 0.5 * 0.3) / 1.5)


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


@given(accuracies.filter(lambda values: len(values) > 1 and any(values)))
def test_entropy_is_that_of_scipy(values: list[float]) -> None:
    assert entropy(vector(values)) == close(scipy_entropy(values) / math.log(len(values)))


@pytest.mark.parametrize("count", [2, 5, 50])
def test_an_even_federation_has_the_values_of_the_docstrings(count: int) -> None:
    even = vector([0.7] * count)
    assert (spread(even), gini(even), parity_gap(even)) == (close(0), close(0), close(0))
    assert (variance(even), cvar(even)) == (close(0), close(0.7))
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
    for number in NUMBERS:
        assert number(vector(shuffled)) == close(number(vector(values)))


@given(accuracies)
def test_relative_measures_do_not_change_with_the_unit(values: list[float]) -> None:
    for number in (jain, gini, entropy):
        assert number(100 * vector(values)) == close(number(vector(values)))


@given(accuracies)
def test_leakage_is_read_from_the_other_end(values: list[float]) -> None:
    leaks = vector(values)
    mirrored, good = statistics(leaks, lowest_is_worst=False), statistics(1 - leaks)
    for name in ("worst_client", "worst_10_percent", "best_10_percent", "cvar_10_percent"):
        assert mirrored[name] == close(1 - good[name])
    for name in ("spread", "parity_gap"):
        assert mirrored[name] == close(good[name])


@given(accuracies, st.floats(0.001, 0.5))
def test_statistics_of_the_tail_never_look_at_nobody(values: list[float], share: float) -> None:
    for number in (worst_share, best_share, cvar):
        assert math.isfinite(number(vector(values), share))


@pytest.mark.parametrize("number", NUMBERS)
def test_single_precision_vectors_are_summed_in_double(number: object) -> None:
    values = torch.rand(200, generator=torch.Generator().manual_seed(0))
    assert number(values) == close(number(values.double()))  # type: ignore[operator]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda own: own.__name__)
@given(values=accuracies, gaps=st.integers(1, 5))
def test_what_is_not_defined_is_left_out(
    number: Callable[..., float], values: list[float], gaps: int
) -> None:
    holes = vector([math.nan] * gaps + values + [math.nan])
    assert number(holes) == close(number(vector(values)))
    assert statistics(holes) == statistics(vector(values))


@pytest.mark.parametrize("number", NUMBERS, ids=lambda own: own.__name__)
@pytest.mark.parametrize("nothing", [[], [math.nan], [math.nan] * 3])
def test_where_nothing_is_left_nothing_is_defined(
    number: Callable[..., float], nothing: list[float]
) -> None:
    assert math.isnan(number(vector(nothing)))
    assert all(math.isnan(value) for value in statistics(vector(nothing)).values())


def test_the_worst_of_one_client_and_an_undefined_one_is_that_one() -> None:
    assert worst_share(vector([0.5, math.nan])) == 0.5
    assert best_share(vector([0.5, math.nan])) == 0.5
    assert jain(vector([0.5, math.nan])) == 1.0
