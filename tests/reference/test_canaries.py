"""Canaries: the estimate on a Gaussian mechanism whose epsilon is known."""

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from clients.canary import CanaryClient
from fl_sim.attacks.canaries import canary_epsilon, draw_canary, gaussian_epsilon
from fl_sim.contracts import Shard, Update
from fl_sim.core.seeding import generator


@pytest.mark.parametrize("shift", [0.05, 0.5, 1.0, 2.0, 10.0])
def test_the_epsilon_of_a_gaussian_is_the_root_of_its_equation(shift: float) -> None:
    """Balle and Wang (2018), theorem 8, by scipy."""
    delta = 1e-5

    def excess(epsilon: float) -> float:
        near = norm.cdf(shift / 2 - epsilon / shift)
        far = norm.logcdf(-shift / 2 - epsilon / shift)
        return float(near - math.exp(epsilon + far)) - delta

    expected = brentq(excess, 0, 500) if excess(0) > 0 else 0.0
    assert gaussian_epsilon(shift, delta) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("deviation", "epsilon"), [(0.5, 9.997), (1.0, 4.377), (2.0, 1.993)])
def test_the_estimate_is_within_15_percent_of_the_truth(deviation: float, epsilon: float) -> None:
    """500 canaries in 50,000 dimensions, each of length 1, and noise on their sum."""
    size, count = 50_000, 500
    directions = torch.stack([draw_canary(c, size, seed=3) for c in range(count)])
    noise = deviation * torch.randn(size, generator=generator(0, "noise"))
    released = directions.sum(0) + noise
    # As in the paper, canaries are told from a release in which they add up with the noise.
    cosines = directions @ released / (deviation * math.sqrt(size))
    assert canary_epsilon(cosines, size, 1e-5) == pytest.approx(epsilon, rel=0.15)


def test_directions_that_are_not_in_there_give_nothing_away() -> None:
    size = 10_000
    directions = torch.stack([draw_canary(c, size, seed=0) for c in range(200)])
    released = torch.randn(size, generator=generator(1, "noise"))
    cosines = directions @ released / released.norm()
    assert canary_epsilon(cosines, size, 1e-5) < 0.3


def test_a_canary_sends_its_direction_at_its_length() -> None:
    client = CanaryClient(length=0.7, seed=4)
    shard = Shard(5, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.arange(2), 2)
    (sent,) = client.replies(Update(5, torch.zeros(100), {}, 2, {}), shard)
    assert sent.delta is not None
    torch.testing.assert_close(sent.delta, 0.7 * draw_canary(5, 100, 4))
    assert float(sent.delta.norm()) == pytest.approx(0.7, rel=1e-5)
