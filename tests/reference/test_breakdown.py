"""Breakdown points of rules: the least number of equal forged updates that moves them.

The breakdown point of Donoho and Huber (1983), as a count out of n updates, for a rule that is
set to expect f attackers: one for a mean, half of n for medians (and for Krum, in which the larger
group looks close), and f + 1 for rules that keep n - f updates or cut f on each side.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fl_sim.contracts import AggregationRule
from fl_sim.core.seeding import generator
from strategies.fedavg import FedAvg
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum, MultiKrum
from strategies.median import CoordinateMedian
from strategies.nnm import NearestNeighborMixing
from strategies.trimmed_mean import TrimmedMean

SIZE, FAR = 20, 1e8


def one(n: int, f: int) -> int:
    return 1


def half(n: int, f: int) -> int:
    return -(-n // 2)


def one_too_many(n: int, f: int) -> int:
    return f + 1


CASES: dict[str, tuple[Callable[[int], AggregationRule], Callable[[int, int], int]]] = {
    "FedAvg": (lambda f: FedAvg(), one),
    "median": (lambda f: CoordinateMedian(), half),
    "geometric median": (lambda f: GeometricMedian(), half),
    "Krum": (lambda f: Krum(num_byzantine=f), half),
    "Multi-Krum": (lambda f: MultiKrum(num_byzantine=f), one_too_many),
    "trimmed mean": (lambda f: TrimmedMean(num_byzantine=f), one_too_many),
    "NNM": (lambda f: NearestNeighborMixing(f, TrimmedMean(num_byzantine=f)), one_too_many),
}


def is_dragged_away(rule: AggregationRule, n: int, liars: int) -> bool:
    updates = torch.randn(n, SIZE, generator=generator(liars, "honest"))
    updates[:liars] = FAR
    state: Any = rule.initial_state(SIZE)
    _, step = rule.aggregate(state, updates, torch.ones(n, dtype=torch.float64))
    return float(step.norm()) > 1e-4 * FAR


@pytest.mark.parametrize("f", [1, 2, 3])
@pytest.mark.parametrize("spare", [0, 1, 4])
@pytest.mark.parametrize("name", CASES)
def test_a_rule_breaks_down_where_theory_says_and_not_before(name: str, spare: int, f: int) -> None:
    make, least = CASES[name]
    n = 2 * f + 3 + spare
    broken = [liars for liars in range(n + 1) if is_dragged_away(make(f), n, liars)]
    assert broken == list(range(least(n, f), n + 1))
