"""FedAdagrad, FedAdam and FedYogi against a slow loop over rounds and coordinates."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.core.seeding import generator
from strategies._shared.adaptive import AdaptiveRule
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedyogi import FedYogi

SIZE, CLIENTS, ROUNDS = 6, 4, 5
RULES = [
    FedAdagrad(server_learning_rate=0.1, momentum=0.3, adaptivity=0.01),
    FedAdam(server_learning_rate=0.2, momentum=0.9, decay=0.7, adaptivity=0.1),
    FedYogi(server_learning_rate=0.3, momentum=0.5, decay=0.6, adaptivity=0.05),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


def next_second(rule: AdaptiveRule, v: float, square: float) -> float:
    """Reddi et al. (2021), algorithm 2, the three coloured lines."""
    if isinstance(rule, FedAdagrad):
        return v + square
    if isinstance(rule, FedAdam):
        return rule.decay * v + (1 - rule.decay) * square
    assert isinstance(rule, FedYogi)
    sign = (v > square) - (v < square)
    return v - (1 - rule.decay) * square * sign


@every_rule
@given(seed=st.integers(0, 10**6))
def test_five_rounds_are_those_of_the_algorithm(rule: AdaptiveRule, seed: int) -> None:
    rng = generator(seed, "adaptive")
    rounds = torch.randn(ROUNDS, CLIENTS, SIZE, generator=rng).double()
    weights = torch.randint(1, 50, (CLIENTS,), generator=rng).double()
    moments = [(0.0, rule.adaptivity**2)] * SIZE
    state = rule.initial_state(SIZE)
    for updates in rounds:
        expected = []
        for j in range(SIZE):
            pairs = zip(weights.tolist(), updates[:, j].tolist(), strict=True)
            delta = math.fsum(w * u for w, u in pairs) / math.fsum(weights.tolist())
            m, v = moments[j]
            m = rule.momentum * m + (1 - rule.momentum) * delta
            v = next_second(rule, v, delta**2)
            moments[j] = (m, v)
            step = rule.server_learning_rate * m / (math.sqrt(v) + rule.adaptivity)
            expected.append(step)
        state, step = rule.aggregate(state, updates, weights)
        wanted = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(step, wanted, rtol=1e-11, atol=1e-14)


@every_rule
def test_large_updates_and_small_ones_give_nearly_the_same_first_step(rule: AdaptiveRule) -> None:
    steady = dataclasses.replace(rule, adaptivity=1e-9)
    updates = torch.tensor([[1.0, -1.0, 1e3, -1e-3]]).double()
    _, step = steady.aggregate(steady.initial_state(4), updates, torch.ones(1))
    torch.testing.assert_close(step.abs(), step.abs()[:1].expand(4), rtol=1e-5, atol=0)
    assert step.sign().tolist() == [1, -1, 1, -1]


def test_by_hand() -> None:
    updates, weights = torch.tensor([[0.0], [4.0]]).double(), torch.tensor([1.0, 1.0])
    rule = FedAdam(server_learning_rate=1.0, momentum=0.5, decay=0.5, adaptivity=2.0)
    state, step = rule.aggregate(rule.initial_state(1), updates, weights)
    # The mean is 2: m = 1, v = (4 + 4) / 2 = 4, so 1 / (2 + 2).
    assert (state["first"].item(), state["second"].item(), step.item()) == (1.0, 4.0, 0.25)


@pytest.mark.parametrize(
    ("field", "value"),
    [("server_learning_rate", 0.0), ("momentum", 1.0), ("adaptivity", 0.0), ("decay", 1.0)],
)
def test_values_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        FedAdam(**{field: value})
