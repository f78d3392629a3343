"""Robust rules against slow versions of their definitions, in float64, and against scipy.

The hard case is fine-tuning: a million parameters around 0.05 that move by 1e-4. Distances
computed as |x|^2 + |y|^2 - 2 xy on the parameters, in float32, are then mostly rounding noise.
"""

import math

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean
from torch import Tensor

from fl_sim.contracts import AggregationRule, Update
from fl_sim.core.distances import gram_matrix
from fl_sim.core.seeding import generator
from fl_sim.core.sums import COLUMNS, chunks, weighted_sum
from fl_sim.flower import compat
from fl_sim.flower.records import from_record, to_record
from fl_sim.flower.roster import ClientRoster, make_replies
from fl_sim.flower.rule_strategy import RuleStrategy
from strategies.fedavg import FedAvg
from strategies.krum import Krum, MultiKrum, rank_by_score, squared_distances
from strategies.median import CoordinateMedian
from strategies.trimmed_mean import TrimmedMean

CLIENTS, ATTACKERS = 11, 2


def distances_by_definition(updates: Tensor) -> list[list[float]]:
    rows = updates.double().numpy()
    return [[float(np.sum((a - b) ** 2)) for b in rows] for a in rows]


def krum_order_by_definition(updates: Tensor, num_byzantine: int) -> list[int]:
    """Blanchard et al. (2017), section 4: the n - f - 2 nearest others; ties to the lower."""
    table, count = distances_by_definition(updates), len(updates)
    scores = [
        math.fsum(sorted(table[i][j] for j in range(count) if j != i)[: count - num_byzantine - 2])
        for i in range(count)
    ]
    return sorted(range(count), key=lambda i: (scores[i], i))


def fine_tuned(seed: int, size: int) -> tuple[Tensor, Tensor]:
    """Return weights around 0.05 and updates of clients of about 1e-4.

    The first two move a tenth further than the others: attackers that hide in the noise.
    """
    rng = generator(seed, "fine-tuning")
    start = 0.05 * torch.randn(size, generator=rng)
    scale = torch.full((CLIENTS, 1), 1e-4)
    scale[:ATTACKERS] *= 1.1
    return start, start + scale * torch.randn(CLIENTS, size, generator=rng)


def through_flower(rule: AggregationRule, start: Tensor, received: Tensor) -> Tensor:
    """Return the parameters after a round of the server."""
    compat.ensure_node_identity()
    count, shapes = len(received), {"all": (len(start),)}
    strategy = RuleStrategy(rule, min_train_nodes=count, min_available_nodes=count)
    instructions = list(
        strategy.configure_train(
            1, to_record(start, shapes), ConfigRecord(), ClientRoster(list(range(count)))
        )
    )
    for instruction in instructions:
        compat.assign_message_id(instruction)
    updates = [Update(client, own, {}, 10, {}) for client, own in enumerate(received)]
    arrays, _ = strategy.aggregate_train(1, make_replies(updates, received, instructions, shapes))
    assert isinstance(arrays, ArrayRecord)
    return from_record(arrays, shapes)


def picks_what_the_definition_picks(seed: int, size: int) -> None:
    start, received = fine_tuned(seed, size)
    moves = received.double() - start.double()
    best = krum_order_by_definition(moves, ATTACKERS)
    kept = sorted(best[: CLIENTS - ATTACKERS])
    assert kept == list(range(ATTACKERS, CLIENTS))  # the exact rule keeps no attacker
    after = through_flower(Krum(num_byzantine=ATTACKERS), start, received)
    apart = (after.double() - received.double()).abs().mean(1)
    # 1e-4 apart on average from any other client; one rounding of a float32 from its own.
    assert int(apart.argmin()) == best[0]
    assert float(apart[best[0]]) < 1e-8
    after = through_flower(MultiKrum(num_byzantine=ATTACKERS), start, received)
    expected = start.double() + moves[kept].mean(0)
    assert float((after.double() - expected).abs().mean()) < 1e-8


