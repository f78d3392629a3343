"""Rules at the edge of float32, and at implausible losses: steps stay finite."""

import dataclasses

import pytest
import torch

from fl_sim.contracts import AggregationRule, RoundContext
from strategies.afl import AFL, project_onto_simplex
from strategies.flame import FLAME
from strategies.nnm import NearestNeighborMixing, find_neighbours, make_neighbour_mean
from strategies.q_fedavg import QFedAvg
from strategies.term import TERM

COUNT, SIZE = 7, 20
LARGEST = 3.4e38


def updates(kind: str) -> torch.Tensor:
    found = 0.01 * torch.randn(COUNT, SIZE, generator=torch.Generator().manual_seed(0))
    if kind == "one":
        found[0] = LARGEST
    elif kind == "many":
        found[:3] = -LARGEST
    elif kind == "all":
        found[:] = LARGEST
    else:
        found[:4, 0] = LARGEST
    return found


@pytest.mark.parametrize("kind", ["one", "many", "all", "a coordinate"])
@pytest.mark.parametrize("rule", [FLAME(), NearestNeighborMixing()], ids=str)
def test_rows_at_the_end_of_float32_give_finite_steps(rule: AggregationRule, kind: str) -> None:
    _, step = rule.aggregate(rule.initial_state(SIZE), updates(kind), torch.ones(COUNT))
    assert bool(step.isfinite().all())


def test_mixtures_beyond_float32_are_means() -> None:
    rows = updates("all")
    mixed = make_neighbour_mean(find_neighbours(rows, 1), rows)(rows)
    torch.testing.assert_close(mixed, rows)


LOSSES = {
    "one": [3.4e38] + [1.0] * (COUNT - 1),
    "all": [3.4e38] * COUNT,
    "none": [0.0] * COUNT,
    "both": [3.4e38, 3.4e38] + [0.0] * (COUNT - 2),
}


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize(
    "rule",
    [
        QFedAvg(),
        QFedAvg(q=0.0),
        QFedAvg(q=0.1),
        QFedAvg(q=12.0),
        QFedAvg(q=300.0),
        TERM(),
        TERM(tilt=-1.0),
        TERM(tilt=1e300),
        TERM(tilt=-1e300),
        AFL(),
        AFL(mixture_learning_rate=1e300),
    ],
    ids=str,
)
def test_finite_losses_give_finite_steps_and_shares(rule: AggregationRule, losses: str) -> None:
    told = torch.tensor(LOSSES[losses], dtype=torch.float64)
    context = dataclasses.replace(RoundContext.anonymous(COUNT), losses=told)
    state = rule.initial_state(SIZE)
    for _ in range(2):
        decision = rule.decide(state, 0.01 * torch.ones(COUNT, SIZE), torch.ones(COUNT), context)
        state = decision.state
        assert bool(decision.step.isfinite().all())
        assert decision.shares is not None
        assert bool(decision.shares.isfinite().all())
        assert bool((decision.shares >= 0).all())


@pytest.mark.parametrize(
    ("values", "nearest"),
    [
        ([1e16, 0.0], [1.0, 0.0]),
        ([1e16, 1e16, 0.0], [0.5, 0.5, 0.0]),
        ([-1e300, 1e300, 0.0], [0.0, 1.0, 0.0]),
        ([1e300, 1e300 - 1e290], [1.0, 0.0]),
        ([1e9 + 0.25, 1e9], [0.625, 0.375]),
        ([-1e16, -1e16], [0.5, 0.5]),
        ([0.5, 0.5, 3.0], [0.0, 0.0, 1.0]),
    ],
)
def test_the_projection_onto_the_simplex_holds_for_any_finite_values(
    values: list[float], nearest: list[float]
) -> None:
    found = project_onto_simplex(torch.tensor(values, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(nearest, dtype=torch.float64))
