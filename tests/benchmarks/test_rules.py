"""Tests that the benchmark of the rules runs, and compares equal work."""

import math

import pytest
import torch

from benchmarks import rules
from fl_sim.core.seeding import generator


@pytest.mark.parametrize("rule", rules.FLOWERS)
def test_flower_is_timed_doing_its_own_aggregation(rule: str) -> None:
    updates = torch.randn(rules.CLIENTS, 12, generator=generator(0, "small"))
    prepare = rules._prepare_flower(rule, updates)
    assert prepare is not None
    ours = rules._prepare_ours(rule, updates)()()[1]
    for _ in range(2):  # a strategy empties the replies that it is given
        arrays, _ = prepare()()
        (values,) = arrays.to_numpy_ndarrays()
        torch.testing.assert_close(torch.from_numpy(values), ours, rtol=0, atol=1e-4)


def test_a_cost_has_seconds_and_memory() -> None:
    figure = rules.measure("ours", "median", 10, 2000)
    assert 0 < figure.seconds < 10
    assert 0 <= figure.mib < 1000
    assert math.isnan(rules.measure("flower", "Bulyan", 10, 100).seconds)


@pytest.mark.slow
def test_there_is_one_row_per_rule() -> None:
    found = rules.measure_rules(30 + 4 * rules.ATTACKERS, 2000, peers=("ours", "flower"))
    assert [row["rule"] for row in found] == list(rules.OURS)
    assert rules.make_table(found).row_count == len(found)
