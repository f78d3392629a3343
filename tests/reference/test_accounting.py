"""Privacy accounting against dp-accounting's own accountants, and against Opacus."""

import math
import sys
from functools import cache
from typing import Any

import pytest

from fl_sim.contracts import Draw, Release, Releases
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.privacy.accounting import PrivacySpent, compute_epsilon, solve_noise_multiplier

dp: Any = pytest.importorskip("dp_accounting")
pld: Any = pytest.importorskip("dp_accounting.pld")
rdp: Any = pytest.importorskip("dp_accounting.rdp")

Rounds = tuple[tuple[int, int, int], ...]  # clients that can be drawn, that are drawn, rounds
DELTA = 1e-5

# Who takes part, as (noise multiplier, rounds): everybody; a share; departures, arrivals.
SETTINGS: dict[str, tuple[float, Rounds]] = {
    "everybody": (1.0, ((10, 10, 4),)),
    "everybody, often": (4.0, ((20, 20, 60),)),
    "half": (2.0, ((20, 10, 10),)),
    "a tenth": (1.0, ((100, 10, 30),)),
    "one in a hundred": (1.0, ((1000, 10, 100),)),
    "one in a hundred, once": (1.0, ((1000, 10, 1),)),
    "half, then half of them depart": (1.0, ((10, 5, 1), (5, 5, 3))),
    "half arrive late": (2.0, ((10, 10, 9), (20, 10, 1))),
    "more depart in every round": (1.5, ((12, 3, 1), (11, 3, 1), (10, 3, 2))),
    "fewer there than wanted": (1.0, ((4, 5, 3), (10, 5, 2))),
    "little noise": (0.5, ((50, 5, 20),)),
    "much noise": (20.0, ((200, 4, 50),)),
}
every_setting = pytest.mark.parametrize("name", SETTINGS)


@cache
def ours(name: str, sampling: Any) -> PrivacySpent:
    noise, rounds = SETTINGS[name]
    made = [
        Release(noise, Draw(n, size, sampling)) for n, size, times in rounds for _ in [0] * times
    ]
    return compute_epsilon(Releases(tuple(made), DELTA, "clients"))


def theirs(accountant: Any, name: str, event: Any) -> float:
    noise, rounds = SETTINGS[name]
    for eligible, size, times in rounds:
        accountant.compose(event(noise, eligible, min(size, eligible)), times)
    return float(accountant.get_epsilon(DELTA))


def poisson(noise: float, eligible: int, size: int) -> Any:
    return dp.PoissonSampledDpEvent(size / eligible, dp.GaussianDpEvent(noise))


def everybody(noise: float, eligible: int, size: int) -> Any:
    return dp.GaussianDpEvent(noise)


def without_replacement(noise: float, eligible: int, size: int) -> Any:
    return dp.SampledWithoutReplacementDpEvent(eligible, size, dp.GaussianDpEvent(noise / 2))


@every_setting
def test_poisson_draws_cost_what_dp_accounting_says(name: str) -> None:
    found = ours(name, "poisson")
    assert found.epsilon == found.pld
    coarse = 1e-3 if SETTINGS[name][0] < 10 else 1e-4  # of steps that are small themselves
    exact = pld.PLDAccountant(value_discretization_interval=coarse / 2)
    assert found.pld == pytest.approx(theirs(exact, name, poisson), abs=1e-3)
    assert found.rdp == pytest.approx(theirs(rdp.RdpAccountant(), name, poisson), abs=1e-6)
    assert found.pld <= found.rdp


@pytest.mark.slow
@every_setting
def test_draws_of_a_fixed_size_are_never_too_cheap(name: str) -> None:
    """They cost no less than Poisson draws, and what Wang et al. or no draw at all allow."""
    found, chance = ours(name, "fixed"), ours(name, "poisson")
    certain = all(size >= eligible for eligible, size, _ in SETTINGS[name][1])
    exact = pld.PLDAccountant(value_discretization_interval=5e-4)
    whole = pytest.approx(theirs(exact, name, everybody), abs=1e-3)
    assert found == chance if certain else found.pld == whole
    assert found.epsilon >= chance.epsilon
    assert found.rdp >= theirs(rdp.RdpAccountant(), name, poisson) - 1e-9
    replaced = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    bounds = [
        theirs(replaced, name, without_replacement),
        theirs(rdp.RdpAccountant(), name, everybody),
    ]
    assert found.rdp <= min(bounds) + 1e-9
    if len(SETTINGS[name][1]) == 1:
        assert found.rdp > 0.7 * min(bounds)


def test_a_small_share_without_replacement_is_cheaper_than_everybody() -> None:
    found = ours("one in a hundred", "fixed")
    assert found.rdp < 0.3 * theirs(rdp.RdpAccountant(), "one in a hundred", everybody)


