"""Attacks against numbers of TensorFlow Privacy and privacy_meter, frozen with their origin."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr
from torch import Tensor

from fl_sim.attacks.calibrated_margin import CalibratedMargin
from fl_sim.attacks.lira import Lira
from fl_sim.attacks.rmia import Rmia
from fl_sim.contracts.attacks import Evidence, Signals, confidence
from fl_sim.core.seeding import generator

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "mia_reference.json").read_text())
Centre = Literal["mean", "median"]
Variance = Literal["pooled", "per_example", "shrunken"]


def held(**changes: Any) -> Evidence:
    given = FIXTURE
    signals = Signals(
        margin=torch.tensor(given["phi"], dtype=torch.float64),
        members=torch.tensor(given["membership"], dtype=torch.bool),
        population=torch.tensor(given["population_phi"], dtype=torch.float64),
    )
    return replace(signals.evidence(FIXTURE["target"], FIXTURE["references"]), **changes)


def expected(name: str) -> Tensor:
    return torch.tensor(FIXTURE["results"][name], dtype=torch.float64)


def test_the_default_references_leave_out_the_target_and_its_complement() -> None:
    given = FIXTURE
    signals = Signals(
        torch.tensor(given["phi"]),
        torch.tensor(given["membership"], dtype=torch.bool),
        torch.tensor(given["population_phi"]),
    )
    chosen = signals.evidence(FIXTURE["target"])
    assert torch.equal(chosen.references, signals.margin[FIXTURE["references"]])


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("option", ["both", "out"])
def test_lira_is_tensorflow_privacys(option: str, centre: Centre, fixed: bool) -> None:
    references: Any = {"both": "online", "out": "offline_density"}[option]
    variance: Variance = "pooled" if fixed else "per_example"
    scores = Lira(references, variance, centre).scores(held())
    theirs = expected(f"lira option={option} fix_variance={fixed} center={centre}")
    torch.testing.assert_close(scores, -theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("option", ["both", "out", "in"])
def test_the_offset_is_tensorflow_privacys(option: Literal["both", "out", "in"]) -> None:
    scores = CalibratedMargin(option).scores(held())
    theirs = expected(f"offset option={option} center=mean")
    torch.testing.assert_close(scores, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize("a", [0.0, 0.33, 1.0])
def test_rmia_is_privacy_meters(a: float, count: int) -> None:
    """Their OUT average keeps the largest `count` of twice as many references; so do we here."""
    evidence = held()
    largest = evidence.reference_population[: 2 * count].sort(0, descending=True).values[:count]
    evidence = replace(
        evidence,
        references=evidence.references[: 2 * count],
        reference_members=evidence.reference_members[: 2 * count],
        reference_population=largest.repeat(2, 1),
    )
    scores = Rmia("offline", a, resolved=False).scores(evidence)
    assert torch.equal(scores, expected(f"rmia gamma=1 offline_a={a} num_reference_models={count}"))


def test_resolved_rmia_breaks_ties_and_nothing_else() -> None:
    plain = Rmia(resolved=False).scores(held())
    fine = Rmia().scores(held())
    assert len(fine.unique()) > len(plain.unique())
    apart = plain[:, None] > plain
    assert bool((fine[:, None] > fine)[apart].all())


def rmia_by_definition(evidence: Evidence, gamma: float) -> np.ndarray:
    """Zarifzadeh et al. (2024), equation 4: every pair of a record and a z."""
    sure, general_z = confidence(evidence.target), confidence(evidence.reference_population)
    scores = []
    for x in range(len(evidence.target)):
        inside = [
            float(confidence(r)[x])
            for r, m in zip(evidence.references, evidence.reference_members, strict=True)
            if m[x]
        ]
        outside = [
            float(confidence(r)[x])
            for r, m in zip(evidence.references, evidence.reference_members, strict=True)
            if not m[x]
        ]
        general = (np.mean(inside) + np.mean(outside)) / 2
        wins = [
            float(sure[x]) / general
            > gamma * float(confidence(evidence.population)[z]) / float(general_z[:, z].mean())
            for z in range(len(evidence.population))
        ]
        scores.append(np.mean(wins))
    return np.array(scores)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_online_rmia_is_its_definition(gamma: float) -> None:
    evidence = held()
    scores = Rmia("online", gamma=gamma, resolved=False).scores(evidence)
    assert scores.tolist() == pytest.approx(rmia_by_definition(evidence, gamma).tolist(), abs=1e-12)


def test_the_one_sided_test_is_its_definition() -> None:
    evidence = held()
    scores = Lira("offline", "per_example").scores(evidence)
    for x in range(0, 120, 17):
        outside = evidence.references[~evidence.reference_members[:, x], x].numpy()
        z = (float(evidence.target[x]) - outside.mean()) / outside.std()
        assert norm.cdf(float(scores[x])) == pytest.approx(norm.cdf(z), abs=1e-12)


def test_a_shrunken_variance_lies_between_its_own_and_the_pooled_one() -> None:
    evidence = held()
    own = Lira(variance="per_example").scores(evidence)
    pooled = Lira(variance="pooled").scores(evidence)
    weak = Lira(variance="shrunken", prior_strength=1e-9).scores(evidence)
    strong = Lira(variance="shrunken", prior_strength=1e9).scores(evidence)
    torch.testing.assert_close(weak, own, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(strong, pooled, rtol=1e-6, atol=1e-6)
    middle = Lira(variance="shrunken").scores(evidence)
    assert spearmanr(middle, pooled).statistic > 0.9


def test_one_reference_of_each_kind_is_too_few_for_a_deviation() -> None:
    full = held()
    evidence = replace(
        full,
        references=full.references[:2],
        reference_members=full.reference_members[:2],
        reference_population=full.reference_population[:2],
    )
    assert Lira().missing(evidence) == "needs 2 IN and 2 OUT references per record; got 1 and 1"
    assert Rmia().missing(evidence) == ""
    assert CalibratedMargin("both").missing(evidence) == ""


def few_references(seed: int = 0) -> tuple[Evidence, torch.Tensor]:
    """Four IN and OUT references per record; for some records one of a kind, or none.

    Returns:
        the evidence, and the rows that have fewer than two of either kind.
    """
    rng = generator(seed, "few")
    members = (torch.arange(8) % 2 == 0)[:, None].repeat(1, 40)
    members[:, 0], members[:, 1] = True, False  # no OUT, no IN
    members[:, 2] = torch.arange(8) > 0  # one OUT
    members[:, 3] = torch.arange(8) == 0  # one IN
    margins = torch.randn(8, 40, generator=rng, dtype=torch.float64)
    target = torch.randn(40, generator=rng, dtype=torch.float64)
    return Evidence(target, margins, members, target, margins), torch.arange(4)


FORMS = [
    Lira(references, variance, centre)
    for references in ("online", "offline", "offline_density")
    for variance in ("pooled", "per_example", "shrunken")
    for centre in ("mean", "median")
]
every_form = pytest.mark.parametrize("attack", FORMS, ids=repr)


@every_form
def test_a_record_with_fewer_than_two_references_of_a_kind_has_no_score(attack: Lira) -> None:
    evidence, few = few_references()
    scores = attack.scores(evidence)
    untold = few if attack.references == "online" else torch.tensor([0, 2])
    assert scores[untold].isnan().all()
    told = torch.ones(40, dtype=torch.bool)
    told[untold] = False
    assert scores[told].isfinite().all()
    assert float(scores[told].abs().max()) < 1e4
    assert attack.missing(evidence) == ""
    kept = torch.arange(4, 40)
    alone = replace(
        evidence,
        target=evidence.target[kept],
        references=evidence.references[:, kept],
        reference_members=evidence.reference_members[:, kept],
    )
    if attack.variance == "per_example" and attack.references == "online":
        assert scores[kept].tolist() == pytest.approx(attack.scores(alone).tolist(), rel=1e-9)


@every_form
def test_one_infinite_margin_costs_one_reference_of_one_record(attack: Lira) -> None:
    evidence, _ = few_references()
    before = attack.scores(evidence)
    margins = evidence.references.clone()
    margins[0, 9], margins[1, 9] = torch.inf, -torch.inf
    scores = attack.scores(replace(evidence, references=margins))
    assert torch.equal(scores.isnan(), before.isnan())
    assert scores[10:].tolist() == pytest.approx(before[10:].tolist(), rel=0.1, abs=0.1)
    margins[:6, 9] = torch.inf
    scores = attack.scores(replace(evidence, references=margins))
    assert math.isnan(scores[9])
    assert int(scores.isnan().sum()) == int(before.isnan().sum()) + 1


@every_form
def test_references_that_all_agree_measure_nothing(attack: Lira) -> None:
    evidence, _ = few_references()
    margins = evidence.references.clone()
    margins[:, 7] = 3.0
    scores = attack.scores(replace(evidence, references=margins))
    if attack.variance == "per_example":
        assert math.isnan(scores[7])
    same = attack.scores(replace(evidence, references=torch.full_like(margins, 3.0)))
    assert same.isnan().all()


def test_what_is_missing_says_how_many_records_could_be_told() -> None:
    evidence, _ = few_references()
    members = evidence.reference_members.clone()
    members[:, 10:] = torch.arange(8)[:, None] > 0
    few = replace(evidence, reference_members=members)
    text = "needs 2 IN and 2 OUT references per record; got 7 and 1; 6 of 40 records have them"
    assert Lira().missing(few) == text
    mixed = (torch.arange(8)[:, None] < 7) ^ (torch.arange(40) % 2 == 0)
    nobody = replace(evidence, reference_members=mixed)
    assert Lira().missing(nobody).startswith("needs 2 IN and 2 OUT references per record; got")
    without = replace(evidence, references=evidence.references * torch.inf)
    assert Lira().missing(without) == "needs 2 IN and 2 OUT references per record; got 0 and 0"


@pytest.mark.parametrize("offset", ["both", "out", "in"])
def test_an_infinite_reference_does_not_set_the_offset(
    offset: Literal["both", "out", "in"],
) -> None:
    evidence, _ = few_references()
    margins = evidence.references.clone()
    margins[0, 9] = margins[1, 9] = torch.inf
    before = CalibratedMargin(offset).scores(evidence)
    after = CalibratedMargin(offset).scores(replace(evidence, references=margins))
    assert after[9].isfinite()
    rest = torch.arange(40) != 9
    assert torch.equal(after[rest].nan_to_num(-9), before[rest].nan_to_num(-9))


@pytest.mark.parametrize("attack", [Rmia("online"), Rmia("offline")], ids=repr)
def test_rmia_leaves_out_what_is_no_margin(attack: Rmia) -> None:
    evidence, _ = few_references()
    drawn = torch.randn(9, 40, generator=generator(1, "population"), dtype=torch.float64)
    evidence = replace(evidence, population=drawn[0], reference_population=drawn[1:])
    before = attack.scores(evidence)
    population = evidence.population.clone()
    population[3] = torch.nan
    kept = torch.arange(40) != 3
    fewer = replace(
        evidence,
        population=evidence.population[kept],
        reference_population=evidence.reference_population[:, kept],
    )
    scores = attack.scores(replace(evidence, population=population))
    assert torch.equal(scores.nan_to_num(-9), attack.scores(fewer).nan_to_num(-9))
    target = evidence.target.clone()
    target[5], target[6], target[7] = torch.nan, torch.inf, -torch.inf
    scores = attack.scores(replace(evidence, target=target))
    assert math.isnan(scores[5])
    assert scores[6:8].isfinite().all()
    assert float(scores[6]) > float(before[6])
    assert float(scores[7]) < float(before[7])
