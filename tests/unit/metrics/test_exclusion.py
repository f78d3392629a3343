"""Exclusion of updates by the rule, against the true attackers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.contracts import AggregationResult, RoundRecord, Update
from fl_sim.metrics.exclusion import SILENT, Exclusion, precision, recall

Maker = Callable[..., RoundRecord]


def decided(shares: list[float] | None, scales: list[float] | None = None) -> AggregationResult:
    numbers = [
        None if own is None else torch.tensor(own, dtype=torch.float64) for own in (shares, scales)
    ]
    return AggregationResult(None, torch.zeros(3), *numbers)


def seen_with(observation: Maker, decision: AggregationResult, **fields: Any) -> RoundRecord:
    updates = tuple(Update(client, torch.zeros(3), {}, 20, {}) for client in (0, 1, 3))
    return observation(updates=updates, decision=decision, **fields)


def numbers(record: RoundRecord) -> dict[tuple[str, int, str], float]:
    return {(row.metric, row.client, row.group): row.value for row in Exclusion().rows(record)}


def test_each_update_has_its_share_and_its_scale(observation: Maker) -> None:
    decision = decided([0.5, 0.0, 0.5], [1.0, 0.1, 0.7])
    found = numbers(seen_with(observation, decision, attackers=frozenset({1})))
    assert found["rule_share", 0, "mixed"] == 0.5
    assert found["rule_share", 1, "attacker"] == 0.0
    assert found["rule_scale", 3, "mixed"] == 0.7


@pytest.mark.parametrize(
    ("attackers", "expected"),
    [({1}, (1.0, 1.0)), ({0}, (0.0, 0.0)), ({0, 1}, (1.0, 0.5)), ({1, 2}, (1.0, 1.0))],
)
def test_precision_and_recall_by_hand(
    observation: Maker, attackers: set[int], expected: tuple[float, float]
) -> None:
    # Client 2 sent nothing, so that it could not be left out.
    record = seen_with(observation, decided([0.5, 0.0, 0.5]), attackers=frozenset(attackers))
    found = numbers(record)
    names = ("exclusion_precision", "exclusion_recall")
    assert tuple(found[name, -1, "all"] for name in names) == expected


def test_each_group_is_left_out_at_its_own_rate(observation: Maker) -> None:
    record = seen_with(
        observation,
        decided([0.0, 0.0, 1.0]),
        attackers=frozenset({1}),
        protected_counts=torch.tensor([80, 0, 0, 0]),
    )
    found = numbers(record)
    rates = {group: value for (name, _, group), value in found.items() if name == "exclusion_rate"}
    assert rates == {"all": pytest.approx(2 / 3), "protected": 1.0, "attacker": 1.0, "clean": 0.0}


def test_each_group_weighs_more_or_less_than_an_equal_share(observation: Maker) -> None:
    record = seen_with(
        observation,
        decided([0.1, 0.2, 0.3]),
        attackers=frozenset({1}),
        protected_counts=torch.tensor([80, 0, 0, 0]),
    )
    found = numbers(record)
    weights = {group: value for (name, _, group), value in found.items() if name == "group_share"}
    assert weights == pytest.approx({"protected": 0.5, "attacker": 1.0, "clean": 1.5})


def test_where_no_update_counts_no_group_has_a_weight(observation: Maker) -> None:
    rows = Exclusion().rows(seen_with(observation, decided([0.0, 0.0, 0.0])))
    notes = {row.note for row in rows if row.metric == "group_share" and not row.valid}
    assert notes == {"no update counted"}


def test_numbers_that_do_not_exist_say_why(observation: Maker) -> None:
    notes = {
        row.metric: row.note
        for row in Exclusion().rows(seen_with(observation, decided([0.3, 0.3, 0.4])))
        if not row.valid
    }
    assert notes == {
        "exclusion_precision": "nobody was left out",
        "exclusion_recall": "nobody attacked",
    }
    silent = list(Exclusion().rows(seen_with(observation, decided(None))))
    assert {row.note for row in silent} == {SILENT}
    assert not any(row.valid for row in silent)


@given(left_out=st.sets(st.integers(0, 9)), attackers=st.sets(st.integers(0, 9)))
def test_precision_and_recall_are_their_definitions(
    left_out: set[int], attackers: set[int]
) -> None:
    right = sum(client in attackers for client in left_out)
    for found, size in (
        (precision(left_out, attackers), len(left_out)),
        (recall(left_out, attackers), len(attackers)),
    ):
        assert math.isnan(found) if size == 0 else found == right / size
