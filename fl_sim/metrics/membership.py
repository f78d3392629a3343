"""Assessment of a membership attack's scores: metrics with counts, intervals and validity."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.metrics._shared.intervals import clopper_pearson
from fl_sim.metrics._shared.pools import (
    MIN_RECORDS,
    Estimate,
    Records,
    attack_auc,
    estimate_tail_tnr,
    shift_auc,
    true_positive_rates,
)

__all__ = [
    "Finding",
    "Records",
    "assess",
    "assess_dispersion",
    "assess_shift",
    "epsilon_lower_bound",
    "mark_finding",
    "ppv",
    "rank_records",
]

PRIORS = (0.01, 0.1, 0.5)
NAN = float("nan")


class Finding(NamedTuple):
    """One metric of one attack, with its interval, counts and validity.

    Attributes:
        attack, metric, value: Names of attack and metric, and the metric's value.
        low, high: Bounds of the 95 % interval; NaN if there is none.
        group, client: Subset of the records; client -1 stands for all clients.
        view: Threat model: `client`, `server` (which sees single updates), or `nobody` for a
            control.
        pool: Pool of the non-members.
        num_members, num_outsiders, num_references: Numbers of members, non-members and reference
            models.
        references: Kind of the reference models.
        seed: Seed of the audit.
        valid, note: Validity of the value, and the reason if it is not valid.
    """

    attack: str
    metric: str
    value: float
    low: float = NAN
    high: float = NAN
    group: str = "all"
    client: int = -1
    view: str = "client"
    pool: str = "matched"
    num_members: int = 0
    num_outsiders: int = 0
    num_references: int = 0
    references: str = "none"
    seed: int = 0
    valid: bool = True
    note: str = ""


def mark_finding(finding: Finding) -> Finding:
    """Return the finding, marked as invalid if its value is NaN; its note is kept."""
    if not math.isnan(finding.value):
        return finding
    note = finding.note or "not defined"
    return finding._replace(low=NAN, high=NAN, valid=False, note=note)


def assess(
    scores: Float[Tensor, " n"],
    records: Records,
    template: Finding,
    thresholds: dict[float, float] | None = None,
) -> Iterator[Finding]:
    """Yield AUC, TPR at low FPRs and derived metrics by group, and the AUC by client.

    Records without a score are left out, and their number is noted. Guessing gives an AUC of 0.5
    and a TPR equal to the FPR. The interval of a TPR holds for the threshold that was used and
    leaves out the uncertainty of that threshold, so at least 3 / FPR non-members are required.

    Args:
        scores: Scores of an attack; NaN for records that it cannot score.
        records: Strata and membership of the records.
        template: Finding with the names of attack and setting, in which values are filled in.
        thresholds: Scores above which a record is accused, by nominal FPR, set on other models.
            They add the TPR and FPR on these records, the chance that an accused record is a
            member, and a lower bound of epsilon.
    """
    scored = ~scores.isnan()
    for group, mask in records.groups().items():
        out, in_group = mask & ~scored, template._replace(group=group)
        findings = _assess_group(scores, records, mask & scored, in_group, thresholds or {})
        yield from (_note_left_out(f, int(out.sum()), int(mask.sum())) for f in findings)
    for client in records.clients.unique().tolist():
        mask = records.clients == client
        area = _assess_auc(scores, records, mask & scored, template._replace(client=client))
        yield _note_left_out(area, int((mask & ~scored).sum()), int(mask.sum()))


def _note_left_out(finding: Finding, out: int, count: int) -> Finding:
    """Return the finding with the number of records that were left out in its note."""
    note = f"{out} of {count} records left out, which the attack cannot tell" if out else ""
    return mark_finding(finding._replace(note="; ".join(n for n in (finding.note, note) if n)))


def _assess_group(
    scores: Float[Tensor, " n"],
    records: Records,
    mask: Bool[Tensor, " n"],
    template: Finding,
    thresholds: dict[float, float],
) -> Iterator[Finding]:
    area = _assess_auc(scores, records, mask, template)
    yield area
    inside, outside = scores[mask & records.members], scores[mask & ~records.members]
    if len(inside) == 0 or len(outside) == 0:
        return
    pool = Estimate(area.value, valid=area.valid, note=area.note)
    for metric, rate in true_positive_rates(inside, outside, pool):
        yield _fill(area, metric, rate)
    yield _fill(area, "tail_tnr", estimate_tail_tnr(inside, outside, pool))
    for nominal, threshold in thresholds.items():
        yield from _assess_threshold(inside, outside, area, nominal, threshold)


def _fill(template: Finding, metric: str, estimate: Estimate) -> Finding:
    value, low, high, valid, note = estimate
    return template._replace(metric=metric, value=value, low=low, high=high, valid=valid, note=note)


def _assess_auc(
    scores: Float[Tensor, " n"], records: Records, mask: Bool[Tensor, " n"], template: Finding
) -> Finding:
    """Return the AUC, invalid if labels alone can tell members from non-members."""
    template = template._replace(
        num_members=int((mask & records.members).sum()),
        num_outsiders=int((mask & ~records.members).sum()),
    )
    return _fill(template, "auc", attack_auc(scores, records, mask))


def _assess_threshold(
    inside: Float[Tensor, " m"],
    outside: Float[Tensor, " o"],
    area: Finding,
    rate: float,
    threshold: float,
) -> Iterator[Finding]:
    """Yield TPR, FPR, PPV and epsilon at a threshold that was set on other models."""
    template = area._replace(low=NAN, high=NAN)
    counts = [(int((side > threshold).sum()), len(side)) for side in (inside, outside)]
    for name, (count, total) in zip(("tpr", "fpr"), counts, strict=True):
        low, high = clopper_pearson(count, total)
        metric = f"{name}_at_fixed_{rate:g}"
        yield template._replace(metric=metric, value=count / total, low=low, high=high)
    tpr, fpr = (count / total for count, total in counts)
    for prior in PRIORS:
        metric = f"ppv_at_fixed_{rate:g}_prior_{prior:g}"
        yield template._replace(metric=metric, value=ppv(tpr, fpr, prior))
    bound = epsilon_lower_bound(*counts[0], *counts[1])
    yield template._replace(metric=f"epsilon_at_fixed_{rate:g}", value=bound, low=bound)


def ppv(tpr: float, fpr: float, prior: float) -> float:
    """Return the chance that an accused record is a member; NaN if no record is accused.

    Guessing gives the prior.

    >>> ppv(0.1, 0.1, 0.01), round(ppv(0.1, 0.001, 0.01), 3)
    (0.01, 0.503)
    """
    accused = prior * tpr + (1 - prior) * fpr
    return prior * tpr / accused if accused else NAN


def epsilon_lower_bound(
    true_positives: int,
    num_members: int,
    false_positives: int,
    num_nonmembers: int,
    confidence: float = 0.95,
    delta: float = 0,
) -> float:
    """Return a lower bound of epsilon at the given confidence, at least 0.

    Any (epsilon, delta)-private training has TPR <= e^epsilon FPR + delta. The threshold must be
    set without the audited records: the best of many thresholds overstates the bound. Guessing
    gives 0.

    Source: Jagielski et al. (2020), section 3, https://arxiv.org/abs/2006.07709, with
    Clopper-Pearson bounds that share the error evenly.

    >>> round(epsilon_lower_bound(50, 500, 5, 500), 7)
    1.1759476
    """
    tpr, _ = clopper_pearson(true_positives, num_members, confidence)
    _, fpr = clopper_pearson(false_positives, num_nonmembers, confidence)
    return max(0.0, math.log((tpr - delta) / fpr)) if tpr > delta else 0.0


def rank_records(scores: Float[Tensor, " n"], outside: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the share of non-members that score below each record, from 0 (safe) to 1 (exposed).

    Uniform from 0 to 1 by chance. Rankings are stable over seeds even if sets of vulnerable
    records are not. NaN scores have NaN ranks; all ranks are NaN if no non-member has a score.
    """
    ordered = scores[outside & ~scores.isnan()].sort().values
    rank = torch.searchsorted(ordered, scores.contiguous()).double() / len(ordered)
    return rank.masked_fill(scores.isnan(), NAN)


