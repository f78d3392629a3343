"""FLTrust, FoolsGold, DnC, SignGuard, FLAME and privacy: definitions, and passing attacks."""

import importlib.util
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_sim.contracts import Draw, Release, Releases, RoundContext
from fl_sim.core.errors import RequestError
from fl_sim.core.seeding import generator
from strategies.bucketing import Bucketing
from strategies.differential_privacy import DifferentialPrivacy
from strategies.dnc import DnC
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fednova import FedNova
from strategies.flame import FLAME
from strategies.fltrust import FLTrust
from strategies.foolsgold import FoolsGold, compute_uniqueness
from strategies.median import CoordinateMedian
from strategies.norm_bounding import NormBounding
from strategies.server_momentum import ServerMomentum
from strategies.signguard import SignGuard, find_sign_cluster
from strategies.static_clipping import StaticClipping


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.hypot(*a) * math.hypot(*b)
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


@given(seed=st.integers(0, 10**6), count=st.integers(1, 8))
def test_fltrust_is_its_algorithm(seed: int, count: int) -> None:
    """Cao et al. (2021), algorithm 2."""
    rng = generator(seed, "trust")
    updates, own = torch.randn(count, 5, generator=rng).double(), torch.randn(5, generator=rng)
    context = replace(RoundContext.anonymous(count), reference=own.double())
    trust = [max(0.0, cosine(u, own.tolist())) for u in updates.tolist()]
    total = torch.zeros(5).double()
    for score, update in zip(trust, updates, strict=True):
        total += score * float(own.norm()) / float(update.norm()) * update
    expected = total / math.fsum(trust) if math.fsum(trust) else total
    step = FLTrust().decide(None, updates, torch.ones(count), context).step
    torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-9)


def test_fltrust_survives_all_but_one() -> None:
    rng = generator(0, "all but one")
    own = torch.randn(20, generator=rng)
    honest = own + 0.1 * torch.randn(1, 20, generator=rng)
    lies = -1e6 * honest.expand(9, -1)
    updates = torch.cat([lies, honest])
    context = replace(RoundContext.anonymous(10), reference=own)
    decision = FLTrust().decide(None, updates, torch.ones(10), context)
    assert decision.shares is not None
    assert decision.shares.tolist() == [0.0] * 9 + [1.0]
    assert float(decision.step.norm()) == pytest.approx(float(own.norm()), rel=1e-5)


def test_fltrust_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"RoundContext\.reference"):
        FLTrust().aggregate(None, torch.ones(3, 2), torch.ones(3))
    assert FLTrust(num_root_samples=40).root_samples == 40


def uniqueness_by_definition(history: list[list[float]], kappa: float) -> list[float]:
    """Fung et al. (2020), algorithm 1, loop by loop."""
    count = len(history)
    table = [[cosine(a, b) for b in history] for a in history]
    most = [max(table[i][j] for j in range(count) if j != i) for i in range(count)]
    for i in range(count):
        for j in range(count):
            if most[j] > most[i] and most[j] != 0:
                table[i][j] *= most[i] / most[j]
    unlike = [1 - max(table[i][j] for j in range(count) if j != i) for i in range(count)]
    unlike = [min(1.0, max(0.0, value)) for value in unlike]
    top = max(unlike)
    if top == 0:
        return unlike
    weights = []
    for value in (value / top for value in unlike):
        logit = (
            math.inf if value == 1 else -math.inf if value == 0 else math.log(value / (1 - value))
        )
        weights.append(min(1.0, max(0.0, kappa * (logit + 0.5))))
    return weights


@given(seed=st.integers(0, 10**6), count=st.integers(2, 7), rounds=st.integers(1, 3))
def test_foolsgold_is_its_algorithm_over_rounds(seed: int, count: int, rounds: int) -> None:
    rule, state = FoolsGold(), FoolsGold().initial_state(6)
    total = torch.zeros(count, 6).double()
    for number in range(rounds):
        updates = torch.randn(count, 6, generator=generator(seed, "gold", number)).double()
        total += updates
        weights = torch.tensor(uniqueness_by_definition(total.tolist(), 1.0)).double()
        decision = rule.decide(state, updates, torch.ones(count), RoundContext.anonymous(count))
        state = decision.state
        expected = weights @ updates / weights.sum() if weights.sum() else torch.zeros(6).double()
        torch.testing.assert_close(decision.step, expected, rtol=1e-6, atol=1e-9)


