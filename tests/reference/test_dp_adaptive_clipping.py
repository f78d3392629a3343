"""Adaptive clipping against Andrew et al. (2021), and against Flower's noise parameters."""

import math
from dataclasses import replace

import pytest
import torch
from flwr.supercore.differential_privacy import compute_adaptive_noise_params

from fl_sim.contracts import Draw, Release, Releases, RoundContext
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.seeding import generator
from strategies.dp_adaptive_clipping import DifferentialPrivacyAdaptiveClipping
from strategies.fedavgm import FedAvgM
from strategies.median import CoordinateMedian

SIZE = 50_000


def lengths(*wanted: float) -> torch.Tensor:
    rows = torch.randn(len(wanted), 9, generator=generator(0, "lengths")).double()
    return rows / rows.norm(dim=1, keepdim=True) * torch.tensor(wanted).double()[:, None]


def test_without_noise_the_norm_moves_by_the_share_of_short_updates() -> None:
    """Algorithm 1: C <- C exp(-eta (b - gamma)), b the share of updates of at most C."""
    rule = DifferentialPrivacyAdaptiveClipping(
        initial_clipping_norm=1.0, target_quantile=0.4, noise_multiplier=0.0
    )
    updates, state, bound = lengths(0.5, 1.0001, 2.0, 3.0, 0.9), rule.initial_state(9), 1.0
    for number in range(1, 6):
        context = replace(RoundContext.anonymous(5), round=number)
        decision = rule.decide(state, updates, torch.ones(5), context)
        norms = updates.norm(dim=1)
        clipped = updates * (bound / norms).clamp(max=1)[:, None]
        torch.testing.assert_close(decision.step, clipped.mean(0))
        bound *= math.exp(-0.2 * (float((norms <= bound).double().mean()) - 0.4))
        state = decision.state
        assert state["clipping_norm"] == pytest.approx(bound)


def test_the_norm_finds_the_quantile() -> None:
    rule = DifferentialPrivacyAdaptiveClipping(target_quantile=0.7, noise_multiplier=0.5)
    rng = generator(1, "quantile")
    updates = lengths(*torch.rand(400, generator=rng).mul(10).tolist())
    state = rule.initial_state(9)
    for number in range(1, 101):
        context = replace(RoundContext.anonymous(400), round=number)
        state = rule.decide(state, updates, torch.ones(400), context).state
    short = float((updates.norm(dim=1) <= state["clipping_norm"]).double().mean())
    assert short == pytest.approx(0.7, abs=0.08)


def test_noise_on_updates_and_bits_costs_together_what_it_says() -> None:
    """Theorem 1: z Delta = (z^-2 - (2 sigma b)^-2)^(-1/2); bits of +-1/2, on a sum of clients."""
    rule = DifferentialPrivacyAdaptiveClipping(
        initial_clipping_norm=4.0, noise_multiplier=0.8, bit_noise=0.6
    )
    split = rule.compute_update_noise(0.6)
    assert 1 / split**2 + 1 / (2 * 0.6) ** 2 == pytest.approx(1 / 0.8**2)
    state, updates = rule.initial_state(SIZE), torch.zeros(8, SIZE)
    decision = rule.decide(state, updates, torch.ones(8), RoundContext.anonymous(8))
    assert float(decision.step.std()) == pytest.approx(split * 4.0 / 8, rel=0.02)
    shares = []
    for number in range(1, 401):
        context = replace(RoundContext.anonymous(8), round=number)
        after = rule.decide(rule.initial_state(1), torch.zeros(8, 1), torch.ones(8), context).state
        shares.append(0.5 - math.log(after["clipping_norm"] / 4.0) / 0.2)
    found = torch.tensor(shares)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)  # all updates are short
    assert float(found.std()) == pytest.approx(0.6 / 8, rel=0.1)


def test_the_noise_on_bits_is_the_papers_where_there_are_many_clients() -> None:
    rule = DifferentialPrivacyAdaptiveClipping(noise_multiplier=1.0)
    assert rule.compute_bit_noise(100.0) == 5.0
    assert rule.compute_bit_noise(4.0) == 1.0
    assert replace(rule, noise_multiplier=0.0).compute_bit_noise(100.0) == 0.0


def test_it_costs_what_plain_noise_costs() -> None:
    draws = [Draw(10, 5, "poisson"), Draw(8, 8)]
    rule = DifferentialPrivacyAdaptiveClipping(noise_multiplier=0.7, delta=1e-4)
    made = tuple(Release(0.7, draw) for draw in draws)
    assert rule.releases(draws) == Releases(made, 1e-4, "clients")


def test_a_round_without_anybody_looks_like_any_other() -> None:
    """The sums are noise alone, over the number of clients that is expected."""
    rule = DifferentialPrivacyAdaptiveClipping(
        initial_clipping_norm=2.0, bit_noise=1.0, rule=FedAvgM(momentum=0.5)
    )
    context = replace(RoundContext.anonymous(0), expected=5.0)
    decision = rule.decide_empty(rule.initial_state(SIZE), SIZE, context)
    assert decision is not None
    expected = rule.compute_update_noise(1.0) * 2.0 / 5
    assert float(decision.step.std()) == pytest.approx(expected, rel=0.02)
    assert decision.state["clipping_norm"] != 2.0
    assert rule.decide_empty(rule.initial_state(3), 3, RoundContext.anonymous(0)) is None


def test_what_would_need_endless_noise_is_refused() -> None:
    with pytest.raises(FieldError, match=r"bit_noise: above noise_multiplier / 2 = 0\.5"):
        DifferentialPrivacyAdaptiveClipping(noise_multiplier=1.0, bit_noise=0.5)


def test_no_guarantee_is_claimed_for_a_rule_that_is_no_sum() -> None:
    with pytest.raises(RequestError, match="CoordinateMedian"):
        DifferentialPrivacyAdaptiveClipping(rule=CoordinateMedian()).releases([Draw(9, 9)])


@pytest.mark.parametrize(("noise", "count", "bits"), [(1.0, 100, None), (0.5, 40, 3.0)])
def test_noise_is_split_as_flower_does(noise: float, count: int, bits: float | None) -> None:
    """Flower's default for the noise on bits is the paper's, and ours where that suffices."""
    rule = DifferentialPrivacyAdaptiveClipping(noise_multiplier=noise, bit_noise=bits)
    on_bits, on_updates = compute_adaptive_noise_params(noise, count, bits)
    assert rule.compute_bit_noise(float(count)) == pytest.approx(on_bits)
    assert rule.compute_update_noise(on_bits) == pytest.approx(on_updates)
