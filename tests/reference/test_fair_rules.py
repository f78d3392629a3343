"""FedNova and the rules that weigh clients by their loss, against slow versions and solvers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from fl_sim.contracts import AggregationRule, RoundContext
from fl_sim.core.seeding import generator
from strategies.afl import AFL, project_onto_simplex
from strategies.fedavg import FedAvg
from strategies.fedmgda import FedMGDAPlus, find_shortest_mixture, project_onto_box
from strategies.fednova import FedNova, compute_effective_steps
from strategies.q_fedavg import QFedAvg
from strategies.term import TERM

SIZE = 6


def drawn(seed: int, count: int) -> tuple[Tensor, Tensor, RoundContext]:
    """Return updates, weights, and senders with steps and losses."""
    rng = generator(seed, "fair")
    updates = torch.randn(count, SIZE, generator=rng).double()
    weights = torch.randint(1, 50, (count,), generator=rng).double()
    steps = torch.randint(1, 30, (count,), generator=rng).double()
    losses = 3 * torch.rand(count, generator=rng).double()
    context = replace(RoundContext.anonymous(count), local_steps=steps, losses=losses)
    return updates, weights, context


def step_of(rule: AggregationRule, seed: int, count: int) -> Tensor:
    return rule.decide(rule.initial_state(SIZE), *drawn(seed, count)).step


@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_fednova_is_its_definition(seed: int, count: int) -> None:
    """Wang et al. (2020), equation 8, with the vector a of momentum written out."""
    updates, weights, context = drawn(seed, count)
    shares = (weights / weights.sum()).tolist()
    lengths = [
        math.fsum(math.fsum(0.9**j for j in range(int(k) - i)) for i in range(int(k)))
        for k in context.local_steps.tolist()
    ]
    effective = math.fsum(p * a for p, a in zip(shares, lengths, strict=True))
    expected = torch.zeros(SIZE).double()
    for p, a, update in zip(shares, lengths, updates, strict=True):
        expected += effective * p * update / a
    step = FedNova(momentum=0.9).decide(None, updates, weights, context).step
    torch.testing.assert_close(step, expected, rtol=1e-10, atol=1e-12)


def test_fednova_of_equal_steps_is_the_mean() -> None:
    updates, weights, context = drawn(0, 5)
    equal = replace(context, local_steps=torch.full((5,), 7.0).double())
    step = FedNova().decide(None, updates, weights, equal).step
    torch.testing.assert_close(step, FedAvg().aggregate(None, updates, weights)[1])


def test_effective_steps_of_plain_descent_are_steps() -> None:
    steps = torch.tensor([1.0, 4.0, 9.0])
    assert torch.equal(compute_effective_steps(steps, 0.0), steps)


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 5.0])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_q_fedavg_is_its_algorithm(q: float, seed: int, count: int) -> None:
    """Li et al. (2020), algorithm 2, line by line, with p_k for how clients are drawn."""
    updates, weights, context = drawn(seed, count)
    rate, total, norm = 0.05, np.zeros(SIZE), 0.0
    for p, loss, update in zip(weights, context.losses, updates, strict=True):
        loss_, gradient = float(loss) + 1e-10, -update.numpy() / rate  # L (w - w_k)
        total += float(p) * loss_**q * gradient
        h = q * loss_ ** (q - 1) * float(gradient @ gradient) + loss_**q / rate
        norm += float(p) * h
    step = QFedAvg(q=q, client_learning_rate=rate).decide(None, updates, weights, context).step
    np.testing.assert_allclose(step.numpy(), -total / norm, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [QFedAvg(q=0.0), TERM(tilt=0.0)], ids=["q", "tilt"])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_without_fairness_the_bits_are_those_of_fedavg(
    rule: AggregationRule, seed: int, count: int
) -> None:
    updates, weights, _ = drawn(seed, count)
    expected = FedAvg().aggregate(None, updates.float(), weights)[1]
    assert torch.equal(rule.decide(None, updates.float(), *drawn(seed, count)[1:]).step, expected)


def test_a_client_without_loss_does_not_break_q_fedavg() -> None:
    updates, weights, context = drawn(0, 3)
    served = replace(context, losses=torch.tensor([0.0, 1.0, 2.0]).double())
    decision = QFedAvg(q=0.5).decide(None, updates, weights, served)
    assert bool(decision.step.isfinite().all())
    assert decision.shares is not None
    assert float(decision.shares[0]) < 1e-3 * float(decision.shares[1])


@pytest.mark.parametrize("tilt", [-2.0, 0.1, 1.0, 2.0])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_term_follows_the_gradient_of_its_objective(tilt: float, seed: int, count: int) -> None:
    """d/dF_k of log(sum p exp(t F)) / t, by finite differences, is the share of client k."""
    updates, weights, context = drawn(seed, count)
    shares = (weights / weights.sum()).numpy()

    def objective(losses: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(np.log(shares @ np.exp(tilt * losses)) / tilt)

    at, small = context.losses.numpy(), 1e-6
    slope = [
        (objective(at + small * row) - objective(at - small * row)) / (2 * small)
        for row in np.eye(count)
    ]
    decision = TERM(tilt=tilt).decide(None, updates, weights, context)
    assert decision.shares is not None
    np.testing.assert_allclose(decision.shares.numpy(), slope, rtol=0, atol=1e-8)
    torch.testing.assert_close(decision.step, decision.shares @ updates)


def test_huge_losses_do_not_overflow_term() -> None:
    updates, weights, context = drawn(0, 3)
    far = replace(context, losses=torch.tensor([1.0, 2e4, 1e4]).double())
    decision = TERM(tilt=5.0).decide(None, updates, weights, far)
    torch.testing.assert_close(decision.step, updates[1])


def test_afl_is_its_algorithm_over_rounds() -> None:
    """Mohri et al. (2019): ascent on the mixture, projected by scipy's solver."""
    rule, state = AFL(mixture_learning_rate=0.2), None
    mixture = np.full(4, 0.25)
    for number in range(5):
        updates, weights, context = drawn(number, 4)
        decision = rule.decide(state, updates, weights, context)
        np.testing.assert_allclose(decision.step.numpy(), mixture @ updates.numpy(), atol=1e-6)
        wanted = mixture + 0.2 * context.losses.numpy()
        mixture = minimize(
            lambda x, wanted=wanted: float(((x - wanted) ** 2).sum()),
            mixture,
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            options={"ftol": 1e-14},
        ).x
        state = decision.state
        np.testing.assert_allclose(state.numpy(), mixture, atol=1e-6)