def test_sybils_are_outdone_by_few_honest_clients() -> None:
    rng = generator(0, "sybils")
    honest, lie = torch.randn(3, 200, generator=rng), torch.randn(1, 200, generator=rng)
    updates = torch.cat([honest, lie + 0.01 * torch.randn(7, 200, generator=rng)])
    decision = FoolsGold().aggregate(None, updates, torch.ones(10))[1]
    torch.testing.assert_close(decision, honest.mean(0), rtol=0, atol=0.05)


def test_foolsgold_remembers_clients_that_were_away() -> None:
    rng = generator(0, "away")
    rule, updates = FoolsGold(), torch.randn(3, 8, generator=rng)
    first = replace(RoundContext.anonymous(3), num_clients=5, clients=torch.tensor([0, 2, 4]))
    state = rule.decide(None, updates, torch.ones(3), first).state
    second = replace(first, clients=torch.tensor([1, 2, 3]))
    state = rule.decide(state, updates, torch.ones(3), second).state
    expected = torch.stack([updates[0], updates[0], 2 * updates[1], updates[2], updates[2]])
    torch.testing.assert_close(state, expected)


def test_one_client_alone_is_unlike_all_others() -> None:
    assert compute_uniqueness(torch.ones(1, 1).double(), 1.0).tolist() == [1.0]


@given(seed=st.integers(0, 10**6), f=st.integers(1, 2), spare=st.integers(0, 5))
def test_dnc_is_its_algorithm(seed: int, f: int, spare: int) -> None:
    """Shejwalkar and Houmansadr (2021), algorithm 2, with numpy's singular vectors."""
    rule = DnC(num_byzantine=f, num_iterations=3, num_coordinates=6)
    count = rule.min_updates + spare
    updates = torch.randn(count, 10, generator=generator(seed, "dnc")).double()
    context = replace(RoundContext.anonymous(count), seed=seed, round=4)
    good = set(range(count))
    for look in range(3):
        seen = torch.randperm(10, generator=generator(seed, "dnc", 4, look))[:6]
        rows = updates[:, seen].numpy()
        centred = rows - rows.mean(0)
        first = np.linalg.svd(centred)[2][0]
        scores = (centred @ first) ** 2
        good &= set(np.argsort(scores)[: count - f].tolist())
    decision = rule.decide(None, updates, torch.ones(count), context)
    torch.testing.assert_close(decision.step, updates[sorted(good)].mean(0))


def test_dnc_draws_other_coordinates_every_round() -> None:
    updates = torch.randn(9, 50, generator=generator(0, "dnc"))
    rule = DnC(num_byzantine=1, num_coordinates=3)
    rounds = [replace(RoundContext.anonymous(9), round=i) for i in range(1, 6)]
    kept = {tuple(_shares(rule, updates, context)) for context in rounds}
    assert len(kept) > 1


def _shares(rule: DnC, updates: Tensor, context: RoundContext) -> list[float]:
    shares = rule.decide(None, updates, torch.ones(len(updates)), context).shares
    assert shares is not None
    return shares.tolist()


def test_signguard_lets_the_honest_majority_pass() -> None:
    rng = generator(0, "signs")
    common = torch.randn(400, generator=rng).abs()
    honest = common + 0.3 * torch.randn(8, 400, generator=rng)
    lies = {"flip": -honest[:3], "long": 100 * honest[:3], "short": 1e-3 * honest[:3]}
    for lie in lies.values():
        decision = SignGuard(fraction=0.5).decide(
            None, torch.cat([lie, honest]), torch.ones(11), RoundContext.anonymous(11)
        )
        assert decision.shares is not None
        assert decision.shares[:3].tolist() == [0.0] * 3
        assert int((decision.shares > 0).sum()) >= 6


def test_signguard_shortens_what_passes_to_the_median() -> None:
    direction = torch.ones(1, 30)
    updates = direction * torch.tensor([[1.0], [1.5], [2.0], [2.5], [3.0]])
    decision = SignGuard().decide(None, updates, torch.ones(5), RoundContext.anonymous(5))
    torch.testing.assert_close(decision.step, torch.full((30,), (1 + 1.5 + 2 + 2 + 2) / 5))


def test_signs_that_are_all_alike_are_one_cluster() -> None:
    assert find_sign_cluster(torch.ones(5, 10)).all()
    mixed = torch.ones(5, 10)
    mixed[:2] = -1
    assert find_sign_cluster(mixed).tolist() == [False, False, True, True, True]


