"""Forged updates against slow versions of their definitions, and against ByzFL 0.0.11.

ByzFL's figures are frozen: its attacks on the rows `HONEST`, for two attackers, without
pre-aggregation; `damage` is the distance of its rule's output from the honest mean.
"""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from clients._shared.perturbing import Direction, oppose
from clients.alie import AlieClient, compute_max_deviation
from clients.fang_krum import FangKrumClient
from clients.fang_trim import FangTrimClient
from clients.ipm import IpmClient
from clients.mimic import MimicClient
from clients.min_max import MinMaxClient
from clients.min_sum import MinSumClient
from clients.model_replacement import ModelReplacementClient
from clients.optimal_alie import OptimalAlieClient
from clients.optimal_ipm import OptimalIpmClient
from fl_sim.contracts import AggregationRule, ColludingClient, Collusion
from fl_sim.core.seeding import generator
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.median import CoordinateMedian
from strategies.trimmed_mean import TrimmedMean

HONEST = [
    [0.326, 0.068, 0.84, 0.305, -0.336, 0.562],
    [1.504, 1.147, -0.504, -1.065, -0.423, 0.241],
    [-2.125, -0.019, -1.046, -0.532, -0.344, -0.116],
    [0.612, 1.243, 0.071, 1.566, -0.465, 0.552],
    [1.103, 0.294, -0.543, -0.722, -0.258, 0.42],
    [-0.81, -0.009, 0.041, 0.741, 0.415, 0.555],
    [-0.454, 0.07, 0.984, 1.693, -1.059, 1.714],
]
ALIE = [1.8931621227, 1.2302238228, 1.0933734463, 1.9423041343, 0.2937973796, 1.4074887211]
IPM = [-0.0445714286, -0.7982857143, 0.0448571429, -0.5674285714, 0.7057142857, -1.1222857143]
DAMAGE = [
    (OptimalAlieClient, TrimmedMean(num_byzantine=2), 0.8752708231613523),
    (OptimalAlieClient, CoordinateMedian(), 0.7595913240630364),
    (OptimalIpmClient, TrimmedMean(num_byzantine=2), 0.9105861108682267),
    (OptimalIpmClient, CoordinateMedian(), 1.0152969204792726),
]
DIRECTIONS: tuple[Direction, ...] = ("deviation", "sign", "mean")
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)
shapes = st.tuples(st.integers(2, 9), st.integers(1, 4), st.integers(0, 10**6))


def collusion(honest: Any, num_own: int = 2, rule: AggregationRule | None = None) -> Collusion:
    rows = torch.as_tensor(honest, dtype=torch.float64)
    own = rows.mean(0).repeat(num_own, 1)
    ones = torch.ones(len(rows) + num_own, dtype=torch.float64)
    weights = ones[: len(rows)], ones[len(rows) :]
    return Collusion(rows, own, *weights, rule, None, generator(0, "test"))


def drawn(shape: tuple[int, int, int], size: int = 12) -> Collusion:
    honest, own, seed = shape
    rows = 0.3 + torch.randn(honest, size, generator=generator(seed, "rows"), dtype=torch.float64)
    return collusion(rows, own)


def one(client: ColludingClient, known: Collusion) -> Tensor:
    """Return the update that all colluders send."""
    forged = client.forge(known)
    assert all(torch.equal(row, forged[0]) for row in forged)
    return forged[0]


def damage(rule: AggregationRule, known: Collusion, forged: Tensor) -> float:
    stack = torch.cat([known.honest, forged.expand(len(known.own), -1)])
    _, step = rule.aggregate(None, stack, torch.ones(len(stack), dtype=torch.float64))
    return float((step - known.honest.mean(0)).norm())


def test_alie_agrees_with_byzfl_which_moves_the_other_way() -> None:
    sent = one(AlieClient(deviations=-1.5), collusion(HONEST))
    assert sent.tolist() == pytest.approx(ALIE, abs=1e-9)


def test_ipm_agrees_with_byzfl() -> None:
    assert one(IpmClient(scale=2.0), collusion(HONEST)).tolist() == pytest.approx(IPM, abs=1e-9)


