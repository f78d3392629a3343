"""Attacks on the trajectory of a federation, against their equations on small arrays."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fl_sim.attacks.attack_p import AttackP
from fl_sim.attacks.average_cosine import AverageCosine
from fl_sim.attacks.delta_loss import DeltaLoss
from fl_sim.attacks.fedmia import FedMia
from fl_sim.attacks.gap import Gap
from fl_sim.attacks.loss_series import LossSeries
from fl_sim.attacks.loss_threshold import LossThreshold
from fl_sim.attacks.loss_trace import LossTrace
from fl_sim.attacks.source_inference import excess_accuracy, predict_sources
from fl_sim.attacks.start_reference import StartReference
from fl_sim.contracts.attacks import Evidence, MembershipAttack, Trajectory, loss
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.metrics.leakage import auc

ROUNDS, CLIENTS, RECORDS = 3, 4, 5
ATTACKS = discover("fl_sim.attacks", MembershipAttack)  # type: ignore[type-abstract]


def trajectory() -> Trajectory:
    rng = generator(0, "trajectory")
    shape = (ROUNDS, CLIENTS, RECORDS)
    return Trajectory(
        client_margin=torch.randn(shape, generator=rng, dtype=torch.float64),
        global_margin=torch.randn(ROUNDS, RECORDS, generator=rng, dtype=torch.float64),
        suspects=torch.tensor([0, 1, 2, 3, 0]),
        cosine=torch.rand(shape, generator=rng, dtype=torch.float64) * 2 - 1,
    )


def held(course: Trajectory | None) -> Evidence:
    nothing = torch.zeros(0, RECORDS)
    return Evidence(
        target=torch.randn(RECORDS, generator=generator(0, "target")),
        references=nothing,
        reference_members=nothing.bool(),
        population=torch.randn(50, generator=generator(0, "population")),
        reference_population=torch.zeros(0, 50),
        trajectory=course,
    )


def fedmia_by_equation(signal: np.ndarray, suspects: list[int]) -> list[float]:
    """Zhu et al. (2024), equations 7 to 12, record by record and round by round."""
    scores = []
    for x, suspect in enumerate(suspects):
        places = []
        for t in range(ROUNDS):
            others = np.array([signal[t, k, x] for k in range(CLIENTS) if k != suspect])
            others = others[others <= others.mean() + 3 * others.std()]
            deviation = max(others.std(), 1e-8)
            places.append(norm.cdf((signal[t, suspect, x] - others.mean()) / deviation))
        scores.append(float(np.mean(places)))
    return scores


def test_fedmia_is_its_equations() -> None:
    course = trajectory()
    assert course.cosine is not None
    losses = -np.log1p(np.exp(-course.client_margin.numpy()))
    suspects = course.suspects.tolist()
    first = FedMia("loss").scores(held(course)).tolist()
    second = FedMia("cosine").scores(held(course)).tolist()
    assert first == pytest.approx(fedmia_by_equation(losses, suspects), abs=1e-9)
    assert second == pytest.approx(fedmia_by_equation(course.cosine.numpy(), suspects), abs=1e-9)


def test_fedmia_leaves_out_what_lies_beyond_three_deviations() -> None:
    """Of 20 equal clients and one far above, the far one must not widen the distribution."""
    margin = torch.zeros(1, 22, 1, dtype=torch.float64)
    margin[0, :20, 0] = torch.linspace(-0.1, 0.1, 20, dtype=torch.float64)
    margin[0, 20], margin[0, 21] = 50.0, 0.2
    course = Trajectory(margin, torch.zeros(1, 1), torch.tensor([21]), margin)
    evidence = Evidence(
        torch.zeros(1),
        torch.zeros(0, 1),
        torch.zeros(0, 1).bool(),
        torch.zeros(1),
        torch.zeros(0, 1),
        course,
    )
    usual = margin[0, :20, 0].numpy()
    expected = norm.cdf((0.2 - usual.mean()) / usual.std())
    assert float(FedMia("cosine").scores(evidence)) == pytest.approx(expected, abs=1e-9)


def test_means_over_rounds_are_of_the_suspects() -> None:
    course = trajectory()
    assert course.cosine is not None
    for x, suspect in enumerate(course.suspects.tolist()):
        after = loss(course.client_margin[:, suspect, x])
        before = loss(course.global_margin[:, x])
        assert LossSeries().scores(held(course))[x] == pytest.approx(float(-after.mean()))
        assert DeltaLoss().scores(held(course))[x] == pytest.approx(float((before - after).mean()))
        cosine = float(course.cosine[:, suspect, x].mean())
        assert AverageCosine().scores(held(course))[x] == pytest.approx(cosine)


def test_attack_p_ranks_as_the_loss_threshold_does() -> None:
    evidence = held(None)
    places = AttackP().scores(evidence)
    by_hand = [float((evidence.population < m).double().mean()) for m in evidence.target]
    assert places.tolist() == pytest.approx(by_hand)
    order = LossThreshold().scores(evidence).argsort()
    assert bool((places[order].diff() >= 0).all())


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.__name__)
def test_an_attack_says_what_it_lacks(cls: type[MembershipAttack]) -> None:
    attack = cls()
    missing = attack.missing(held(None))
    if not missing:
        assert attack.scores(held(None)).shape == (RECORDS,)
    else:
        assert missing.startswith("needs ")


def test_the_source_is_the_client_with_the_lowest_loss() -> None:
    margin = torch.tensor([[3.0, 0.0, 1.0], [1.0, 2.0, 0.0], [0.0, 1.0, 5.0]])
    assert predict_sources(margin, generator(0)).tolist() == [0, 1, 2]


def test_equal_clients_are_drawn_at_random() -> None:
    found = predict_sources(torch.zeros(4, 4000), generator(0, "tie"))
    counts = found.bincount(minlength=4)
    assert bool(((counts - 1000).abs() < 4 * (4000 * 3 / 16) ** 0.5).all())


def test_excess_takes_label_skew_off() -> None:
    right, held_out = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0])
    assert float(excess_accuracy(right, held_out)) == 0.25


def test_a_target_without_an_answer_has_no_rank() -> None:
    evidence = held(None)
    target, population = evidence.target.clone(), evidence.population.clone()
    target[0], target[1], population[0] = torch.nan, torch.inf, torch.nan
    scores = AttackP().scores(replace(evidence, target=target, population=population))
    assert scores[0].isnan()
    assert float(scores[1]) == 1.0
    below = (population[1:] < target[2]).double().mean()
    assert float(scores[2]) == pytest.approx(float(below))
    nobody = replace(evidence, population=population * torch.nan)
    assert AttackP().missing(nobody) == "needs a population; got none"
    answers = replace(evidence, target=target, correct=torch.ones(RECORDS, dtype=torch.bool))
    assert Gap().scores(answers).isnan().tolist() == [True, False, False, False, False]


def test_fedmia_takes_two_others_in_a_round() -> None:
    """Record 0 is with client 0: in round 0 one other client delivered, in round 1 two did."""
    course = trajectory()
    margin = course.client_margin.clone()
    margin[0, 2:] = torch.nan
    margin[1, 3] = torch.nan
    margin[2, 3] = -torch.inf  # an infinite loss says nothing of a distribution
    scores = FedMia("loss").scores(held(replace(course, client_margin=margin)))
    losses = -np.log1p(np.exp(-margin.numpy()))
    places = []
    for t in (1, 2):
        others = losses[t, 1:3, 0]
        place = (losses[t, 0, 0] - others.mean()) / others.std()
        places.append(norm.cdf(place))
    assert float(scores[0]) == pytest.approx(float(np.mean(places)), abs=1e-9)
    alone = replace(
        course, client_margin=margin[:1], global_margin=course.global_margin[:1], cosine=None
    )
    assert FedMia("loss").scores(held(alone))[[0, 4]].isnan().all()


def test_a_source_is_looked_for_among_those_who_answered() -> None:
    nan = torch.nan
    margin = torch.tensor([[nan, 1.0, nan, -torch.inf], [2.0, nan, nan, nan], [1.0, 3.0, nan, nan]])
    assert predict_sources(margin, generator(0, "ties")).tolist() == [1, 2, -1, 0]


def test_lt_iqr_is_numpys_interquartile_range_of_the_losses() -> None:
    """Pollock et al. (2025): record by record, over the rounds in which its client answered."""
    course = trajectory()
    margin = course.client_margin.clone()
    margin = torch.cat([margin, margin + 1.5, margin - 0.7])
    margin[4, 2] = torch.nan
    repeated = course.global_margin.repeat(3, 1)
    longer = replace(course, client_margin=margin, global_margin=repeated, cosine=None)
    scores = LossTrace().scores(held(longer))
    for record, suspect in enumerate(course.suspects.tolist()):
        trace = np.log1p(np.exp(-margin[:, suspect, record].numpy()))
        low, high = np.nanquantile(trace, [0.25, 0.75])
        assert float(scores[record]) == pytest.approx(high - low, abs=1e-12)


def test_lt_iqr_is_not_defined_for_a_client_of_fewer_than_three_rounds() -> None:
    course = trajectory()
    margin = course.client_margin.clone()
    margin[1:, 1] = torch.nan  # client 1 took part once, client 2 twice
    margin[1, 2] = torch.nan
    scores = LossTrace().scores(held(replace(course, client_margin=margin)))
    assert scores.isnan().tolist() == [False, True, True, False, False]


def test_lt_iqr_ranks_a_late_learned_record_above_early_and_never_learned_ones() -> None:
    early = torch.tensor([0.0, 5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0])
    late = torch.tensor([-4.0, -4.0, -3.0, -2.0, 2.0, 5.0, 6.0, 6.0])
    never = torch.tensor([-2.0, -2.0, -2.1, -2.0, -1.9, -2.0, -2.0, -1.9])
    margin = torch.stack([early, late, never], 1)[:, None]
    course = Trajectory(margin, margin[:, 0], torch.zeros(3, dtype=torch.int64))
    assert LossTrace().scores(held(course)).argsort(descending=True).tolist() == [1, 2, 0]
    short = replace(course, client_margin=margin[:2], global_margin=margin[:2, 0])
    assert LossTrace().missing(held(short)) == "needs 3 rounds; got 2"


def test_the_start_is_subtracted_from_the_target() -> None:
    evidence = held(None)
    start = torch.randn(RECORDS, generator=generator(0, "start"))
    known = replace(evidence, start=start)
    gain = StartReference().scores(known)
    assert torch.equal(gain, evidence.target.double() - start.double())
    drop = StartReference("loss").scores(known)
    before, after = (np.log1p(np.exp(-m.double().numpy())) for m in (start, evidence.target))
    assert drop.tolist() == pytest.approx((before - after).tolist(), abs=1e-12)
    assert StartReference().missing(evidence) == "needs the model at the start; got none"


def test_a_start_that_knows_the_difficulty_beats_the_plain_margin() -> None:
    """Margins are a difficulty plus a gain of members; the start shares the difficulty."""
    rng, count = generator(0, "difficulty"), 2000
    members = torch.arange(count) < count // 2
    difficulty = 3 * torch.randn(count, generator=rng)
    noise = torch.randn(2, count, generator=rng)
    target, start = difficulty + members.float() + 0.5 * noise[0], difficulty + 0.5 * noise[1]
    nothing = torch.zeros(0, count)
    empty = torch.zeros(0)
    evidence = Evidence(target, nothing, nothing.bool(), empty, torch.zeros(0, 0), start=start)
    scores = {a: a.scores(evidence) for a in (LossThreshold(), StartReference())}
    plain, gained = (auc(s[members], s[~members]) for s in scores.values())
    # P(N(1, 2 (9 + 1/4)) > 0) and P(N(1, 2 (1/4 + 1/4)) > 0).
    assert plain == pytest.approx(norm.cdf(1 / 18.5**0.5), abs=0.03)
    assert gained == pytest.approx(norm.cdf(1.0), abs=0.03)