def test_flame_keeps_the_majority_and_bounds_it() -> None:
    rng = generator(0, "flame")
    common = torch.randn(1, 300, generator=rng)
    honest = common + 0.2 * torch.randn(7, 300, generator=rng)
    honest[0] *= 50
    updates = torch.cat([torch.randn(3, 300, generator=rng), honest])
    decision = FLAME(noise=0.0).decide(None, updates, torch.ones(10), RoundContext.anonymous(10))
    assert decision.shares is not None
    assert decision.scales is not None
    assert decision.shares[:3].tolist() == [0.0] * 3
    assert int((decision.shares > 0).sum()) >= 6
    usual = float(updates.double().norm(dim=1).quantile(0.5))
    assert float(decision.scales[3]) == pytest.approx(usual / float(honest[0].double().norm()))
    expected = (decision.shares * decision.scales) @ updates.double()
    torch.testing.assert_close(decision.step.double(), expected, rtol=0, atol=1e-6)


def test_flames_noise_is_a_share_of_the_median_length() -> None:
    updates = torch.full((5, 40_000), 0.5)
    step = FLAME(noise=0.01).aggregate(None, updates, torch.ones(5))[1]
    assert float(step.std()) == pytest.approx(0.01 * 0.5 * 200, rel=0.02)
    again = FLAME(noise=0.01).aggregate(None, updates, torch.ones(5))[1]
    assert torch.equal(step, again)


def test_private_means_are_clipped_and_unweighted() -> None:
    updates = torch.randn(6, 9, generator=generator(0, "private")).double()
    rule = DifferentialPrivacy(clipping_norm=2.0, noise_multiplier=0.0)
    step = rule.aggregate(None, updates, torch.tensor([1.0, 2, 3, 4, 5, 600]))[1]
    expected = NormBounding(threshold=2.0).aggregate(None, updates, torch.ones(6))[1]
    torch.testing.assert_close(step, expected)


def test_nothing_longer_than_the_clipping_norm_enters_a_private_mean() -> None:
    rule = DifferentialPrivacy(clipping_norm=2.0, noise_multiplier=0.0)
    updates = torch.randn(50, 9, generator=generator(1, "private")).double() * 100
    updates[0] = 0
    for update in updates:
        step = rule.aggregate(None, update[None], torch.ones(1))[1]
        assert float(step.norm()) <= 2.0 * (1 + 1e-6)
        torch.testing.assert_close(step, update * min(1.0, 2.0 / max(float(update.norm()), 1e-9)))


def test_noise_is_as_large_as_it_says_and_another_in_each_round() -> None:
    updates, context = torch.zeros(8, 50_000), RoundContext.anonymous(8)
    rule = DifferentialPrivacy(clipping_norm=4.0, noise_multiplier=0.5)
    steps = [
        rule.decide(None, updates, torch.ones(8), replace(context, round=number)).step
        for number in (1, 2, 1)
    ]
    assert float(steps[0].std()) == pytest.approx(0.5 * 4 / 8, rel=0.02)
    assert torch.equal(steps[0], steps[2])
    assert abs(float((steps[0] * steps[1]).mean())) < 0.02 * 0.0625
    on_median = replace(rule, rule=CoordinateMedian())
    step = on_median.aggregate(None, updates, torch.ones(8))[1]
    assert float(step.std()) == pytest.approx(0.5 * 4 / 8, rel=0.02)


def test_a_server_optimiser_works_on_the_noisy_mean() -> None:
    updates, context = torch.zeros(4, 1000), RoundContext.anonymous(4)
    plain, momentum = DifferentialPrivacy(), DifferentialPrivacy(rule=FedAvgM(momentum=0.9))
    first = plain.decide(None, updates, torch.ones(4), context).step
    state = momentum.initial_state(1000)
    decision = momentum.decide(state, updates, torch.ones(4), context)
    torch.testing.assert_close(decision.step, first)
    second = momentum.decide(decision.state, updates, torch.ones(4), replace(context, round=2)).step
    fresh = plain.decide(None, updates, torch.ones(4), replace(context, round=2)).step
    torch.testing.assert_close(second, 0.9 * first + fresh)


needs_accounting = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="an extra"
)


@needs_accounting
def test_epsilon_of_one_gaussian_release_is_near_the_closed_form() -> None:
    # Renyi divergence of order a is a / (2 z^2); the best order gives about this bound.
    noise, delta = 4.0, 1e-5
    spent = DifferentialPrivacy(noise_multiplier=noise, delta=delta).estimate_epsilon(1, 1.0)
    closed = 1 / (2 * noise**2) + math.sqrt(2 * math.log(1 / delta)) / noise
    assert 0.75 * closed < spent < closed


