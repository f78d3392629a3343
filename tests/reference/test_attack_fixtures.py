"""Attacks against numbers of TensorFlow Privacy and privacy_meter, frozen with their origin."""

import json
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
from fl_sim.attacks.signals import Evidence, Signals, confidence

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
    assert Lira().missing(evidence) == "needs 2 IN and 2 OUT references a record; got 1 and 1"
    assert Rmia().missing(evidence) == ""
    assert CalibratedMargin("both").missing(evidence) == ""
