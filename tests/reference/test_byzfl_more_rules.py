"""Rules that ByzFL 0.0.11 has too: by definition, and on the matrices of `fixtures/`.

`fixtures/make_byzfl_rules.py` wrote what ByzFL gives. Known differences: several subsets can
share the smallest diameter, and ByzFL takes the first, ours the one that lies closest together.
"""

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clients.alie import AlieClient
from clients.sgd import SgdClient
from fl_sim import Adversary, Data, Experiment
from fl_sim.config.validation import check
from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext
from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator
from strategies.arkrum import ArKrum, count_outliers
from strategies.caf import CAF
from strategies.fedavg import FedAvg
from strategies.krum import MultiKrum
from strategies.mda import MAX_SUBSETS, MDA
from strategies.meamed import Meamed
from strategies.monna import MoNNA
from strategies.nnm import NearestNeighborMixing
from strategies.smea import SMEA
from strategies.static_clipping import StaticClipping
from strategies.trimmed_mean import TrimmedMean

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "fixtures" / "byzfl_rules.json").read_text(encoding="utf-8")
)["cases"]


def decided(rule: AggregationRule, rows: Tensor) -> AggregationResult:
    state = rule.initial_state(rows.shape[1])
    return rule.decide(state, rows, torch.ones(len(rows)), RoundContext.anonymous(len(rows)))


def drawn(seed: int, count: int, size: int = 4) -> Tensor:
    return torch.randn(count, size, generator=generator(seed, "rows")).double()


def caf(rows: Tensor, f: int, among_all: bool = False) -> Tensor:
    """Run the filter on covariances, coordinate by coordinate."""
    x, count = rows.numpy(), len(rows)
    weights, best, smallest = np.ones(count), x.mean(0), math.inf
    while weights.sum() > count - 2 * f:
        apart = x - weights @ x / weights.sum()
        values, vectors = np.linalg.eigh((weights[:, None] * apart).T @ apart / weights.sum())
        if values[-1] < smallest:
            best, smallest = weights @ x / weights.sum(), values[-1]
        squares = (apart @ vectors[:, -1]) ** 2
        largest = squares.max() if among_all else squares[weights > 0].max()
        weights = weights * np.maximum(0, 1 - squares / largest)
    return torch.from_numpy(best)


def diameter(rows: Tensor, members: tuple[int, ...]) -> float:
    return max((math.dist(rows[i], rows[j]) for i, j in combinations(members, 2)), default=0.0)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"n={len(c['rows'])} f={c['f']}")
@pytest.mark.parametrize("name", ["Meamed", "MDA", "SMEA", "MoNNA"])
def test_a_step_is_byzfls(name: str, case: dict[str, Any]) -> None:
    rows, f = torch.tensor(case["rows"], dtype=torch.float64), case["f"]
    rules: dict[str, AggregationRule] = {
        "Meamed": Meamed(f),
        "MDA": MDA(f),
        "SMEA": SMEA(f),
        "MoNNA": MoNNA(f, trusted=len(rows) - 1),
    }
    found, expected = decided(rules[name], rows).step, torch.tensor(case["steps"][name]).double()
    if name == "MDA" and not torch.allclose(found, expected):
        kept = list(combinations(range(len(rows)), len(rows) - f))
        smallest = min(diameter(rows, s) for s in kept)
        alike = [rows[list(s)].mean(0) for s in kept if diameter(rows, s) == smallest]
        assert len(alike) > 1
        assert any(torch.allclose(mean, found) for mean in alike)
        assert any(torch.allclose(mean, expected) for mean in alike)
        return
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"n={len(c['rows'])} f={c['f']}")
def test_what_is_clipped_is_byzfls(case: dict[str, Any]) -> None:
    rows, f = torch.tensor(case["rows"], dtype=torch.float64), case["f"]
    clipped = torch.tensor(case["clipped"], dtype=torch.float64)
    for rule in (FedAvg(), TrimmedMean(f), NearestNeighborMixing(f, TrimmedMean(f)), Meamed(f)):
        step = decided(StaticClipping(threshold=10.0, rule=rule), rows).step
        torch.testing.assert_close(step, decided(rule, clipped).step, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 10**6), count=st.integers(5, 12), f=st.integers(0, 2))
def test_meamed_is_its_definition(seed: int, count: int, f: int) -> None:
    rows = drawn(seed, count)
    for column, value in zip(rows.T.tolist(), decided(Meamed(f), rows).step.tolist(), strict=True):
        median = float(np.median(column))
        near = sorted(column, key=lambda v: abs(v - median))[: count - f]
        assert value == pytest.approx(math.fsum(near) / len(near), rel=1e-12, abs=1e-12)


@given(seed=st.integers(0, 10**6), count=st.integers(5, 9), f=st.integers(0, 2))
def test_mda_keeps_a_subset_of_the_smallest_diameter(seed: int, count: int, f: int) -> None:
    rows = drawn(seed, count)
    decision = decided(MDA(f), rows)
    assert decision.shares is not None
    chosen = tuple(decision.shares.nonzero().squeeze(1).tolist())
    assert len(chosen) == count - f
    subsets = combinations(range(count), count - f)
    smallest = min(diameter(rows, subset) for subset in subsets)
    assert diameter(rows, chosen) == pytest.approx(smallest, rel=1e-9)
    torch.testing.assert_close(decision.step, rows[list(chosen)].mean(0))