@given(shapes)
def test_alie_is_written_out_coordinate_by_coordinate(shape: tuple[int, int, int]) -> None:
    known = drawn(shape)
    n, f = len(known.honest) + len(known.own), len(known.own)
    supporters = max(1, math.floor(n / 2 + 1) - f)
    z = max(0.0, float(norm.ppf((n - f - supporters) / (n - f))))
    columns = known.honest.T.tolist()
    expected = [np.mean(c) - z * np.std(c, ddof=1) for c in columns]
    assert one(AlieClient(), known).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_example_of_the_papers_formula() -> None:
    # 50 workers, 24 of them corrupted: s = 26 - 24 = 2, z = quantile of 24 / 26
    assert compute_max_deviation(26, 24) == pytest.approx(float(norm.ppf(24 / 26)))


@given(st.integers(3, 40), st.integers(1, 30))
def test_more_attackers_dare_to_go_at_least_as_far(honest: int, attackers: int) -> None:
    assert compute_max_deviation(honest, attackers + 2) >= compute_max_deviation(honest, attackers)


@pytest.mark.parametrize(("scale", "sign"), [(3.4, 1), (3.6, -1)])
def test_ipm_turns_the_average_round_beyond_honest_over_attackers(scale: float, sign: int) -> None:
    known = collusion(HONEST)  # 7 / 2 = 3.5
    stack = torch.cat([known.honest, IpmClient(scale=scale).forge(known)])
    _, step = FedAvg().aggregate(None, stack, torch.ones(len(stack), dtype=torch.float64))
    assert sign * float(step @ known.honest.mean(0)) > 0


def largest_distance(known: Collusion, point: Tensor) -> float:
    return max(float((point - row).norm()) for row in known.honest)


def sum_of_squares(known: Collusion, point: Tensor) -> float:
    return math.fsum(float((point - row).square().sum()) for row in known.honest)


@every_direction
@given(shapes)
def test_min_max_is_as_far_as_it_may_be(direction: Direction, shape: tuple[int, int, int]) -> None:
    known = drawn(shape)
    sent, centre = one(MinMaxClient(direction), known), known.honest.mean(0)
    allowed = max(float((a - b).norm()) for a, b in itertools.combinations(known.honest, 2))
    assert largest_distance(known, sent) == pytest.approx(allowed, rel=1e-9)
    assert largest_distance(known, centre + 1.001 * (sent - centre)) > allowed
    assert float((sent - centre) @ oppose(known.honest, direction)) > 0


@every_direction
@given(shapes)
def test_min_sum_is_as_far_as_it_may_be(direction: Direction, shape: tuple[int, int, int]) -> None:
    known = drawn(shape)
    sent, centre = one(MinSumClient(direction), known), known.honest.mean(0)
    allowed = max(sum_of_squares(known, row) for row in known.honest)
    assert sum_of_squares(known, sent) == pytest.approx(allowed, rel=1e-9)
    assert sum_of_squares(known, centre + 1.001 * (sent - centre)) > allowed
    assert float((sent - centre) @ oppose(known.honest, direction)) > 0


@every_direction
def test_min_max_is_what_the_papers_halving_steps_find(direction: Direction) -> None:
    known = collusion(HONEST)
    centre, way = known.honest.mean(0), oppose(known.honest, direction)
    allowed = max(float((a - b).norm()) for a, b in itertools.combinations(known.honest, 2))
    found, step, tried = 0.0, 5.0, 10.0
    while step > 1e-9:
        if largest_distance(known, centre + tried * way) <= allowed:
            found, tried = tried, tried + step
        else:
            tried -= step
        step /= 2
    sent = one(MinMaxClient(direction), known)
    assert sent.tolist() == pytest.approx((centre + found * way).tolist(), abs=1e-6)


def test_min_sum_is_more_cautious_than_min_max() -> None:
    known, centre = collusion(HONEST), torch.tensor(HONEST, dtype=torch.float64).mean(0)
    near, far = one(MinSumClient(), known), one(MinMaxClient(), known)
    assert float((near - centre).norm()) <= float((far - centre).norm())


def krum_picks_the_forged(known: Collusion, forged: Tensor) -> bool:
    stack = torch.cat([known.honest, forged.expand(len(known.own), -1)])
    rule = Krum(num_byzantine=len(known.own))
    _, step = rule.aggregate(None, stack, torch.ones(len(stack), dtype=torch.float64))
    return torch.equal(step, forged)