@needs_accounting
def test_epsilon_of_many_releases_is_that_of_other_accountants() -> None:
    """Noise 1, 30 rounds, everybody in each: the RDP accountants of Flower and dp-accounting."""
    spent = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-3).estimate_epsilon(30, 1.0)
    assert spent == pytest.approx(33.7229, abs=5e-5)


@needs_accounting
def test_epsilon_grows_with_rounds_and_shrinks_with_noise_and_sampling() -> None:
    rule = DifferentialPrivacy(noise_multiplier=1.0)
    usual = rule.estimate_epsilon(100, 0.1)
    assert rule.estimate_epsilon(200, 0.1) > usual
    assert rule.estimate_epsilon(100, 1.0) > usual
    assert replace(rule, noise_multiplier=2.0).estimate_epsilon(100, 0.1) < usual
    assert replace(rule, noise_multiplier=0.0).estimate_epsilon(1, 1.0) == math.inf


def test_no_epsilon_is_claimed_for_a_rule_that_is_no_sum() -> None:
    with pytest.raises(RequestError, match="CoordinateMedian"):
        DifferentialPrivacy(rule=CoordinateMedian()).estimate_epsilon(1, 1.0)
    assert DifferentialPrivacy(rule=FedAvg()).min_updates == 1


def test_unequal_shares_are_private_only_where_counts_are_public() -> None:
    """FedNova's shares follow the numbers of steps, which tell how much data clients hold."""
    fixed, poisson = [Draw(10, 5)], [Draw(10, 5, "poisson")]
    secret = DifferentialPrivacy(rule=FedNova())
    public = replace(secret, public_counts=True)
    with pytest.raises(RequestError, match="shares of FedNova tell how much data"):
        secret.releases(fixed)
    assert public.releases(fixed) == Releases((Release(1.0, fixed[0]),), 1e-5, "clients")
    with pytest.raises(RequestError, match="shares of FedNova depend on who else"):
        public.releases(poisson)
    for rule in (FedAvg(), FedAvgM()):
        made = DifferentialPrivacy(rule=rule).releases(poisson)
        assert made is not None
        assert made.releases == (Release(1.0, poisson[0]),)


def test_noise_under_fednova_follows_the_largest_share() -> None:
    steps = torch.tensor([1.0, 4.0, 4.0, 4.0]).double()
    context = replace(RoundContext.anonymous(4), local_steps=steps)
    rule = DifferentialPrivacy(clipping_norm=2.0, noise_multiplier=0.5, rule=FedNova())
    decision = rule.decide(None, torch.zeros(4, 50_000), torch.ones(4), context)
    assert decision.shares is not None
    largest = float(decision.shares.max())
    assert largest > 1 / 4
    assert float(decision.step.std()) == pytest.approx(0.5 * 2 * largest, rel=0.02)


def test_of_a_random_number_of_clients_the_sum_is_over_the_expected_number() -> None:
    """McMahan et al. (2018), the estimator f_f: the denominator is q W, whoever came."""
    updates = torch.randn(3, 9, generator=generator(0, "poisson")).double()
    updates /= updates.norm(dim=1, keepdim=True)
    context = replace(RoundContext.anonymous(3), expected=5.0)
    rule = DifferentialPrivacy(clipping_norm=2.0, noise_multiplier=0.0)
    step = rule.decide(None, updates, torch.ones(3), context).step
    torch.testing.assert_close(step, updates.sum(0) / 5)
    noisy = replace(rule, noise_multiplier=0.5)
    some = noisy.decide(None, torch.zeros(3, 50_000), torch.ones(3), context).step
    empty = noisy.decide_empty(None, 50_000, context)
    assert empty is not None
    none = empty.step
    torch.testing.assert_close(some, none)
    assert float(none.std()) == pytest.approx(0.5 * 2 / 5, rel=0.02)


def test_what_comes_before_or_after_a_private_sum_leaves_its_cost_as_it_is() -> None:
    """Clipping each update by itself, and momentum on the step; mixing updates does not."""
    draws, private = [Draw(10, 5, "poisson")], DifferentialPrivacy()
    for around in (StaticClipping(rule=private), ServerMomentum(rule=private)):
        assert around.releases(draws) == private.releases(draws)
    assert Bucketing(rule=private).releases(draws) is None