@given(seed=st.integers(0, 10**6), count=st.integers(5, 9), f=st.integers(0, 2))
def test_smea_is_its_definition(seed: int, count: int, f: int) -> None:
    rows = drawn(seed, count).numpy()

    def spread(members: tuple[int, ...]) -> float:
        covariance = np.cov(rows[list(members)], rowvar=False, bias=True)
        return float(np.linalg.eigvalsh(covariance)[-1])

    best = min(combinations(range(count), count - f), key=spread)
    expected = torch.from_numpy(rows[list(best)].mean(0))
    torch.testing.assert_close(decided(SMEA(f), torch.from_numpy(rows)).step, expected)


@given(seed=st.integers(0, 10**6), count=st.integers(5, 10), f=st.integers(0, 2))
def test_caf_is_its_algorithm_in_coordinates(seed: int, count: int, f: int) -> None:
    rows = drawn(seed, count)
    rows[:f] += 5
    torch.testing.assert_close(decided(CAF(f), rows).step, caf(rows, f), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"n={len(c['rows'])} f={c['f']}")
def test_caf_is_byzfls_but_for_whom_the_others_are_measured_by(case: dict[str, Any]) -> None:
    """ByzFL divides by the largest projection of all, also of updates with a weight of zero."""
    rows, f = torch.tensor(case["rows"], dtype=torch.float64), case["f"]
    expected = torch.tensor(case["steps"]["CAF"], dtype=torch.float64)
    torch.testing.assert_close(caf(rows, f, among_all=True), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(decided(CAF(f), rows).step, caf(rows, f), rtol=1e-9, atol=1e-9)


def test_an_outlier_far_away_does_not_stop_the_filter() -> None:
    rows = drawn(3, 9)
    rows[:2] += 1e9
    shares = decided(CAF(2), rows).shares
    assert shares is not None
    assert float(shares[:2].max()) < 1e-15


def test_monna_trusts_a_client_a_server_or_nobody() -> None:
    rows = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]]).double()
    context = replace(RoundContext.anonymous(6), clients=torch.tensor([3, 4, 5, 6, 7, 9]))
    sent = {7: 11.0, 3: 0.0}
    for trusted, own in sent.items():
        step = MoNNA(2, trusted=trusted).decide(None, rows, torch.ones(6), context).step
        nearest = sorted(rows[:, 0].tolist(), key=lambda v, own=own: abs(v - own))[:4]
        assert float(step) == pytest.approx(sum(nearest) / 4)
    away = MoNNA(2, trusted=8).decide(None, rows, torch.ones(6), context)
    assert away.shares is not None
    assert (float(away.step), float(away.shares.sum())) == (0.0, 0.0)
    server = replace(context, reference=torch.tensor([0.5]).double())
    assert float(MoNNA(2).decide(None, rows, torch.ones(6), server).step) == (0 + 1 + 2 + 10) / 4
    assert (MoNNA().root_samples, MoNNA(trusted=0).root_samples) == (100, 0)
    with pytest.raises(ValueError, match="reference"):
        MoNNA(2).decide(None, rows, torch.ones(6), context)


# ArKrum


def test_what_lies_far_out_is_counted() -> None:
    def counted(*values: float) -> int:
        return count_outliers(torch.tensor(values).double(), 5.0, 10.0)

    assert counted(1, 1.1, 1.2, 1.3, 1.4, 1.5) == 0
    assert counted(1, 1.1, 1.2, 1.3, 1.4, 50) == 1
    assert counted(1, 1.1, 1.2, 1.3, 40, 50) == 2
    # Median 20: the filter lets 25 pass, but there is a break behind 1.2.
    assert counted(1, 1.1, 1.2, 20, 20.1, 25) == 3
    assert counted(1, 1.1, 1.2, 5, 5.1, 8) == 0  # only 4 times as far
    assert counted(0, 0, 0, 0, 0) == 0


@given(seed=st.integers(0, 10**6), liars=st.integers(0, 3))
def test_arkrum_finds_out_how_many_attack(seed: int, liars: int) -> None:
    rows = drawn(seed, 11, size=200)
    rows[:liars] += 1e3 * torch.randn(liars, 1, generator=generator(seed, "lies")).double().sign()
    decision = decided(ArKrum(), rows)
    assert decision.shares is not None
    assert not bool(decision.shares[:liars].any())
    assert int((decision.shares > 0).sum()) >= 7  # of 11, at most (11 - 3) / 2 are left out


def test_without_outliers_arkrum_is_multi_krum_around_its_choice() -> None:
    rows = torch.cat([torch.eye(6), torch.eye(6)[:1] * 100]).double()
    decision, expected = decided(ArKrum(), rows), decided(MultiKrum(1), rows)
    torch.testing.assert_close(decision.step, expected.step)


# Searches that are too large


def test_a_search_that_is_too_large_is_refused_before_any_work() -> None:
    assert MDA(3).max_updates == 85
    assert math.comb(85, 3) <= MAX_SUBSETS < math.comb(86, 3)
    rule = NearestNeighborMixing(6, SMEA(6))
    wanted = Experiment(
        name="large",
        client=SgdClient(),
        strategy=rule,
        data=Data(dataset="digits", num_clients=30, num_samples=600, num_test=60),
    )
    with pytest.raises(FieldError, match=r"data\.num_clients: at most .* clients a round"):
        check(wanted)
    beside = Adversary(AlieClient(), num_clients=6, beside=True)
    fits = replace(wanted, data=replace(wanted.data, num_clients=12), adversary=beside)
    check(fits)
