"""Membership metrics against scikit-learn, scipy and slow versions of their definitions.

Statistical claims state their seeds; the bounds follow from the number of draws.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from fl_sim.contracts import RoundRecord, Row
from fl_sim.core.seeding import generator, numpy_generator
from fl_sim.data.partition import Dirichlet, partition_records
from fl_sim.metrics._shared.intervals import auc_with_interval, clopper_pearson
from fl_sim.metrics.leakage import (
    Leakage,
    auc,
    balanced_accuracy,
    label_score,
    loss_score,
    margin_score,
    tail_tnr,
    tpr_at_fpr,
)

Maker = Callable[..., RoundRecord]
# Few levels, so that ties within and between the pools are the rule.
scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=25).map(torch.tensor)
enough_scores = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=25).map(torch.tensor)


def labelled(members: Tensor, nonmembers: Tensor) -> tuple[np.ndarray, np.ndarray]:
    truth = np.r_[np.ones(len(members)), np.zeros(len(nonmembers))]
    return truth, torch.cat([members, nonmembers]).double().numpy()


def rates_by_definition(members: Tensor, nonmembers: Tensor) -> list[tuple[float, float]]:
    """Return (FPR, TPR) at every threshold: records that score at least as much are accused."""
    inside, outside = members.tolist(), nonmembers.tolist()
    return [
        (
            sum(score >= threshold for score in outside) / len(outside),
            sum(score >= threshold for score in inside) / len(inside),
        )
        for threshold in [*inside, *outside, float("inf")]
    ]


def wins(members: Tensor, nonmembers: Tensor) -> np.ndarray:
    """Return 1 where the member (row) scores above the non-member (column), 1/2 for a tie."""
    difference = members.double().numpy()[:, None] - nonmembers.double().numpy()
    return np.asarray((np.sign(difference) + 1) / 2)


def delong_by_definition(members: Tensor, nonmembers: Tensor) -> tuple[float, float, float]:
    """DeLong et al. (1988): the variances of the pairwise wins by row and by column."""
    table = wins(members, nonmembers)
    m, n = table.shape
    area = table.sum() / (m * n)
    by_member = sum((row.mean() - area) ** 2 for row in table) / (m - 1)
    by_outsider = sum((column.mean() - area) ** 2 for column in table.T) / (n - 1)
    half = norm.ppf(0.975) * np.sqrt(by_member / m + by_outsider / n)
    return area, max(0.0, area - half), min(1.0, area + half)


@given(scores, scores)
def test_the_area_is_scikit_learns_with_ties(members: Tensor, nonmembers: Tensor) -> None:
    expected = roc_auc_score(*labelled(members, nonmembers))
    assert auc(members, nonmembers) == pytest.approx(expected, abs=1e-12)


@given(scores, scores)
def test_the_area_is_the_share_of_pairs_won(members: Tensor, nonmembers: Tensor) -> None:
    assert auc(members, nonmembers) == pytest.approx(wins(members, nonmembers).mean(), abs=1e-12)


def test_the_area_of_real_scores_is_scikit_learns() -> None:
    rng = generator(0, "scores")
    members, nonmembers = torch.randn(700, generator=rng) + 0.3, torch.randn(500, generator=rng)
    expected = roc_auc_score(*labelled(members, nonmembers))
    assert auc(members, nonmembers) == pytest.approx(expected, abs=1e-12)


@given(scores, scores)
def test_swapping_the_pools_mirrors_the_area(members: Tensor, nonmembers: Tensor) -> None:
    assert auc(members, nonmembers) == pytest.approx(1 - auc(nonmembers, members), abs=1e-12)


@given(enough_scores, enough_scores)
def test_the_interval_is_delongs(members: Tensor, nonmembers: Tensor) -> None:
    expected = delong_by_definition(members, nonmembers)
    assert auc_with_interval(members, nonmembers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_a_surer_interval_is_wider_by_the_normal_quantile(confidence: float) -> None:
    rng = generator(1, "scores")
    members, nonmembers = torch.randn(90, generator=rng) + 0.5, torch.randn(80, generator=rng)
    area, low, high = auc_with_interval(members, nonmembers)
    _, other_low, other_high = auc_with_interval(members, nonmembers, confidence)
    ratio = norm.ppf((1 + confidence) / 2) / norm.ppf(0.975)
    assert other_low == pytest.approx(area - ratio * (area - low), abs=1e-12)
    assert other_high == pytest.approx(area + ratio * (high - area), abs=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """1,000 draws, seeds 0 to 999, 100 records a pool, true area Phi(1 / sqrt 2) = 0.760.

    The count is binomial(1000, 0.95): between 929 and 971 in all but 0.3 % of such series.
    """
    truth = norm.cdf(1 / np.sqrt(2))
    covered = 0
    for seed in range(1000):
        rng = generator(seed, "coverage")
        members, nonmembers = torch.randn(100, generator=rng) + 1, torch.randn(100, generator=rng)
        _, low, high = auc_with_interval(members, nonmembers)
        covered += low <= truth <= high
    low_count, high_count = binom.ppf([0.0015, 0.9985], 1000, 0.95)
    assert low_count <= covered <= high_count


@pytest.mark.parametrize(("m", "n"), [(200, 200), (1000, 300)])
def test_the_area_under_the_null_stays_within_three_deviations(m: int, n: int) -> None:
    """Seeds 0 to 99; the deviation of the null is sqrt((m + n + 1) / (12 m n))."""
    bound = 3 * np.sqrt((m + n + 1) / (12 * m * n))
    inside = 0
    for seed in range(100):
        drawn = torch.randn(m + n, generator=generator(seed, "null"))
        inside += abs(auc(drawn[:m], drawn[m:]) - 0.5) <= bound
    assert inside >= 99


@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (0, 0)])
def test_an_empty_pool_has_no_area(m: int, n: int) -> None:
    assert all(map(np.isnan, auc_with_interval(torch.zeros(m), torch.zeros(n))))


def test_one_record_says_nothing_about_the_spread() -> None:
    assert auc_with_interval(torch.ones(1), torch.zeros(9)) == (1.0, 0.0, 1.0)


@given(scores, scores, st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0]))
def test_the_hit_rate_is_the_best_of_all_thresholds(
    members: Tensor, nonmembers: Tensor, max_fpr: float
) -> None:
    allowed = [hit for fpr, hit in rates_by_definition(members, nonmembers) if fpr <= max_fpr]
    assert tpr_at_fpr(members, nonmembers, max_fpr) == max(allowed)


@given(scores, scores, st.sampled_from([0.01, 0.1, 0.3]))
def test_the_hit_rate_is_read_off_scikit_learns_steps(
    members: Tensor, nonmembers: Tensor, max_fpr: float
) -> None:
    fpr, tpr, _ = roc_curve(*labelled(members, nonmembers), drop_intermediate=False)
    expected = tpr[fpr <= max_fpr].max()
    assert tpr_at_fpr(members, nonmembers, max_fpr) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [100, 1000, 3000])
@pytest.mark.parametrize("max_fpr", [0.01, 0.07, 0.1, 0.3])
def test_a_rate_that_is_met_exactly_is_allowed(count: int, max_fpr: float) -> None:
    nonmembers = torch.arange(count).float()
    accused = round(max_fpr * count)
    members = torch.tensor([count - accused, count - accused - 1.0])
    assert tpr_at_fpr(members, nonmembers, max_fpr) == 0.5


@given(scores, scores)
def test_balanced_accuracy_is_the_best_of_all_thresholds(
    members: Tensor, nonmembers: Tensor
) -> None:
    expected = max((hit + 1 - fpr) / 2 for fpr, hit in rates_by_definition(members, nonmembers))
    assert balanced_accuracy(members, nonmembers) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("trials", "successes", "expected"),
    [
        (200, 2, (0.0012, 0.0357)),
        (200, 0, (0.0, 0.0183)),
        (500, 5, (0.0033, 0.0232)),
        (500, 0, (0.0, 0.0074)),
        (1000, 10, (0.0048, 0.0183)),
        (1000, 1, (0.0, 0.0056)),
        (5000, 50, (0.0074, 0.0132)),
        (5000, 5, (0.0003, 0.0023)),
        (10000, 10, (0.0005, 0.0018)),
    ],
)
def test_exact_intervals_are_those_of_the_table(
    trials: int, successes: int, expected: tuple[float, float]
) -> None:
    low, high = clopper_pearson(successes, trials)
    assert (round(low, 4), round(high, 4)) == expected


@given(trials=st.integers(1, 300), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95]))
def test_exact_intervals_invert_the_binomial_test(
    trials: int, share: float, confidence: float
) -> None:
    """By definition each bound is the rate at which the tail beyond the count is half of alpha."""
    successes = round(share * trials)
    low, high = clopper_pearson(successes, trials, confidence)
    tail = (1 - confidence) / 2
    if successes:
        assert binom.sf(successes - 1, trials, low) == pytest.approx(tail, rel=1e-8)
    else:
        assert low == 0.0
    if successes < trials:
        assert binom.cdf(successes, trials, high) == pytest.approx(tail, rel=1e-8)
    else:
        assert high == 1.0


@given(seed=st.integers(0, 10**6))
def test_the_margin_is_the_logit_of_the_confidence(seed: int) -> None:
    rng = generator(seed, "logits")
    logits = 5 * torch.randn(8, 10, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, 10, (8,), generator=rng)
    confidence = logits.softmax(1)[torch.arange(8), labels]
    expected = (confidence / (1 - confidence)).log()
    torch.testing.assert_close(margin_score(logits, labels), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss_score(logits, labels), confidence.log(), rtol=1e-9, atol=1e-9)


def test_the_margin_of_a_sure_model_does_not_overflow() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    expected = 200 - float(np.log(2))
    assert margin_score(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-6)


def gate(record: RoundRecord) -> float:
    """Return the AUC of labels alone."""
    score = label_score(record, torch.ones_like(record.members))
    return auc(score[record.members], score[~record.members])


def overall(record: RoundRecord) -> list[Row]:
    rows = [
        row for row in Leakage().rows(record) if row.metric.endswith(("loss_auc", "margin_auc"))
    ]
    return [row for row in rows if row.group == "all" and row.client == -1]


def unmatched(seed: int) -> dict[str, Tensor]:
    """Return a pool with members from Dirichlet(0.1), and non-members of all clients."""
    labels = torch.randint(0, 10, (2000,), generator=generator(seed, "labels"))
    rng = numpy_generator(seed, "unmatched")
    own = partition_records(Dirichlet(alpha=0.1, min_size=1), labels, 4, rng)
    clients = torch.empty(2000, dtype=torch.int64)
    for client, indices in enumerate(own):
        clients[indices] = client
    outsider_labels = torch.randint(0, 10, (2000,), generator=generator(seed, "outsiders"))
    outsider_clients = torch.randint(0, 4, (2000,), generator=generator(seed, "owners"))
    return {
        "pool_labels": torch.cat([labels, outsider_labels]),
        "pool_clients": torch.cat([clients, outsider_clients]),
        "members": torch.arange(4000) < 2000,
        "protected": torch.zeros(4000, dtype=torch.bool),
        "pool_logits": torch.zeros(4000, 10),
        "protected_counts": torch.zeros(4, dtype=torch.int64),
    }


def test_labels_alone_tell_nothing_about_a_matched_pool(observation: Maker) -> None:
    record = observation()
    assert gate(record) == 0.5
    assert all(row.valid and row.note == "" for row in overall(record))


@pytest.mark.parametrize("seed", range(5))
def test_labels_alone_unmask_an_unmatched_pool(seed: int, observation: Maker) -> None:
    record = observation(**unmatched(seed))
    assert gate(record) > 0.8
    rows = overall(record)
    assert len(rows) == 2
    assert not any(row.valid for row in rows)
    assert all(row.note == f"shift: labels alone reach {gate(record):.2f}" for row in rows)


def test_the_gate_flags_each_client_by_its_own_records(observation: Maker) -> None:
    record = observation()
    skewed = (record.pool_clients == 2) & (record.pool_labels < 5)
    record = replace(record, members=torch.where(skewed, torch.tensor(True), record.members))
    valid = {r.client: r.valid for r in Leakage().rows(record) if r.client >= 0}
    assert valid == {0: True, 1: True, 2: False, 3: True}


def test_what_members_have_over_outsiders_in_every_round(observation: Maker) -> None:
    """Half of the difference of accuracies, the difference of losses, and its tail, by numpy."""
    record = observation()
    rng = generator(3, "logits")
    logits = torch.randn(len(record.pool_labels), 10, generator=rng)
    logits[record.members, record.pool_labels[record.members]] += 1.5
    record = replace(record, pool_logits=logits)
    rows = {(row.metric, row.group): row for row in Leakage().rows(record) if row.client == -1}
    losses = (
        -torch.log_softmax(logits.double(), 1).gather(1, record.pool_labels[:, None]).numpy()[:, 0]
    )
    right = (logits.argmax(1) == record.pool_labels).numpy()
    for group, kept in (
        ("all", np.ones(len(right), dtype=bool)),
        ("protected", record.protected.numpy()),
        ("clean", ~record.protected.numpy()),
    ):
        inside, outside = kept & record.members.numpy(), kept & ~record.members.numpy()
        half = (right[inside].mean() - right[outside].mean()) / 2
        assert rows["mia_gap_advantage", group].value == pytest.approx(half, abs=1e-12)
        apart = losses[outside].mean() - losses[inside].mean()
        assert rows["mia_loss_gap", group].value == pytest.approx(apart, abs=1e-5)
        highest = np.sort(losses[inside])[::-1]
        threshold = highest[int(0.01 * inside.sum())]
        cleared = (losses[outside] > threshold + 1e-6).mean()
        assert rows["mia_tail_tnr", group].value == pytest.approx(cleared, abs=1e-12)


NUMBERS = (auc, balanced_accuracy, tpr_at_fpr, tail_tnr)
every_number = pytest.mark.parametrize("number", NUMBERS, ids=lambda own: own.__name__)


@every_number
@pytest.mark.parametrize(
    ("members", "nonmembers"),
    [
        ([np.nan, 1.0, 2.0], [np.nan, 0.0]),
        ([np.nan, 1.0, 2.0], [0.0, 0.5]),
        ([1.0, 2.0], [np.nan, 0.0]),
        ([np.nan, np.nan], [np.nan, np.nan]),
        ([], [0.0, 1.0]),
        ([0.0, 1.0], []),
        ([], []),
    ],
)
def test_what_is_no_score_gives_no_number(
    number: Callable[..., float], members: list[float], nonmembers: list[float]
) -> None:
    assert np.isnan(number(torch.tensor(members), torch.tensor(nonmembers)))


@every_number
@given(seed=st.integers(0, 10**6))
def test_infinite_scores_are_the_highest_and_the_lowest(
    number: Callable[..., float], seed: int
) -> None:
    rng = generator(seed, "infinite")
    draws = [torch.randint(-2, 3, (9,), generator=rng).double() for _ in range(2)]
    infinite = [torch.where(own.abs() == 2, own * torch.inf, own) for own in draws]
    assert number(*infinite) == number(*draws)


def test_everybody_at_infinity_cannot_be_told_apart() -> None:
    same = torch.full((3,), torch.inf)
    assert auc(same, same) == 0.5
    assert balanced_accuracy(same, same) == 0.5
    assert tpr_at_fpr(same, same) == 0.0


def test_a_shift_makes_every_number_of_an_attack_unreadable(observation: Maker) -> None:
    rows = [row for row in Leakage().rows(observation(**unmatched(0))) if row.group == "all"]
    numbers = [row for row in rows if row.client == -1 and row.metric != "mia_shift_auc"]
    assert len({row.metric for row in numbers}) == 11
    assert all(not row.valid and "shift: labels alone reach" in row.note for row in numbers)


def test_one_record_of_a_side_is_too_few_to_be_read(observation: Maker) -> None:
    record = observation()
    own = (record.pool_clients == 0).nonzero().squeeze(1)
    inside, outside = own[record.members[own]], own[~record.members[own]]
    kept = torch.cat([(record.pool_clients != 0).nonzero().squeeze(1), inside[:1], outside])
    names = ("pool_logits", "pool_labels", "pool_clients", "members", "protected")
    part = replace(record, **{name: getattr(record, name)[kept] for name in names})
    rows = {row.client: row for row in Leakage().rows(part) if row.client >= 0}
    assert (rows[0].valid, rows[0].note) == (False, "1 and 20 records; 2 of either side needed")
    assert rows[1].valid