def test_afl_ends_at_the_worst_client_and_knows_who_was_away() -> None:
    rule, state = AFL(mixture_learning_rate=0.1), None
    updates = torch.eye(3).double()
    for _ in range(20):
        context = replace(
            RoundContext.anonymous(3), num_clients=4, losses=torch.tensor([1.0, 2.0, 1.5]).double()
        )
        state = rule.decide(state, updates, torch.ones(3), context).state
    assert state.tolist() == pytest.approx([0, 1, 0, 0])
    away = replace(context, clients=torch.tensor([0, 2, 3]))
    decision = rule.decide(state, updates, torch.ones(3), away)
    assert decision.step.tolist() == [0, 0, 0]  # nobody with a weight took part


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_a_projection_is_on_the_simplex_and_nearest(values: list[float]) -> None:
    point = torch.tensor(values).double()
    found = project_onto_simplex(point)
    assert float(found.min()) >= 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    for corner in torch.eye(len(values)).double():  # no corner lies beyond it
        assert float((point - found) @ (corner - found)) <= 1e-9
    torch.testing.assert_close(
        project_onto_box(point, torch.zeros_like(point), torch.ones_like(point)), found
    )


@pytest.mark.parametrize("room", [0.0, 0.1, 0.5, 1.0])
@given(seed=st.integers(0, 10**6), count=st.integers(2, 7))
def test_fedmgda_finds_the_shortest_allowed_mixture(room: float, seed: int, count: int) -> None:
    updates, weights, context = drawn(seed, count)
    units = (updates / updates.norm(dim=1, keepdim=True)).numpy()
    even = 1 / count
    best = minimize(
        lambda x: float(((x @ units) ** 2).sum()),
        np.full(count, even),
        jac=lambda x: 2 * units @ (x @ units),
        bounds=[(max(0, even - room), min(1, even + room))] * count,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(count)},
        options={"ftol": 1e-16, "maxiter": 1000},
    )
    decision = FedMGDAPlus(room=room).decide(None, updates, weights, context)
    assert decision.shares is not None
    assert float(decision.shares.sum()) == pytest.approx(1, abs=1e-9)
    assert bool((decision.shares >= max(0, even - room) - 1e-12).all())
    assert bool((decision.shares <= min(1, even + room) + 1e-12).all())
    assert float(decision.step.square().sum()) <= best.fun + 1e-9
    torch.testing.assert_close(decision.step, decision.shares @ torch.from_numpy(units))


def test_no_client_loses_along_the_common_direction() -> None:
    updates, weights, context = drawn(3, 4)
    step = FedMGDAPlus(room=1.0).decide(None, updates, weights, context).step
    assert bool((updates @ step >= -1e-9).all())


def test_opposite_clients_stop_fedmgda() -> None:
    updates = torch.tensor([[1.0, 0.0], [-50.0, 0.0]])
    step = FedMGDAPlus(room=1.0).aggregate(None, updates, torch.ones(2))[1]
    assert step.tolist() == [0.0, 0.0]


def test_the_shortest_mixture_of_nothing_is_even() -> None:
    zeros, ones = torch.zeros(3).double(), torch.ones(3).double()
    found = find_shortest_mixture(torch.zeros(3, 3).double(), zeros, ones)
    torch.testing.assert_close(found, ones / 3)