def assess_dispersion(by_client: list[Finding], template: Finding) -> Iterator[Finding]:
    """Yield the range and the standard deviation of the AUC over clients.

    Over clients with at least two members and two non-members. Small pools alone spread the AUC:
    `low` of the deviation is its chance level.
    """
    findings = [f for f in by_client if min(f.num_members, f.num_outsiders) >= MIN_RECORDS]
    if len(findings) < 2:
        return
    areas = torch.tensor([f.value for f in findings], dtype=torch.float64)
    variances = [
        (f.num_members + f.num_outsiders + 1) / (12 * f.num_members * f.num_outsiders)
        for f in findings
    ]
    expected = math.sqrt(sum(variances) / len(variances))
    template = template._replace(client=-1, group="clients")
    yield template._replace(metric="client_auc_range", value=float(areas.max() - areas.min()))
    deviation = float(areas.std())
    yield template._replace(metric="client_auc_deviation", value=deviation, low=expected)


def assess_shift(
    scores: Float[Tensor, " n"], records: Records, template: Finding
) -> Iterator[Finding]:
    """Yield the AUCs of protected non-members and members, each against clean non-members.

    `shift_only_auc` is a control without members: above 0.5 it measures the noise.
    `naive_protected_auc` is that of a comparison which mixes noise with membership.
    """
    scored = ~scores.isnan()
    outside = scored & ~records.members
    clean = outside & ~records.protected
    pairs = {
        "shift_only": outside & records.protected,
        "naive_protected": scored & records.members & records.protected,
    }
    for name, first in pairs.items():
        estimate = shift_auc(scores, first, clean)
        if name != "shift_only" and estimate.valid:
            estimate = estimate._replace(valid=False, note="mixes noise with membership")
        counts = template._replace(
            view="nobody",
            pool="clean outsiders",
            num_members=int(first.sum()),
            num_outsiders=int(clean.sum()),
        )
        yield _fill(counts, f"{name}_auc", estimate)
