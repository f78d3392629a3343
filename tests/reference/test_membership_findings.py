"""Findings about an attack against definitions, scikit-learn and chance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, norm
from sklearn.metrics import precision_score, roc_auc_score
from torch import Tensor

from fl_sim.core.seeding import generator
from fl_sim.metrics._shared.intervals import clopper_pearson
from fl_sim.metrics.leakage import tail_tnr, tpr_at_fpr
from fl_sim.metrics.membership import (
    Finding,
    Records,
    assess,
    assess_dispersion,
    assess_shift,
    epsilon_lower_bound,
    ppv,
    rank_records,
)

ABOUT = Finding("Attack", "", 0.0, num_references=4, seed=7)


def records(per_cell: int = 5, clients: int = 4, classes: int = 10) -> Records:
    """As many members as non-members in each client, class and protected status."""
    sizes = (clients, classes, 2, 2, per_cell)
    grid = torch.cartesian_prod(*(torch.arange(size) for size in sizes))
    return Records(grid[:, 0].clone(), grid[:, 1].clone(), grid[:, 2] == 1, grid[:, 3] == 1)


def null_scores(seed: int, own: Records) -> Tensor:
    return torch.randn(len(own), generator=generator(seed, "null"), dtype=torch.float64)


def named(found: list[Finding], metric: str, group: str = "all", client: int = -1) -> Finding:
    (only,) = [f for f in found if (f.metric, f.group, f.client) == (metric, group, client)]
    return only


def test_scores_that_know_nothing_are_reported_as_nothing() -> None:
    """100 seeds: the AUC is within three null deviations in at least 99.

    At a threshold fixed in advance the intervals of TPR and FPR cover what it is
    set to: 95 % of 100, at least 88 but for one series in 400.
    """
    own = records()
    deviation = math.sqrt(801 / (12 * 400 * 400))
    near, covered = 0, {"tpr_at_fixed_0.01": 0, "fpr_at_fixed_0.01": 0}
    for seed in range(100):
        found = list(assess(null_scores(seed, own), own, ABOUT, {0.01: norm.isf(0.01)}))
        near += abs(named(found, "auc").value - 0.5) <= 3 * deviation
        for metric in covered:
            covered[metric] += named(found, metric).low <= 0.01 <= named(found, metric).high
    assert near >= 99
    assert min(covered.values()) >= 88


def test_intervals_of_a_hit_rate_cover_its_false_alarm_rate_without_leakage() -> None:
    """100 seeds, 400 members; 8,000 outsiders, so that where the threshold lies is known well."""
    covered = 0
    for seed in range(100):
        scores = torch.randn(8400, generator=generator(seed, "null"))
        hits = tpr_at_fpr(scores[:400], scores[400:], 0.01)
        low, high = clopper_pearson(round(400 * hits), 400)
        covered += low <= 0.01 <= high
    assert covered >= 88


def test_the_area_is_scikit_learns_by_group_and_client() -> None:
    own = records()
    scores = null_scores(0, own) + 0.5 * own.members
    found = list(assess(scores, own, ABOUT))
    groups = {"all": own.members | True, "protected": own.protected, "clean": ~own.protected}
    for group, kept in groups.items():
        expected = roc_auc_score(own.members[kept], scores[kept])
        assert named(found, "auc", group).value == pytest.approx(expected, abs=1e-12)
    for client in range(4):
        kept = own.clients == client
        expected = roc_auc_score(own.members[kept], scores[kept])
        assert named(found, "auc", client=client).value == pytest.approx(expected, abs=1e-12)


def test_every_number_says_how_it_was_found() -> None:
    own = records()
    for finding in assess(null_scores(0, own), own, ABOUT, {0.01: 1.0}):
        assert (finding.attack, finding.num_references, finding.seed) == ("Attack", 4, 7)
        assert finding.num_members > 0
        assert finding.num_outsiders > 0
        assert finding.pool == "matched"


def test_a_hit_rate_is_greyed_out_below_three_expected_alarms() -> None:
    own = records()
    found = list(assess(null_scores(0, own), own, ABOUT))
    assert named(found, "tpr_at_0.01").valid
    rare = named(found, "tpr_at_0.001")
    assert (rare.valid, rare.note) == (False, "400 outsiders; 3000 needed")


def test_records_that_cannot_be_told_are_left_out_and_counted() -> None:
    own = records()
    scores = null_scores(0, own)
    scores[:100] = torch.nan
    area = named(list(assess(scores, own, ABOUT)), "auc")
    assert area.num_members + area.num_outsiders == len(own) - 100
    assert area.value == pytest.approx(roc_auc_score(own.members[100:], scores[100:]), abs=1e-12)


def test_the_note_says_how_many_records_were_left_out() -> None:
    own = records()
    scores = null_scores(0, own)
    scores[own.clients == 0] = torch.nan
    found = list(assess(scores, own, ABOUT, {0.01: 1.0}))
    note = "200 of 800 records left out, which the attack cannot tell"
    assert named(found, "auc").note == named(found, "ppv_at_fixed_0.01_prior_0.5").note == note
    assert named(found, "auc", "clean").note.startswith("100 of 400 records left out")
    assert named(found, "auc", client=1).note == ""
    gone = named(found, "auc", client=0)
    assert (math.isnan(gone.value), gone.valid) == (True, False)
    assert gone.note == "empty pool; 200 of 200 records left out, which the attack cannot tell"


def test_an_attack_that_tells_nobody_finds_nothing() -> None:
    own = records()
    found = list(assess(torch.full((len(own),), torch.nan), own, ABOUT, {0.01: 1.0}))
    found += assess_shift(torch.full((len(own),), torch.nan), own, ABOUT)
    assert all(math.isnan(f.value) and not f.valid and f.note for f in found)


def test_a_threshold_that_accuses_nobody_gives_no_precision() -> None:
    own = records()
    found = list(assess(null_scores(0, own), own, ABOUT, {0.01: 99.0}))
    precision = named(found, "ppv_at_fixed_0.01_prior_0.5")
    assert (math.isnan(precision.value), precision.valid) == (True, False)
    assert named(found, "tpr_at_fixed_0.01").valid


def test_infinite_scores_are_ranked_as_others() -> None:
    own = records()
    scores = null_scores(0, own)
    clipped = torch.where(scores > 1, torch.tensor(5.0).double(), scores)
    infinite = torch.where(scores > 1, torch.tensor(torch.inf).double(), scores)
    assert repr(list(assess(infinite, own, ABOUT))) == repr(list(assess(clipped, own, ABOUT)))


def test_shifted_pools_are_marked() -> None:
    own = records()
    kept = own.members | (own.labels > 4)
    shifted = Records(own.clients[kept], own.labels[kept], own.protected[kept], own.members[kept])
    area = named(list(assess(null_scores(0, shifted), shifted, ABOUT)), "auc")
    assert not area.valid
    assert area.note.startswith("shift: labels alone reach 0.7")
    found = assess(null_scores(0, shifted), shifted, ABOUT, {0.01: 1.0})
    everybody = [f for f in found if (f.group, f.client) == ("all", -1)]
    assert not any(f.valid for f in everybody)
    assert "epsilon_at_fixed_0.01" in {f.metric for f in everybody}


def test_a_threshold_from_elsewhere_gives_what_it_meets_here() -> None:
    own = records()
    scores = null_scores(3, own) + own.members
    found = list(assess(scores, own, ABOUT, {0.01: 2.0}))
    accused = scores > 2.0
    hits, alarms = accused[own.members].double().mean(), accused[~own.members].double().mean()
    assert named(found, "tpr_at_fixed_0.01").value == pytest.approx(float(hits))
    assert named(found, "fpr_at_fixed_0.01").value == pytest.approx(float(alarms))
    even = named(found, "ppv_at_fixed_0.01_prior_0.5").value
    assert even == pytest.approx(precision_score(own.members, accused), abs=1e-12)
    bound = named(found, "epsilon_at_fixed_0.01").value
    counts = int(accused[own.members].sum()), int(accused[~own.members].sum())
    assert bound == epsilon_lower_bound(counts[0], 400, counts[1], 400)


@pytest.mark.parametrize(
    ("hits", "members", "alarms", "nonmembers"), [(50, 500, 5, 500), (9, 40, 0, 90), (0, 10, 3, 9)]
)
def test_the_bound_of_epsilon_is_that_of_beta_quantiles(
    hits: int, members: int, alarms: int, nonmembers: int
) -> None:
    low = beta.ppf(0.025, hits, members - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, alarms + 1, nonmembers - alarms)
    expected = max(0.0, math.log(low / high)) if low else 0.0
    assert epsilon_lower_bound(hits, members, alarms, nonmembers) == pytest.approx(expected)


def test_the_bound_of_epsilon_is_the_published_number() -> None:
    """TensorFlow Privacy's RatioBound and privacy-estimates' "beta" give the same."""
    assert epsilon_lower_bound(50, 500, 5, 500) == pytest.approx(1.1759476, abs=1e-6)


def test_the_bound_of_epsilon_holds_where_epsilon_is_known() -> None:
    """Randomised response with epsilon 1: the bound stays below in all but 5 % of 400 audits."""
    truth = math.e / (1 + math.e)
    over = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        hits, alarms = rng.binomial(500, truth), rng.binomial(500, 1 - truth)
        over += epsilon_lower_bound(int(hits), 500, int(alarms), 500) > 1
    assert over <= 20


@given(prior=st.floats(0.001, 0.999), rate=st.floats(0.001, 1))
def test_guessing_leaves_the_prior(prior: float, rate: float) -> None:
    assert ppv(rate, rate, prior) == pytest.approx(prior)


def test_nobody_accused_gives_no_precision() -> None:
    assert math.isnan(ppv(0.0, 0.0, 0.5))


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20).map(torch.tensor))
def test_the_tail_is_the_share_of_outsiders_below_every_member(nonmembers: Tensor) -> None:
    members = torch.tensor([-1.0, 0.0, 2.0])
    expected = float((nonmembers < -1).double().mean())
    assert tail_tnr(members, nonmembers) == pytest.approx(expected)


def test_a_rank_is_the_share_of_outsiders_below() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, 3.0, torch.nan], dtype=torch.float64)
    outside = torch.tensor([True, False, True, False, True])
    assert rank_records(scores, outside)[:4].tolist() == [0.0, 0.5, 0.5, 1.0]
    assert math.isnan(rank_records(scores, outside)[4])


def test_even_leakage_spreads_over_clients_as_chance_does() -> None:
    own = records(per_cell=20)
    areas = [f for f in assess(null_scores(1, own), own, ABOUT) if f.client >= 0]
    spread = {f.metric: f for f in assess_dispersion(areas, ABOUT)}
    deviation = spread["client_auc_deviation"]
    assert deviation.value < 3 * deviation.low
    assert spread["client_auc_range"].value == max(a.value for a in areas) - min(
        a.value for a in areas
    )


def test_noise_that_shows_is_shift_and_not_membership() -> None:
    own = records()
    scores = null_scores(2, own) + 3 * own.protected
    control, naive = assess_shift(scores, own, ABOUT)
    assert control.valid
    assert control.value > 0.95
    assert control.view == "nobody"
    assert not naive.valid
    assert naive.note == "mixes noise with membership"
    assert named(list(assess(scores, own, ABOUT)), "auc", "protected").high < 0.6


def test_without_noise_and_leakage_the_strata_cannot_be_told_apart() -> None:
    """20 seeds: 95 % intervals of independent strata miss each other once in 180 times, and
    that of the shift-only control misses 0.5 once in 20.
    """
    own = records()
    overlap, covered = 0, 0
    for seed in range(20):
        scores = null_scores(seed, own)
        found = list(assess(scores, own, ABOUT))
        areas = [named(found, "auc", group) for group in ("all", "protected", "clean")]
        overlap += max(area.low for area in areas) < min(area.high for area in areas)
        control, _ = assess_shift(scores, own, ABOUT)
        covered += control.low <= 0.5 <= control.high
    assert overlap >= 19
    assert covered >= 16


def test_the_area_of_a_wrong_orientation_is_not_flipped() -> None:
    own = records()
    found = list(assess(-own.members.double(), own, ABOUT))
    assert named(found, "auc").value == 0.0
    assert tpr_at_fpr(torch.zeros(3), torch.ones(3), 0.01) == 0.0
