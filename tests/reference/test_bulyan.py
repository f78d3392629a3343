"""Bulyan against a slow version of its definition, and where models move little."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_sim.core.seeding import generator
from strategies.bulyan import Bulyan, average_around_median, select_updates


def selection_by_definition(updates: Tensor, num_byzantine: int) -> list[int]:
    """El Mhamdi et al. (2018), section 4: Krum picks, the picked one leaves, n - 2 f times."""
    rows = updates.double().numpy()
    table = [[float(np.sum((a - b) ** 2)) for b in rows] for a in rows]
    left, chosen = list(range(len(rows))), []

    def key(i: int) -> tuple[float, float, int]:
        others = sorted(table[i][j] for j in left if j != i)
        count = max(len(left) - num_byzantine - 2, 0)
        return (math.fsum(others[:count]), math.fsum(others), i)

    while len(chosen) < len(rows) - 2 * num_byzantine:
        best = min(left, key=key)
        left.remove(best)
        chosen.append(best)
    return sorted(chosen)


def around_by_definition(column: list[float], count: int) -> float:
    """The mean of those nearest to the median; of two that tie, half of either choice."""
    middle = float(np.median(column))
    low = sorted(column, key=lambda value: (abs(value - middle), value))[:count]
    high = sorted(column, key=lambda value: (abs(value - middle), -value))[:count]
    return (math.fsum(low) + math.fsum(high)) / (2 * count)


def step_by_definition(updates: Tensor, num_byzantine: int) -> Tensor:
    chosen = updates[selection_by_definition(updates, num_byzantine)].double()
    count = len(chosen) - 2 * num_byzantine
    columns = [around_by_definition(column.tolist(), count) for column in chosen.T]
    return torch.tensor(columns, dtype=torch.float64)


@pytest.mark.parametrize("num_byzantine", [0, 1, 2, 3])
@given(seed=st.integers(0, 10**6), spare=st.integers(0, 5))
def test_a_step_is_that_of_the_definition(num_byzantine: int, seed: int, spare: int) -> None:
    count = 4 * num_byzantine + 3 + spare
    updates = torch.randn(count, 6, generator=generator(seed, "bulyan")).double()
    rule = Bulyan(num_byzantine=num_byzantine)
    step = rule.aggregate(None, updates, torch.ones(count))[1]
    expected = step_by_definition(updates, num_byzantine)
    torch.testing.assert_close(step, expected, rtol=1e-12, atol=1e-13)


@given(column=st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=12), data=st.data())
def test_values_around_the_median_where_many_tie(column: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(column)))
    ordered = torch.tensor(sorted(column))[:, None]
    found = average_around_median(ordered, count).item()
    assert found == pytest.approx(around_by_definition(column, count), abs=1e-12)


@pytest.mark.parametrize(
    ("column", "count", "expected"),
    [([1.0, 2, 9], 2, 1.5), ([-1.0, 0, 1], 2, 0.0), ([0.0, 5, 6, 7, 100], 3, 6.0)],
)
def test_around_the_median_by_hand(column: list[float], count: int, expected: float) -> None:
    assert average_around_median(torch.tensor(column)[:, None], count).item() == expected


def fine_tuned(seed: int, size: int) -> Tensor:
    """Return updates of about 1e-4 to weights of 0.05, of which the first two hide in them."""
    rng = generator(seed, "fine-tuning")
    start = 0.05 * torch.randn(size, generator=rng)
    scale = torch.full((11, 1), 1e-4)
    scale[:2] *= 1.1
    return start + scale * torch.randn(11, size, generator=rng) - start


def selects_what_the_definition_selects(seed: int, size: int) -> None:
    updates = fine_tuned(seed, size)
    assert select_updates(updates, 2).tolist() == selection_by_definition(updates, 2)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_exact_where_a_large_model_moves_little(seed: int) -> None:
    selects_what_the_definition_selects(seed, 200_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_it_is_exact_where_a_million_parameters_move_little(seed: int) -> None:
    selects_what_the_definition_selects(seed, 1_000_000)


def test_a_lie_in_one_coordinate_of_many_does_not_pass() -> None:
    updates = torch.randn(11, 10_000, generator=generator(0, "hidden"))
    updates[:2, 7] = 30.0  # hardly farther away than the others
    step = Bulyan(num_byzantine=2).aggregate(None, updates, torch.ones(11))[1]
    honest = updates[2:, 7]
    assert float(honest.min()) <= float(step[7]) <= float(honest.max())


@pytest.mark.parametrize("lie", [1e6, -1e6])
def test_the_majority_has_its_way_and_no_fewer(lie: float) -> None:
    honest = torch.randn(7, 5, generator=generator(0, "honest"))

    def step(liars: int) -> Tensor:
        updates = honest.clone()
        updates[:liars] = lie
        return Bulyan(num_byzantine=1).aggregate(None, updates, torch.ones(7))[1]

    assert float(step(1).abs().max()) <= float(honest.abs().max())
    assert float(step(4).abs().min()) > 1e5
