"""Contributions and benefits against their definitions: all coalitions, all orders."""

import math
from collections.abc import Callable
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from torch import Tensor

from fl_sim.core.seeding import generator
from fl_sim.metrics.benefit import benefit_rows, gain_spread, mean_gain, worse_off_share
from fl_sim.metrics.contribution import (
    _marginal_contributions,
    coalition_step,
    collaborative_fairness,
    contribution_rows,
    gradient_cosine,
    gtg_shapley,
    leave_one_out,
)

SIZE = 7
Utility = Callable[[Tensor], float]


def round_of(count: int, name: str = "round") -> tuple[Tensor, Tensor]:
    rng = generator(0, name, count)
    return torch.randn(count, SIZE, generator=rng), torch.rand(count, generator=rng) + 0.5


def bowl(step: Tensor, weight: float = 0.0) -> float:
    """Return a worth that has a maximum, so that clients can reduce each other's effect."""
    return -float((step - 0.3).square().sum())


def mean_of(updates: Tensor, weights: Tensor, members: tuple[int, ...]) -> Tensor:
    if not members:
        return torch.zeros(updates.shape[1], dtype=torch.float64)
    total = sum(float(weights[i]) * updates[i].double() for i in members)
    assert isinstance(total, Tensor)
    return total / sum(float(weights[i]) for i in members)