@pytest.mark.parametrize("seed", range(20))
def test_krum_is_exact_where_a_large_model_moves_little(seed: int) -> None:
    picks_what_the_definition_picks(seed, 200_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_krum_is_exact_where_a_million_parameters_move_little(seed: int) -> None:
    picks_what_the_definition_picks(seed, 1_000_000)


@pytest.mark.parametrize("num_byzantine", [0, 1, 2, 4])
@given(seed=st.integers(0, 10**6), spare=st.integers(0, 6))
def test_krum_orders_updates_by_its_definition(num_byzantine: int, seed: int, spare: int) -> None:
    count = 2 * num_byzantine + 3 + spare
    updates = torch.randint(-50, 50, (count, 6), generator=generator(seed, "krum")).float()
    order = rank_by_score(updates, num_byzantine).tolist()
    assert order == krum_order_by_definition(updates, num_byzantine)


@given(seed=st.integers(0, 10**6))
def test_squared_distances_are_those_of_the_definition(seed: int) -> None:
    updates = torch.randn(6, 40, generator=generator(seed, "distances"))
    expected = torch.tensor(distances_by_definition(updates), dtype=torch.float64)
    torch.testing.assert_close(squared_distances(updates), expected, rtol=1e-12, atol=0)


def test_distances_are_summed_over_every_chunk() -> None:
    updates = torch.zeros(3, 2 * COLUMNS + 5)
    updates[0, 0], updates[1, COLUMNS], updates[2, -1] = 1.0, 2.0, 3.0
    expected = torch.tensor([[0, 5, 10], [5, 0, 13], [10, 13, 0]], dtype=torch.float64)
    torch.testing.assert_close(squared_distances(updates), expected, rtol=1e-12, atol=0)


def test_distances_are_exact_where_updates_share_a_large_part() -> None:
    apart = 1e-4 * torch.randn(6, 40, generator=generator(0, "shared")).double()
    updates = 1e5 + apart
    expected = torch.tensor(distances_by_definition(updates), dtype=torch.float64)
    torch.testing.assert_close(squared_distances(updates), expected, rtol=1e-9, atol=0)
    assert torch.equal(squared_distances(updates), squared_distances(updates).T)


def test_inner_products_from_another_origin() -> None:
    updates = torch.randn(5, 40, generator=generator(0, "origin")).double()
    seen = updates - updates[2]
    torch.testing.assert_close(
        gram_matrix(updates, updates[2]), seen @ seen.T, rtol=1e-12, atol=1e-13
    )


def test_identical_updates_are_exactly_no_distance_apart() -> None:
    update = 1e3 * torch.randn(1, 100, generator=generator(0, "same"))
    assert float(squared_distances(update.expand(5, -1).contiguous()).abs().max()) == 0.0


ROWS = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (TrimmedMean(num_byzantine=1), [4.0, 5, 6]),
        (CoordinateMedian(), [4.0, 5, 6]),
        (FedAvg(), [4.0, 5, 6]),
        (Krum(num_byzantine=0), [1.0, 2, 3]),
        (MultiKrum(num_byzantine=0, num_selected=2), [2.5, 3.5, 4.5]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_example_of_byzfls_documentation(rule: AggregationRule, expected: list[float]) -> None:
    step = rule.aggregate(None, ROWS, torch.ones(3))[1]
    torch.testing.assert_close(step, torch.tensor(expected), rtol=1e-7, atol=0)


@given(count=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_the_median_is_numpys(count: int, seed: int) -> None:
    updates = torch.randn(count, 20, generator=generator(seed, "median"))
    step = CoordinateMedian().aggregate(None, updates, torch.ones(count))[1]
    expected = torch.from_numpy(np.median(updates.double().numpy(), axis=0)).float()
    assert torch.equal(step, expected)


@given(cut=st.integers(0, 4), spare=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_the_trimmed_mean_is_scipys(cut: int, spare: int, seed: int) -> None:
    count = 2 * cut + spare
    updates = torch.randn(count, 20, generator=generator(seed, "trimmed"))
    step = TrimmedMean(num_byzantine=cut).aggregate(None, updates, torch.ones(count))[1]
    share = (cut + 0.5) / count  # scipy cuts int(share * count) on each side
    expected = torch.from_numpy(trim_mean(updates.double().numpy(), share, axis=0))
    torch.testing.assert_close(step.double(), expected, rtol=2**-23, atol=1e-9)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=9),
    st.floats(-(2.0**20), 2.0**20, width=32),
)
def test_the_trimmed_mean_bounds_one_liar(honest: list[float], lie: float) -> None:
    updates = torch.tensor([[value] for value in [*honest, lie]])
    step = TrimmedMean(num_byzantine=1).aggregate(None, updates, torch.ones(len(updates)))[1]
    assert min(honest) - 1e-6 <= step.item() <= max(honest) + 1e-6


@pytest.mark.parametrize("size", [1, COLUMNS - 1, COLUMNS, COLUMNS + 1, 2 * COLUMNS + 3])
def test_coordinate_rules_treat_every_chunk_alike(size: int) -> None:
    updates = torch.randn(5, size, generator=generator(0, "chunks"))
    ordered = updates.sort(0).values
    median = CoordinateMedian().aggregate(None, updates, torch.ones(5))[1]
    assert torch.equal(median, ordered[2])
    trimmed = TrimmedMean(num_byzantine=1).aggregate(None, updates, torch.ones(5))[1]
    assert torch.equal(trimmed, ordered[1:4].double().mean(0).float())


@pytest.mark.parametrize("rule", [CoordinateMedian(), TrimmedMean(num_byzantine=1)])
def test_a_model_of_one_parameter_keeps_its_updates_in_order(rule: AggregationRule) -> None:
    updates = torch.tensor([[3.0], [1.0], [2.0]])
    assert rule.aggregate(None, updates, torch.ones(3))[1].tolist() == [2.0]
    assert updates.tolist() == [[3.0], [1.0], [2.0]]


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 25])
def test_chunks_cover_every_column_once_in_order(size: int) -> None:
    columns = [column for part in chunks(size, 10) for column in range(size)[part]]
    assert columns == list(range(size))


@pytest.mark.parametrize("size", [1, COLUMNS, 2 * COLUMNS + 3])
def test_a_weighted_sum_is_that_of_a_float64_copy(size: int) -> None:
    rng = generator(0, "sum")
    updates = torch.randn(7, size, generator=rng)
    coefficients = torch.rand(7, generator=rng, dtype=torch.float64)
    total = weighted_sum(coefficients, updates)
    assert total.dtype == torch.float64
    expected = (coefficients[:, None] * updates.double()).sum(0)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-14)


def test_a_weighted_sum_keeps_what_float32_would_lose() -> None:
    updates = torch.tensor([[2.0**30], [1.0], [-(2.0**30)]])
    assert weighted_sum(torch.ones(3), updates).item() == 1.0


@given(weights=st.lists(st.integers(1, 10**6), min_size=1, max_size=8), seed=st.integers(0, 10**6))
def test_the_average_is_weighted_by_examples(weights: list[int], seed: int) -> None:
    updates = torch.randn(len(weights), 5, generator=generator(seed, "average")).double()
    step = FedAvg().aggregate(None, updates, torch.tensor(weights).double())[1]
    expected = np.average(updates.numpy(), axis=0, weights=weights)
    np.testing.assert_allclose(step.numpy(), expected, rtol=1e-12, atol=1e-12)
