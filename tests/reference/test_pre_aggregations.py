"""Mixing, bucketing and ARC: inputs of the wrapped rule, by definition and by ByzFL."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_sim.contracts import AggregationRule, RoundContext
from fl_sim.core.seeding import generator
from fl_sim.core.sums import COLUMNS
from strategies.arc import AdaptiveRobustClipping
from strategies.bucketing import Bucketing
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.krum import MultiKrum
from strategies.median import CoordinateMedian
from strategies.nnm import NearestNeighborMixing
from strategies.trimmed_mean import TrimmedMean

ROWS = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])


class Notes(AggregationRule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def aggregate(self, state: Any, updates: Tensor, weights: Tensor) -> tuple[Any, Tensor]:
        self.seen.append((updates, weights))
        return state, updates[0].clone()


def given_to_the_rule(
    wrapper: Any, updates: Tensor, seed: int = 0, **fields: Any
) -> tuple[Tensor, Tensor]:
    notes = Notes()
    rule = wrapper(rule=notes, **fields)
    weights = torch.arange(1, len(updates) + 1).double()
    context = replace(RoundContext.anonymous(len(updates)), seed=seed)
    rule.decide(rule.initial_state(updates.shape[1]), updates, weights, context)
    (seen,) = notes.seen
    return seen


def mixed_by_definition(updates: Tensor, num_byzantine: int) -> Tensor:
    rows, mixed = updates.double().tolist(), []
    for i, row in enumerate(rows):
        order = sorted(range(len(rows)), key=lambda j: (j != i, math.dist(row, rows[j]), j))
        near = [rows[j] for j in order[: len(rows) - num_byzantine]]
        mixed.append([math.fsum(column) / len(near) for column in zip(*near, strict=True)])
    return torch.tensor(mixed, dtype=torch.float64)


def test_mixing_gives_the_example_of_byzfls_documentation() -> None:
    mixed, weights = given_to_the_rule(NearestNeighborMixing, ROWS, num_byzantine=1)
    assert mixed.tolist() == [[2.5, 3.5, 4.5], [2.5, 3.5, 4.5], [5.5, 6.5, 7.5]]
    assert weights.tolist() == [1, 2, 3]


@given(seed=st.integers(0, 10**6), count=st.integers(5, 12), f=st.integers(0, 2))
def test_mixing_is_its_definition(seed: int, count: int, f: int) -> None:
    updates = torch.randn(count, 7, generator=generator(seed, "mixing")).double()
    mixed, _ = given_to_the_rule(NearestNeighborMixing, updates, num_byzantine=f)
    torch.testing.assert_close(mixed, mixed_by_definition(updates, f), rtol=1e-12, atol=1e-13)


def test_an_update_is_its_own_nearest_neighbour_among_twins() -> None:
    updates = torch.zeros(5, 2)
    mixed, _ = given_to_the_rule(NearestNeighborMixing, updates, num_byzantine=2)
    assert mixed.tolist() == updates.tolist()


def test_arc_gives_the_example_of_byzfls_documentation() -> None:
    clipped, _ = given_to_the_rule(AdaptiveRobustClipping, ROWS.double(), num_byzantine=1)
    third = torch.tensor([4.41004009, 5.04004582, 5.67005155], dtype=torch.float64)
    torch.testing.assert_close(clipped[:2], ROWS[:2].double())
    torch.testing.assert_close(clipped[2], third, rtol=0, atol=1e-8)


@given(seed=st.integers(0, 10**6), count=st.integers(7, 20), f=st.integers(0, 3))
def test_arc_is_its_definition(seed: int, count: int, f: int) -> None:
    updates = torch.randn(count, 5, generator=generator(seed, "arc")).double()
    clipped, weights = given_to_the_rule(AdaptiveRobustClipping, updates, num_byzantine=f)
    norms = [math.hypot(*row) for row in updates.tolist()]
    num_clipped = math.floor(2 * f * (count - f) / count)
    bound = sorted(norms, reverse=True)[num_clipped]
    scale = torch.tensor([min(1.0, bound / norm) for norm in norms], dtype=torch.float64)
    torch.testing.assert_close(clipped, updates * scale[:, None], rtol=1e-12, atol=0)
    assert int((clipped != updates).any(1).sum()) == num_clipped
    assert weights.tolist() == list(range(1, count + 1))


@given(count=st.integers(1, 20), size=st.integers(1, 6), seed=st.integers(0, 100))
def test_every_update_is_in_one_bucket(count: int, size: int, seed: int) -> None:
    updates = torch.eye(count).double()
    means, weights = given_to_the_rule(Bucketing, updates, bucket_size=size, seed=seed)
    assert len(means) == math.ceil(count / size)
    members = means > 0
    assert members.sum(0).tolist() == [1] * count
    assert sorted(members.sum(1).tolist()) == sorted(
        [size] * (count // size) + [count % size] * (count % size > 0)
    )
    torch.testing.assert_close(means.sum(1), torch.ones(len(means)).double())
    expected = means @ torch.arange(1, count + 1).double()
    torch.testing.assert_close(weights, expected)


def test_buckets_are_others_every_round_and_the_same_in_every_run() -> None:
    updates = torch.randn(12, 3, generator=generator(0, "buckets"))
    rule = Bucketing(bucket_size=3, rule=CoordinateMedian())

    def three_rounds(seed: int) -> list[list[float]]:
        rounds = (replace(RoundContext.anonymous(12), seed=seed, round=i) for i in (1, 2, 3))
        return [rule.decide(None, updates, torch.ones(12), s).step.tolist() for s in rounds]

    first = three_rounds(0)
    assert first[0] != first[1] != first[2]
    assert first == three_rounds(0)
    assert first != three_rounds(1)


def test_buckets_of_one_change_nothing() -> None:
    updates = torch.randn(7, 30, generator=generator(0, "ones"))
    rule = Bucketing(bucket_size=1, rule=TrimmedMean(num_byzantine=2))
    step = rule.aggregate(rule.initial_state(30), updates, torch.ones(7))[1]
    assert torch.equal(
        step, TrimmedMean(num_byzantine=2).aggregate(None, updates, torch.ones(7))[1]
    )


def test_bucketing_keeps_the_mean() -> None:
    updates = torch.randn(12, 30, generator=generator(0, "mean")).double()
    rule = Bucketing(bucket_size=3, rule=FedAvg())
    step = rule.aggregate(rule.initial_state(30), updates, torch.ones(12))[1]
    torch.testing.assert_close(step, updates.mean(0), rtol=1e-12, atol=1e-13)


def test_bucketing_survives_as_long_as_most_buckets_are_clean() -> None:
    updates = torch.randn(14, 20, generator=generator(0, "clean"))
    largest = float(updates.abs().max())
    for liars, survives in ((3, True), (14, False)):
        attacked = updates.clone()
        attacked[:liars] = 1e6
        rule = Bucketing(bucket_size=2, rule=CoordinateMedian())  # 7 buckets: 3 may be spoilt
        step = rule.aggregate(rule.initial_state(20), attacked, torch.ones(14))[1]
        assert (float(step.abs().max()) <= largest) == survives


@pytest.mark.parametrize("num_byzantine", [1, 2, 3])
@pytest.mark.parametrize("wrapper", [NearestNeighborMixing, AdaptiveRobustClipping])
def test_wrapped_rules_survive_what_they_say(wrapper: Any, num_byzantine: int) -> None:
    honest = torch.randn(9, 20, generator=generator(0, "honest"))
    updates = torch.cat([torch.full((num_byzantine, 20), 1e6), honest])
    rule = wrapper(num_byzantine=num_byzantine, rule=TrimmedMean(num_byzantine=num_byzantine))
    step = rule.aggregate(None, updates, torch.ones(len(updates)))[1]
    assert bool((step <= honest.max(0).values).all())
    assert bool((step >= honest.min(0).values).all())


@pytest.mark.parametrize("wrapper", [NearestNeighborMixing, AdaptiveRobustClipping])
def test_a_rule_that_survives_fewer_attackers_is_refused(wrapper: Any) -> None:
    with pytest.raises(ValueError, match=r"rule\.num_byzantine: at least .*2; got 1"):
        wrapper(num_byzantine=2, rule=TrimmedMean(num_byzantine=1))
    assert wrapper(num_byzantine=2, rule=TrimmedMean(num_byzantine=3)).min_updates == 7


@pytest.mark.parametrize("wrapper", [NearestNeighborMixing, AdaptiveRobustClipping, Bucketing])
def test_some_columns_at_a_time_are_all_columns(wrapper: Any) -> None:
    updates = torch.randn(9, COLUMNS + 77, generator=generator(0, "columns"))
    mixed, weights = given_to_the_rule(wrapper, updates)
    rule = wrapper(rule=CoordinateMedian())
    step = rule.aggregate(rule.initial_state(updates.shape[1]), updates, torch.ones(9))[1]
    assert torch.equal(step, CoordinateMedian().aggregate(None, mixed, weights)[1])


@pytest.mark.parametrize("inner", [FedAvgM(), MultiKrum(num_byzantine=1)], ids=lambda r: str(r)[:9])
@pytest.mark.parametrize("wrapper", [NearestNeighborMixing, AdaptiveRobustClipping, Bucketing])
def test_a_rule_with_memory_keeps_it(wrapper: Any, inner: AggregationRule) -> None:
    updates = torch.randn(11, 6, generator=generator(0, "memory")).double()
    rule = wrapper(rule=inner)
    outer, state = rule.initial_state(6), inner.initial_state(6)
    notes = wrapper(rule=Notes())
    memory = notes.initial_state(6)
    for _ in range(3):
        memory, _ = notes.aggregate(memory, updates, torch.ones(11))
        outer, step = rule.aggregate(outer, updates, torch.ones(11))
        state, expected = inner.aggregate(state, *notes.rule.seen[-1])
        torch.testing.assert_close(step, expected, rtol=1e-12, atol=1e-13)
