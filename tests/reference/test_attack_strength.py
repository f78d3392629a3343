"""Strength of attacks in known cases: closed forms, overfit heads, shifted pools."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from fl_sim.attacks._shared.shadow_heads import HeadTraining, train_heads
from fl_sim.attacks.average_cosine import AverageCosine
from fl_sim.attacks.delta_loss import DeltaLoss
from fl_sim.attacks.fedmia import FedMia
from fl_sim.attacks.lira import Lira
from fl_sim.attacks.loss_series import LossSeries
from fl_sim.attacks.loss_threshold import LossThreshold
from fl_sim.attacks.rmia import Rmia
from fl_sim.contracts.attacks import (
    Evidence,
    MembershipAttack,
    Signals,
    Trajectory,
    draw_paired_members,
    margin_of,
)
from fl_sim.core.seeding import generator, numpy_generator
from fl_sim.metrics._shared.intervals import auc_with_interval
from fl_sim.metrics.leakage import auc, tpr_at_fpr
from fl_sim.metrics.membership import Finding, Records, assess

VARIANCES: tuple[Literal["per_example", "pooled", "shrunken"], ...] = (
    "per_example",
    "pooled",
    "shrunken",
)


def pooled(attack: MembershipAttack, signals: Signals, targets: int) -> tuple[Tensor, Tensor]:
    """Return the scores of members and non-members, with each of the first models as the target."""
    scores = torch.stack([attack.scores(signals.evidence(t)) for t in range(targets)])
    members = signals.members[:targets]
    return scores[members], scores[~members]


def class_means(size: int, models: int, seed: int) -> tuple[Signals, dict[float, float]]:
    """Return signals of class means over half of 2 `size` records, and the TPR they allow.

    A model is the mean of its records, a signal the inner product with it. With or without a
    record, the rest of the mean is drawn from the pool without replacement, so its variance is
    known; by Carlini's test a member is found where Phi^-1(f) + shift / deviation is exceeded.
    """
    count, dim = 2 * size, 100
    records = 0.1 + 0.1 * torch.randn(
        count, dim, generator=generator(seed, "records"), dtype=torch.float64
    )
    members = draw_paired_members(models, count, generator(seed, "members"))
    gram = records @ records.T
    signals = Signals(
        (members.double() @ gram) / size, members, torch.zeros(models, 0, dtype=torch.float64)
    )
    others = gram.masked_fill(torch.eye(count, dtype=torch.bool), torch.nan)
    mean = others.nanmean(1)
    variance = (others - mean[:, None]).square().nansum(1) / (count - 2)
    shift = (gram.diagonal() - mean) / size
    deviation = (variance / size * (1 - size / (count - 1))).sqrt()
    place = (shift / deviation).numpy()
    return signals, {f: float(norm.cdf(norm.ppf(f) + place).mean()) for f in (0.1, 0.01)}


@pytest.mark.parametrize(
    ("size", "references"), [(64, "online"), (64, "offline"), (256, "offline")]
)
def test_lira_finds_what_class_means_give_away(size: int, references: Any) -> None:
    """The excess of the TPR over the FPR f, within 15 % of the closed form; 256 models.

    Online at 256 records is left out: the shift is then no larger than the error of the IN mean,
    and the ratio loses up to a fifth of the one-sided test's hits.
    """
    signals, expected = class_means(size, 256, seed=0)
    members, nonmembers = pooled(Lira(references, "per_example"), signals, 128)
    for rate, hits in expected.items():
        found = tpr_at_fpr(members, nonmembers, rate) - rate
        assert found == pytest.approx(hits - rate, rel=0.15), rate


def classes(count: int, dim: int, apart: float, seed: int) -> tuple[Tensor, Tensor]:
    rng = generator(seed, "classes")
    labels = torch.arange(count) % 10
    centres = apart * torch.randn(10, dim, generator=rng) / dim**0.5
    return centres[labels] + torch.randn(count, dim, generator=rng) / dim**0.5, labels


def overfit_heads(models: int, seed: int) -> Signals:
    """Return the signals of heads that overfit their 400 records, and a population of 400."""
    features, labels = classes(1200, 512, 0.7, seed)
    members = draw_paired_members(models, 800, generator(seed, "members"))
    everybody = torch.cat([members, torch.zeros(models, 400, dtype=torch.bool)], 1)
    how = HeadTraining(learning_rate=0.5, epochs=30)
    margin = train_heads(features, labels, everybody, 10, how, seed).margins(features, labels)
    return Signals(margin[:, :800], members, margin[:, 800:])


@pytest.fixture(scope="module")
def overfit() -> Signals:
    return overfit_heads(34, seed=0)


@pytest.mark.parametrize(
    "attack", [Rmia("online"), Rmia("offline", a=1.0), Lira("online"), Lira("offline")], ids=str
)
def test_references_find_more_than_the_loss_threshold(
    attack: MembershipAttack, overfit: Signals
) -> None:
    """The intervals of the areas lie apart, for each of the first four heads as the target."""
    for target in range(4):
        evidence, inside = overfit.evidence(target), overfit.members[target]
        scores, plain = attack.scores(evidence), LossThreshold().scores(evidence)
        _, low, _ = auc_with_interval(scores[inside], scores[~inside])
        _, _, high = auc_with_interval(plain[inside], plain[~inside])
        assert low > high


@pytest.mark.parametrize("variance", ["pooled", "per_example"])
def test_the_one_sided_test_finds_more_than_the_density(variance: Any, overfit: Signals) -> None:
    one_sided = auc(*pooled(Lira("offline", variance), overfit, 8))
    density = auc(*pooled(Lira("offline_density", variance), overfit, 8))
    assert one_sided > density + 0.02


def test_few_references_want_a_shared_or_shrunken_variance(overfit: Signals) -> None:
    few = Signals(overfit.margin[:10], overfit.members[:10], overfit.population[:10])
    areas = {variance: auc(*pooled(Lira("online", variance), few, 10)) for variance in VARIANCES}
    assert areas["pooled"] > areas["per_example"] + 0.02
    assert areas["shrunken"] > areas["per_example"] + 0.02


NUM_CLIENTS, OWN, DIM = 10, 100, 128


def federated_heads(alpha: float, seed: int) -> tuple[Trajectory, Trajectory, Records, Records]:
    """Run FedAvg over heads; return the trajectory and records with both kinds of non-members.

    Matched non-members have the labels of the client's members, global ones those of all clients;
    both are suspected with a client.
    """
    rng = numpy_generator(seed, "federation")
    centres = 1.5 * torch.randn(10, DIM, generator=generator(seed, "centres")) / DIM**0.5

    def drawn(labels: Tensor, name: str) -> Tensor:
        noise = torch.randn(len(labels), DIM, generator=generator(seed, name)) / DIM**0.5
        return centres[labels] + noise

    shares = rng.dirichlet([alpha] * 10, NUM_CLIENTS)
    own = torch.tensor(np.stack([rng.choice(10, OWN, p=share) for share in shares])).flatten()
    anybodys = torch.tensor(rng.integers(0, 10, NUM_CLIENTS * OWN))
    clients = torch.arange(NUM_CLIENTS).repeat_interleave(OWN)
    labels, suspects = torch.cat([own, own, anybodys]), clients.repeat(3)
    features = torch.cat([drawn(own, "in"), drawn(own, "matched"), drawn(anybodys, "global")])
    course = _course(features, labels, suspects, seed)
    count = len(own)
    members = torch.arange(3 * count) < count
    results: list[Trajectory | Records] = []
    everybody = torch.arange(3 * count)
    matched, apart = everybody < 2 * count, members | (everybody >= 2 * count)
    for kept in (matched, apart):
        assert course.cosine is not None
        results.append(
            Trajectory(
                course.client_margin[:, :, kept],
                course.global_margin[:, kept],
                suspects[kept],
                course.cosine[:, :, kept],
            )
        )
    for kept in (matched, apart):
        nobody = torch.zeros(int(kept.sum()), dtype=torch.bool)
        results.append(Records(suspects[kept], labels[kept], nobody, members[kept]))
    first, second, third, fourth = results
    assert isinstance(first, Trajectory)
    assert isinstance(second, Trajectory)
    assert isinstance(third, Records)
    assert isinstance(fourth, Records)
    return first, second, third, fourth


def _course(features: Tensor, labels: Tensor, suspects: Tensor, seed: int) -> Trajectory:
    """Train 15 rounds of two epochs on the first third; record the trajectory."""
    weight = torch.zeros(10, DIM)
    client_margins, global_margins, cosines = [], [], []
    for number in range(15):
        logits = features @ weight.T
        global_margins.append(margin_of(logits, labels))
        error = logits.softmax(1) - torch.nn.functional.one_hot(labels, 10)
        answers = []
        for client in range(NUM_CLIENTS):
            own = slice(client * OWN, (client + 1) * OWN)
            answers.append(_local(weight, features[own], labels[own], seed, number, client))
        updates = torch.stack(answers) - weight
        client_margins.append(margin_of((features @ torch.stack(answers).transpose(1, 2)), labels))
        # The gradient of a head is error x feature: its product with an update needs no outer one.
        along = -torch.einsum("ny,kyd,nd->kn", error, updates, features)
        size = error.norm(dim=1) * features.norm(dim=1)
        cosines.append(along / (size * updates.flatten(1).norm(dim=1)[:, None]).clamp(min=1e-12))
        weight = weight + updates.mean(0)
    return Trajectory(
        torch.stack(client_margins), torch.stack(global_margins), suspects, torch.stack(cosines)
    )


def _local(
    weight: Tensor, features: Tensor, labels: Tensor, seed: int, number: int, client: int
) -> Tensor:
    weight = weight.clone()
    rng = generator(seed, "round", number, "client", client)
    for _ in range(2):
        for rows in torch.randperm(OWN, generator=rng).split(20):
            error = (features[rows] @ weight.T).softmax(1)
            error[torch.arange(len(rows)), labels[rows]] -= 1
            weight -= 0.5 * error.T @ features[rows] / len(rows)
    return weight


def evidence(course: Trajectory) -> Evidence:
    count = course.global_margin.shape[1]
    nothing = torch.zeros(0, count)
    return Evidence(
        course.global_margin[-1],
        nothing,
        nothing.bool(),
        torch.zeros(0),
        torch.zeros(0, 0),
        course,
    )


FEDERATED = (LossSeries(), DeltaLoss(), AverageCosine(), FedMia("loss"), FedMia("cosine"))


@pytest.mark.parametrize("seed", range(3))
def test_published_attacks_measure_label_shift(seed: int) -> None:
    """Dirichlet 0.1: above 0.8 against records of all clients, below 0.62 against matched ones."""
    matched, apart, matched_records, global_records = federated_heads(0.1, seed)
    for attack in FEDERATED:
        about = Finding(str(attack), "", 0.0, view="server")
        blind = next(iter(assess(attack.scores(evidence(apart)), global_records, about)))
        honest = next(iter(assess(attack.scores(evidence(matched)), matched_records, about)))
        assert blind.value > 0.8, attack
        assert (blind.valid, blind.note[:5]) == (False, "shift"), attack
        assert honest.value < 0.62, attack
        assert honest.valid, attack
