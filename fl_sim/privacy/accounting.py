"""Privacy accounting: what noisy releases have cost so far, by Google's `dp-accounting`.

Rounds are composed one by one, each with the probability with which a client was really drawn.
Two figures come out: that of privacy loss distributions (PLD), which is the tighter one, and that
of Renyi differential privacy (RDP). Both are upper bounds.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fl_sim.contracts import Draw, Releases
from fl_sim.core.errors import RequestError

MISSING = "accounting needs dp-accounting: pip install fl-sim[dp]"
ERROR = 1e-4  # of epsilon, by which the steps of a distribution's grid may loosen it
COARSEST = 2.0**-7  # step of a grid, unless epsilon is very large
MOST_SAMPLED = 200_000  # releases of Poisson draws, of which a distribution is made in seconds
LEAST_NOISE = 1e-3  # at which epsilon is half a million: accountants run out of memory below
MOST_NOISE = 1e6  # at which epsilon is next to nothing: their squares overflow above
CURVATURE = 1.3  # epsilon rises by about this times the sum of squared steps over epsilon


class PrivacySpent(NamedTuple):
    """What privacy has cost: epsilon, at the delta of the releases.

    Attributes:
        pld: by privacy loss distributions; NaN where draws of a fixed size are among the
            releases, of which none is known, or more draws than it can be made of.
        rdp: by Renyi differential privacy.
    """

    pld: float
    rdp: float

    @property
    def epsilon(self) -> float:
        """The figure to report: PLD's where there is one, unless RDP's is lower, as for tiny delta.

        Both are upper bounds.
        """
        return self.rdp if math.isnan(self.pld) else min(self.pld, self.rdp)


def compute_epsilon(releases: Releases) -> PrivacySpent:
    """Return what releases have cost together; infinity where one came without noise.

    A noise multiplier below `LEAST_NOISE` counts as no noise, one above `MOST_NOISE` as that.

    Everybody's contribution in each (rate 1) and Poisson draws are accounted exactly. A draw of a
    fixed size is accounted by the sampled-without-replacement event, at a sensitivity of twice
    the longest contribution: where one that was drawn is left out, another one takes its place.
    Where it is tighter, which it is for large shares, no use is made of the draw.

    Source: for PLD, Doroshenko et al. (2022), https://arxiv.org/abs/2207.04380; for RDP, Mironov
    et al. (2019), https://arxiv.org/abs/1908.10530; without replacement, Wang et al. (2019),
    theorem 27, https://arxiv.org/abs/1808.00087.

    Raises:
        RequestError: without dp-accounting.
    """
    counts: dict[tuple[float, Draw], int] = {}
    for release in releases.releases:
        key = (min(release.noise_multiplier, MOST_NOISE), _normalise_draw(release.draw))
        counts[key] = counts.get(key, 0) + release.count
    drawn = {key: count for key, count in counts.items() if count and key[1].rate > 0}
    if not drawn:
        return PrivacySpent(0.0, 0.0)
    if any(noise < LEAST_NOISE for noise, _ in drawn):
        return PrivacySpent(math.inf, math.inf)
    return _compose(tuple((*key, count) for key, count in drawn.items()), releases.delta)


def _normalise_draw(draw: Draw) -> Draw:
    """Return one draw for all that cost the same."""
    if draw.rate >= 1:
        return Draw(1, 1)
    return draw if draw.sampling == "fixed" else Draw(draw.eligible, draw.size, "poisson")


Events = tuple[tuple[float, Draw, int], ...]  # noise multiplier, draw, count


@lru_cache(maxsize=4096)
def _compose(events: Events, delta: float) -> PrivacySpent:
    try:
        from dp_accounting.rdp import compute_epsilon
    except ImportError:
        raise RequestError(MISSING) from None
    with _without_warnings():
        curves = [count * _rdp_curve(noise, draw)[1] for noise, draw, count in events]
        orders = _rdp_curve(*events[0][:2])[0]
        rdp = float(compute_epsilon(orders, np.sum(curves, 0), delta)[0])
        return PrivacySpent(_epsilon_by_pld(events, delta, rdp), rdp)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence warnings of orders of RDP that are left out, which does no harm."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@lru_cache(maxsize=4096)
def _rdp_curve(noise: float, draw: Draw) -> tuple[Any, Any]:
    """Return the orders, and the Renyi divergence of one release at each of them."""
    import dp_accounting as dp

    plain = dp.GaussianDpEvent(noise)
    if draw.sampling == "poisson":
        return _divergences(dp.PoissonSampledDpEvent(draw.rate, plain))
    orders, whole = _divergences(plain)
    if draw.rate >= 1:
        return orders, whole
    twice = dp.GaussianDpEvent(noise / 2)
    sampled = dp.SampledWithoutReplacementDpEvent(draw.eligible, draw.size, twice)
    _, drawn = _divergences(sampled, dp.NeighboringRelation.REPLACE_ONE)
    return orders, np.fmin(whole, drawn)


def _divergences(event: Any, *relation: Any) -> tuple[Any, Any]:
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(None, *relation)
    accountant.compose(event)
    return accountant.orders, accountant.rdp


def _epsilon_by_pld(events: Events, delta: float, rdp: float) -> float:
    """Return epsilon by privacy loss distributions; NaN where there is none for a draw."""
    sampled = [event for event in events if event[1].rate < 1]
    too_many = sum(count for *_, count in sampled) > MOST_SAMPLED
    if too_many or any(draw.sampling == "fixed" for _, draw, _ in sampled):
        return math.nan
    whole = sum(count / noise**2 for noise, draw, count in events if draw.rate >= 1)
    if not sampled:  # together one release with less noise, of which epsilon is known exactly
        import dp_accounting as dp

        return float(dp.get_epsilon_gaussian(whole**-0.5, delta))
    step = _grid_step(rdp, sum(count for *_, count in sampled))
    found = None if whole == 0 else _loss_distribution(whole**-0.5, 1.0, step)
    for noise, draw, count in sampled:
        own = _loss_distribution(noise, draw.rate, step).self_compose(count)
        found = own if found is None else found.compose(own)
    assert found is not None
    return float(found.get_epsilon_for_delta(delta))


def _grid_step(epsilon: float, count: int) -> float:
    """Return a power of two as the step at which `count` compositions stay tight, and cheap."""
    if epsilon <= 0:
        return 2.0**-17
    if math.isinf(epsilon):
        return COARSEST
    wanted = math.sqrt(ERROR * epsilon / (CURVATURE * count))
    return float(2.0 ** math.floor(math.log2(min(wanted, max(COARSEST, epsilon / 1e5)))))


@lru_cache(maxsize=256)
def _loss_distribution(noise: float, rate: float, step: float) -> Any:
    """Return the privacy loss distribution of one release of a Poisson draw."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=step
    )