@given(st.tuples(st.integers(6, 12), st.integers(1, 4), st.integers(0, 10**6)))
def test_krum_picks_fangs_update_and_not_twice_as_much(shape: tuple[int, int, int]) -> None:
    honest, own, seed = shape
    known = drawn((max(honest, own + 3), own, seed), size=30)
    sent = one(FangKrumClient(), known)
    signs = -known.honest.mean(0).sign()
    size = float(sent.abs().max())
    assert torch.allclose(sent, size * signs)
    if size > 2e-5:
        assert krum_picks_the_forged(known, sent)
        # the first that is tried is the paper's bound: nothing beyond it is ever picked
        assert not krum_picks_the_forged(known, 2 * sent)


def test_fangs_values_lie_outside_the_honest_ones_on_the_wrong_side() -> None:
    known = collusion(HONEST, num_own=200)
    forged = FangTrimClient(reach=2.0).forge(known)
    for j, column in enumerate(zip(*HONEST, strict=True)):
        low, high = min(column), max(column)
        edge = low if sum(column) > 0 else high
        outwards = (edge < 0) == (edge == low)
        bounds = sorted([edge, edge * 2 if outwards else edge / 2])
        own = forged[:, j].tolist()
        assert bounds[0] - 1e-12 <= min(own) <= max(own) <= bounds[1] + 1e-12
        assert not any(low < value < high for value in own)
        assert max(own) - min(own) > 0.9 * (bounds[1] - bounds[0])


def test_fang_drags_a_trimmed_mean_against_the_honest_mean() -> None:
    known, rule = collusion(HONEST, num_own=3), TrimmedMean(num_byzantine=3)
    stack = torch.cat([known.honest, FangTrimClient().forge(known)])
    _, attacked = rule.aggregate(None, stack, torch.ones(10, dtype=torch.float64))
    centre = known.honest.mean(0)
    assert bool(((attacked - centre) * centre.sign() < 0).all())


@given(shapes)
def test_mimic_copies_who_is_furthest_out_by_numpys_decomposition(
    shape: tuple[int, int, int],
) -> None:
    known = drawn(shape)
    rows = known.honest.numpy()
    _, _, components = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    products = np.abs((rows - rows.mean(0)) @ components[0])
    sent = one(MimicClient(), known)
    (copied,) = [i for i, row in enumerate(known.honest) if torch.equal(row, sent)]
    assert products[copied] == pytest.approx(products.max(), rel=1e-9)


@given(shapes)
def test_the_average_becomes_the_replacement(shape: tuple[int, int, int]) -> None:
    known = drawn(shape)
    rng = generator(shape[2], "weights")
    weights = 1 + 9 * torch.rand(len(known.honest) + len(known.own), generator=rng).double()
    count = len(known.honest)
    own = torch.randn(known.own.shape, generator=rng).double()
    quiet = replace(
        known,
        honest=torch.zeros_like(known.honest),
        own=own,
        honest_weights=weights[:count],
        own_weights=weights[count:],
    )
    stack = torch.cat([quiet.honest, ModelReplacementClient(0.5).forge(quiet)])
    _, step = FedAvg().aggregate(None, stack, weights)
    expected = (weights[count:, None] * own).sum(0) / weights[count:].sum()
    assert torch.allclose(0.5 * step, expected)


@pytest.mark.parametrize(("cls", "rule", "reached"), DAMAGE)
def test_the_search_does_at_least_the_damage_of_byzfls(
    cls: type[Any], rule: AggregationRule, reached: float
) -> None:
    known = collusion(HONEST, rule=rule)
    assert damage(rule, known, one(cls(), known)) >= 0.98 * reached


@pytest.mark.parametrize("cls", [OptimalAlieClient, OptimalIpmClient])
@pytest.mark.parametrize("rule", [Krum(2), TrimmedMean(2), CoordinateMedian(), FedAvg()])
def test_the_search_comes_near_the_best_of_a_fine_grid(
    cls: type[Any], rule: AggregationRule
) -> None:
    known = collusion(HONEST, rule=rule)
    found = damage(rule, known, one(cls(), known))
    small: Any = AlieClient if cls is OptimalAlieClient else IpmClient
    factors = np.geomspace(0.1, 100, 150).tolist()
    best = max(damage(rule, known, one(small(factor), known)) for factor in factors)
    assert found >= 0.9 * best


@pytest.mark.parametrize(
    ("searched", "plain"),
    [(OptimalAlieClient(), AlieClient()), (OptimalIpmClient(), IpmClient())],
)
def test_without_a_rule_to_ask_the_plain_attack_is_sent(searched: Any, plain: Any) -> None:
    known = collusion(HONEST)
    assert torch.equal(searched.forge(known), plain.forge(known))