def exact_shapley(updates: Tensor, weights: Tensor, utility: Utility) -> list[float]:
    """Sum what a client adds to each coalition of others, by the chance of that coalition."""
    count = len(updates)
    values = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        value = 0.0
        for size in range(count):
            chance = 1 / (count * math.comb(count - 1, size))
            for members in combinations(others, size):
                without = utility(mean_of(updates, weights, members))
                value += chance * (utility(mean_of(updates, weights, (*members, i))) - without)
        values.append(value)
    return values


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("members", [(), (0,), (1, 3), (0, 1, 2, 3)])
def test_a_coalitions_step_is_the_weighted_mean(members: tuple[int, ...]) -> None:
    updates, weights = round_of(4)
    step = coalition_step(updates, weights, frozenset(members))
    assert torch.allclose(step, mean_of(updates, weights, members), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_leaving_one_out_is_the_difference_to_all_the_others(count: int) -> None:
    updates, weights = round_of(count)
    everybody = tuple(range(count))
    whole = bowl(mean_of(updates, weights, everybody))
    for i, value in enumerate(leave_one_out(updates, weights, bowl).tolist()):
        rest = tuple(j for j in everybody if j != i)
        assert value == close(whole - bowl(mean_of(updates, weights, rest)))


def test_who_repeats_another_adds_nothing_when_left_out() -> None:
    updates = round_of(3)[0].double()
    average = torch.cat([updates, updates.mean(0, keepdim=True)])
    assert float(leave_one_out(average, torch.ones(4), bowl)[3]) == close(0)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shapley_values_come_close_to_their_definition(count: int) -> None:
    updates, weights = round_of(count)
    expected = torch.tensor(exact_shapley(updates, weights, bowl), dtype=torch.float64)
    estimates = [
        gtg_shapley(updates, weights, bowl, generator(i), 0.0, max_cycles=100, exact_up_to=0)
        for i in range(40)
    ]
    scale = float(expected.abs().max())
    assert torch.allclose(torch.stack(estimates).mean(0), expected, rtol=0, atol=0.04 * scale)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_shapley_values_of_few_clients_are_their_definition(count: int) -> None:
    """At the usual truncation, which cuts nothing off here, and whatever the seed."""
    updates, weights = round_of(count)
    expected = exact_shapley(updates, weights, bowl)
    found = [gtg_shapley(updates, weights, bowl, generator(seed)).tolist() for seed in (0, 1)]
    assert found[0] == found[1] == [close(value) for value in expected]


def test_small_differences_are_not_cut_off_for_few_clients() -> None:
    updates, weights = round_of(4)
    expected = exact_shapley(updates, weights, lambda step, weight=0.0: 1e-5 * bowl(step))
    found = gtg_shapley(updates, weights, lambda step, weight=0.0: 1e-5 * bowl(step), generator(0))
    assert found.tolist() == [pytest.approx(value, rel=1e-9) for value in expected]


def test_who_brings_nothing_into_any_coalition_gets_nothing() -> None:
    updates = torch.zeros(4, 2)
    updates[:3, 0] = torch.tensor([1.0, 2.0, 3.0])
    found = gtg_shapley(updates, torch.ones(4), lambda step, weight: float(step[1]), generator(0))
    assert found.tolist() == [0.0] * 4


@pytest.mark.parametrize("count", [4, 9])
def test_a_coalition_that_diverges_leaves_no_number(count: int) -> None:
    updates, weights = round_of(count)
    found = gtg_shapley(updates, weights, lambda step, weight: math.nan, generator(0))
    assert found.isnan().all()
    assert leave_one_out(updates, weights, lambda step, weight: math.nan).isnan().all()


def test_all_orders_together_are_the_definition() -> None:
    """The sampled estimator, fed with every order once, is the Shapley value."""
    updates, weights = round_of(4)

    def worth(members: frozenset[int]) -> float:
        return bowl(mean_of(updates, weights, tuple(sorted(members))))

    whole, nothing = worth(frozenset(range(4))), worth(frozenset())
    orders = list(permutations(range(4)))
    total = torch.zeros(4, dtype=torch.float64)
    for order in orders:
        total += _marginal_contributions(list(order), worth, whole, nothing, 0.0)
    assert (total / len(orders)).tolist() == [
        close(v) for v in exact_shapley(updates, weights, bowl)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_shapley_values_add_up_to_the_worth_of_all(seed: int) -> None:
    updates, weights = round_of(5, f"round {seed}")
    whole = bowl(coalition_step(updates, weights, frozenset(range(5)))) - bowl(
        torch.zeros(SIZE).double()
    )
    for sampled in (0, 8):
        exact = gtg_shapley(updates, weights, bowl, generator(seed), 0.0, exact_up_to=sampled)
        assert float(exact.sum()) == close(whole)
    rough = gtg_shapley(updates, weights, bowl, generator(seed), 0.05, exact_up_to=0)
    assert float(rough.sum()) == pytest.approx(whole, abs=0.05)


def test_a_round_that_changes_nothing_gives_nobody_anything() -> None:
    updates, weights = round_of(4)
    calls: list[int] = []

    def flat(step: Tensor, weight: float) -> float:
        calls.append(1)
        return 0.7 + 1e-4 * bool(step.any())

    found = gtg_shapley(updates, weights, flat, generator(0), exact_up_to=0)
    assert found.tolist() == [0.0] * 4
    assert len(calls) == 2


def test_a_seed_fixes_the_sampled_values() -> None:
    updates, weights = round_of(9)
    runs = [gtg_shapley(updates, weights, bowl, generator(s)) for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_no_coalition_is_evaluated_twice() -> None:
    updates, weights = round_of(5)
    seen: list[tuple[float, ...]] = []

    def counting(step: Tensor, weight: float) -> float:
        seen.append(tuple(step.tolist()))
        return bowl(step)

    for exact_up_to in (0, 8):
        seen.clear()
        gtg_shapley(updates, weights, counting, generator(0), 0.0, 50, exact_up_to)
        assert len(seen) == len(set(seen)) <= 2**5


def test_truncation_saves_evaluations() -> None:
    updates, weights = round_of(8)
    saturated = 0.2 * torch.ones_like(updates) + 0.001 * updates  # any client is as good as all

    def count(truncation: float) -> int:
        calls: list[int] = []

        def counting(step: Tensor, weight: float) -> float:
            calls.append(1)
            return bowl(step)

        gtg_shapley(saturated, weights, counting, generator(0), truncation, exact_up_to=0)
        return len(calls)

    assert count(0.01) <= 2 + 8 < count(0.0)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_cosine_is_the_angle_to_the_weighted_mean(count: int) -> None:
    updates, weights = round_of(count)
    mean = mean_of(updates, weights, tuple(range(count)))
    for own, value in zip(
        updates.double(), gradient_cosine(updates, weights).tolist(), strict=True
    ):
        assert value == close(float(own @ mean / (own.norm() * mean.norm())))


def test_the_cosine_of_a_zero_update_is_zero() -> None:
    updates = torch.cat([torch.zeros(1, SIZE), torch.ones(2, SIZE)])
    assert gradient_cosine(updates, torch.ones(3)).tolist() == [0, close(1), close(1)]
    assert gradient_cosine(torch.zeros(2, SIZE), torch.ones(2)).tolist() == [0, 0]


def test_an_update_that_is_not_finite_has_no_cosine() -> None:
    updates = torch.ones(3, SIZE)
    updates[1, 0] = torch.nan
    assert gradient_cosine(updates, torch.ones(3)).isnan().all()


def test_the_cosine_does_not_go_by_length() -> None:
    updates, weights = round_of(4)
    other = gradient_cosine(1e-4 * updates, weights)
    assert torch.allclose(other, gradient_cosine(updates, weights), atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=20))
def test_collaborative_fairness_is_pearsons_correlation(pairs: list[tuple[int, int]]) -> None:
    given_, got = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    value = collaborative_fairness(given_, got)
    if len(set(given_.tolist())) == 1 or len(set(got.tolist())) == 1:
        assert math.isnan(value)
    else:
        assert value == close(pearsonr(given_.numpy(), got.numpy()).statistic)


def test_benefits_are_measured_against_training_alone() -> None:
    together, alone = torch.tensor([0.8, 0.7, 0.6]), torch.tensor([0.5, 0.7, 0.9])
    assert mean_gain(together, alone) == pytest.approx(0, abs=1e-7)
    assert gain_spread(together, alone) == pytest.approx(math.sqrt(0.06), abs=1e-6)
    assert worse_off_share(together, alone) == close(1 / 3)


def test_a_gain_of_everybody_alike_has_no_spread() -> None:
    alone = torch.tensor([0.1, 0.5, 0.6], dtype=torch.float64)
    assert gain_spread(alone + 0.2, alone) == close(0)
    assert mean_gain(alone + 0.2, alone) == close(0.2)


def test_rows_of_benefit_are_finite_or_flagged() -> None:
    even = torch.tensor([0.5, 0.5])
    for together in (even, torch.tensor([0.4, 0.9])):
        rows = list(benefit_rows(3, [0, 4], together, even))
        assert [row.round for row in rows] == [3] * len(rows)
        assert all(math.isfinite(row.value) or (not row.valid and row.note) for row in rows)
        assert [row.client for row in rows if row.metric == "client_benefit"] == [0, 4]
    (correlation,) = [row for row in rows if row.metric == "fairness_collaboration_alone"]
    assert not correlation.valid


def test_a_client_without_a_number_is_left_out_of_gains_and_correlations() -> None:
    together = torch.tensor([0.8, torch.nan, 0.6, 0.7], dtype=torch.float64)
    alone = torch.tensor([0.5, 0.2, torch.nan, 0.9], dtype=torch.float64)
    assert mean_gain(together, alone) == close(0.05)
    assert gain_spread(together, alone) == close(0.25)
    assert worse_off_share(together, alone) == 0.5
    assert collaborative_fairness(alone, together) == close(-1)
    rows = {(row.metric, row.client): row for row in benefit_rows(3, [0, 1, 2, 3], together, alone)}
    assert [rows["client_benefit", c].valid for c in range(4)] == [True, False, False, True]
    assert rows["fairness_worse_off", -1].note == "2 of 4 clients left out: not defined"
    assert rows["fairness_worse_off", -1].valid
    none = torch.full((2,), torch.nan)
    assert math.isnan(worse_off_share(none, none))
    assert not any(row.valid for row in benefit_rows(3, [0, 1], none, none))
    rewards = contribution_rows(3, [0, 1, 2, 3], together, {"cosine": alone})
    assert [row.valid for row in rewards] == [True, True, False, True, True]


def test_rows_of_contributions_say_who_gave_what() -> None:
    given_ = {"shapley": torch.tensor([0.1, 0.3]), "cosine": torch.tensor([0.5, 0.5])}
    rows = list(contribution_rows(3, [2, 5], torch.tensor([0.6, 0.9]), given_))
    assert [(r.metric, r.client, r.value) for r in rows[:3]] == [
        ("contribution_shapley", 2, pytest.approx(0.1)),
        ("contribution_shapley", 5, pytest.approx(0.3)),
        ("fairness_collaboration_shapley", -1, close(1)),
    ]
    assert (rows[-1].metric, rows[-1].valid) == ("fairness_collaboration_cosine", False)