def test_a_large_share_costs_no_more_than_everybody() -> None:
    costs = [
        compute_epsilon(Releases((Release(1.0, Draw(10, size), 2),), DELTA, "clients")).epsilon
        for size in (9, 10)
    ]
    assert costs[0] == costs[1]


def test_known_figures() -> None:
    """One in a hundred, a thousand times; and everybody, thirty times. RDP's are Opacus' too."""
    draw = Draw(100, 1, "poisson")
    found = compute_epsilon(Releases((Release(1.0, draw, 1000),), DELTA, "clients"))
    assert found.rdp == pytest.approx(2.10137, abs=1e-5)
    assert found.pld == pytest.approx(1.82824, abs=5e-4)
    whole = compute_epsilon(Releases((Release(1.0, count=30),), 1e-3, "clients"))
    assert whole.rdp == pytest.approx(33.72288, abs=1e-4)
    assert whole.pld == pytest.approx(31.13616, abs=1e-4)


def test_opacus_agrees_round_by_round() -> None:
    accountants: Any = pytest.importorskip("opacus.accountants")
    for name, expected in (
        ("half, then half of them depart", 9.899),
        ("everybody", 10.7255),
        ("half arrive late", 7.7445),
    ):
        noise, rounds = SETTINGS[name]
        accountant: Any = accountants.RDPAccountant()
        accountant.history = [(noise, size / eligible, n) for eligible, size, n in rounds]
        found = ours(name, "poisson").rdp
        assert found == pytest.approx(accountant.get_epsilon(DELTA), abs=1e-3)
        assert found == pytest.approx(expected, abs=1e-3)


def test_the_order_and_the_grouping_of_rounds_do_not_matter() -> None:
    a, b = Release(1.0, Draw(10, 2, "poisson"), 2), Release(1.0, Draw(5, 2, "poisson"))
    single = Release(1.0, Draw(10, 2, "poisson"))
    one, other = (
        compute_epsilon(Releases(r, DELTA, "clients")) for r in ((a, b), (single, b, single))
    )
    assert one == other


def test_nothing_released_costs_nothing_and_no_noise_everything() -> None:
    assert compute_epsilon(Releases((), DELTA, "clients")) == (0.0, 0.0)
    assert compute_epsilon(Releases((Release(1.0, count=0),), DELTA, "clients")) == (0.0, 0.0)
    assert compute_epsilon(Releases((Release(0.0, Draw(9, 0)),), DELTA, "clients")) == (0.0, 0.0)
    bare = Releases((Release(1.0), Release(0.0)), DELTA, "clients")
    assert compute_epsilon(bare) == (math.inf, math.inf)


@pytest.mark.parametrize("noise", [1e-2, 1e6])
@pytest.mark.parametrize("sampling", ["poisson", "fixed"])
def test_extremes_give_a_number(noise: float, sampling: Any) -> None:
    found = compute_epsilon(Releases((Release(noise, Draw(9, 3, sampling), 50),), DELTA, "clients"))
    assert found.epsilon >= 0


def test_without_dp_accounting_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.rdp", None)
    made = Releases((Release(1.2345, Draw(7, 3)),), DELTA, "clients")
    with pytest.raises(RequestError, match=r"pip install fl-sim\[dp\]"):
        compute_epsilon(made)


@pytest.mark.parametrize("sampling", ["fixed", "poisson"])
@pytest.mark.parametrize("eligible", [10, 20])
def test_noise_of_any_strength_has_a_figure(sampling: Any, eligible: int) -> None:
    """The accountants overflow, or run out of memory, at either end."""
    for noise, low, high in ((1e-300, math.inf, math.inf), (1e-10, math.inf, math.inf),
                             (1e150, 0.0, 1e-5), (1e300, 0.0, 1e-5)):  # fmt: skip
        release = Release(noise, Draw(eligible, 10, sampling), 3)
        found = compute_epsilon(Releases((release,), DELTA, "clients"))
        assert low <= found.epsilon <= high
        assert low <= found.rdp <= high


def test_a_delta_below_what_distributions_resolve_has_the_figure_of_rdp() -> None:
    release = Release(1.0, Draw(20, 10, "poisson"), 3)
    found = compute_epsilon(Releases((release,), 1e-300, "clients"))
    assert math.isinf(found.pld)
    assert found.epsilon == found.rdp == pytest.approx(63.522, rel=1e-4)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_solved_noise_is_the_least_that_is_enough(epsilon: float) -> None:
    noise = solve_noise_multiplier(epsilon, Draw(1, 1), 20, DELTA)
    combined = noise / math.sqrt(20)  # 20 releases of everything are one with less noise
    assert dp.get_epsilon_gaussian(combined, DELTA) <= epsilon
    assert dp.get_epsilon_gaussian(combined - 0.001 / math.sqrt(20), DELTA) > epsilon


def test_an_epsilon_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(FieldError, match="epsilon: one that some noise reaches; got 0"):
        solve_noise_multiplier(0.0, Draw(1, 1), 1, DELTA)
