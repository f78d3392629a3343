"""Privacy accounting of noisy releases, by Google's `dp-accounting`.

Rounds are composed one by one, each with the sampling rate that its clients were drawn with. The
results are two upper bounds of epsilon: the one by privacy loss distributions (PLD) is tighter
than the one by Renyi differential privacy (RDP).
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fl_sim.contracts import Draw, Release, Releases
from fl_sim.core.errors import RequestError, require

MISSING = "accounting needs dp-accounting: pip install fl-sim[dp]"
ERROR = 1e-4  # share of epsilon by which the grid of a distribution may loosen it
COARSEST = 2.0**-7  # step of a grid, unless epsilon is very large
MOST_SAMPLED = 200_000  # releases of Poisson draws whose distribution takes seconds
LEAST_NOISE = 1e-3  # epsilon is half a million here; below it accountants run out of memory
MOST_NOISE = 1e6  # epsilon is close to 0 here; above it squares overflow
CURVATURE = 1.3  # epsilon rises by about this times the sum of squared steps over epsilon


class PrivacySpent(NamedTuple):
    """Epsilon at the delta of the releases.

    Attributes:
        pld: Bound by privacy loss distributions; NaN for more than `MOST_SAMPLED` Poisson draws.
            Draws of a fixed size, for which no distribution is known, count as full participation.
        rdp: Bound by Renyi differential privacy.
    """

    pld: float
    rdp: float

    @property
    def epsilon(self) -> float:
        """The lower of the two upper bounds; RDP's can be lower for a tiny delta."""
        return self.rdp if math.isnan(self.pld) else min(self.pld, self.rdp)


def compute_epsilon(releases: Releases) -> PrivacySpent:
    """Return the privacy spent by all releases together; infinite if one had no noise.

    A noise multiplier below `LEAST_NOISE` counts as no noise, one above `MOST_NOISE` as
    `MOST_NOISE`.

    Full participation (rate 1) and Poisson draws are accounted exactly. A draw of a fixed size is
    accounted by the sampled-without-replacement event, at a sensitivity of twice the longest
    contribution, because another record takes the place of one that is left out. If the bound
    without sampling is lower, which it is for large shares, that bound is used.

    Source: for PLD, Doroshenko et al. (2022), https://arxiv.org/abs/2207.04380; for RDP, Mironov
    et al. (2019), https://arxiv.org/abs/1908.10530; without replacement, Wang et al. (2019),
    theorem 27, https://arxiv.org/abs/1808.00087.

    Raises:
        RequestError: If dp-accounting is not installed.
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


def solve_noise_multiplier(epsilon: float, draw: Draw, count: int, delta: float) -> float:
    """Return the least noise multiplier, in thousandths, for `count` releases to cost `epsilon`.

    Args:
        epsilon: Largest epsilon of all releases together.
        draw: Sample that each release is made of.
        count: Number of releases.
        delta: Probability with which epsilon may be exceeded.

    Raises:
        FieldError: If no noise multiplier up to `MOST_NOISE` is enough.
        RequestError: If dp-accounting is not installed.
    """

    def is_enough(thousandths: int) -> bool:
        release = Release(thousandths / 1000, draw, count)
        return compute_epsilon(Releases((release,), delta, "images")).epsilon <= epsilon

    low, high = 0, 1000
    require(epsilon > 0, "epsilon", "one that some noise reaches", epsilon)
    while not is_enough(high):
        require(high < 1000 * MOST_NOISE, "epsilon", "one that some noise reaches", epsilon)
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high / 1000


def _normalise_draw(draw: Draw) -> Draw:
    """Return one representative of all draws with the same privacy cost."""
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
    """Silence warnings about skipped RDP orders, which are harmless."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@lru_cache(maxsize=4096)
def _rdp_curve(noise: float, draw: Draw) -> tuple[Any, Any]:
    """Return the RDP orders, and the Renyi divergence of one release at each of them."""
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
    """Return epsilon by privacy loss distributions; NaN if they would take too long."""
    sampled = [event for event in events if event[1].sampling == "poisson"]
    if sum(count for *_, count in sampled) > MOST_SAMPLED:
        return math.nan
    whole = sum(count / noise**2 for noise, draw, count in events if draw.sampling == "fixed")
    if not sampled:  # together one release with less noise, whose epsilon is known exactly
        import dp_accounting as dp

        return float(dp.get_epsilon_gaussian(whole**-0.5, delta))
    step = _grid_step(rdp, sum(count for *_, count in sampled))
    total = None if whole == 0 else _loss_distribution(whole**-0.5, 1.0, step)
    for noise, draw, count in sampled:
        repeated = _loss_distribution(noise, draw.rate, step).self_compose(count)
        total = repeated if total is None else total.compose(repeated)
    assert total is not None
    return float(total.get_epsilon_for_delta(delta))


def _grid_step(epsilon: float, count: int) -> float:
    """Return a grid step, a power of two, at which `count` compositions stay tight and cheap."""
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
