"""What an attack's scores are worth: numbers with counts, intervals, and whether to read them."""

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
    """One number about one attack, with all that is needed to read it.

    Attributes:
        attack, metric, value: what was measured of what.
        low, high: a 95 % interval, NaN where there is none.
        group, client: the subset of records; -1 is everybody's.
        view: who can attack so: `client`, `server` (that sees single updates), or `nobody`: a
            control.
        pool: which outsiders members are told from.
        num_members, num_outsiders, num_references, references: counts, and what kind of
            reference models they were.
        seed: of the audit.
        valid, note: whether the number should be read, and why not.
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
    """Return the finding, invalid where its number is NaN; a reason that it gives is kept."""
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
    """Yield AUC, hit rates and what follows from them, by group; and the AUC by client.

    Only over the records that the attack could tell; the note says how many were left out.
    The interval of a hit rate is for the threshold that was met; how far off that threshold may
    be is not in it, which is why it takes at least 3 / rate outsiders.

    Args:
        scores: of an attack; NaN where it could not tell.
        records: the audited records.
        about: names the attack and how it was done; its numbers are filled in.
        thresholds: scores above which a record is accused, by nominal false alarm rate, fixed on
            other models. With them come the rates that they meet here, the chance that an accused
            record is a member, and a lower bound of epsilon.
    """
    scored = ~scores.isnan()
    for group, own in records.groups().items():
        found = template._replace(group=group)
        out = own & ~scored
        numbers = _assess_group(scores, records, own & scored, found, thresholds or {})
        yield from (_note_left_out(number, int(out.sum()), int(own.sum())) for number in numbers)
    for client in records.clients.unique().tolist():
        own = records.clients == client
        area = _assess_auc(scores, records, own & scored, template._replace(client=client))
        yield _note_left_out(area, int((own & ~scored).sum()), int(own.sum()))


def _note_left_out(finding: Finding, out: int, count: int) -> Finding:
    """Return the finding, saying how many of its records were left out."""
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


def _fill(template: Finding, metric: str, found: Estimate) -> Finding:
    value, low, high, valid, note = found
    return template._replace(metric=metric, value=value, low=low, high=high, valid=valid, note=note)


def _assess_auc(
    scores: Float[Tensor, " n"], records: Records, mask: Bool[Tensor, " n"], template: Finding
) -> Finding:
    """Return the AUC, marked as shift where labels alone can tell."""
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
    """Yield what a threshold that was fixed on other models meets here."""
    true_positives, false_positives = (
        int((inside > threshold).sum()),
        int((outside > threshold).sum()),
    )
    template = area._replace(low=NAN, high=NAN)
    for name, count, total in (
        ("tpr", true_positives, len(inside)),
        ("fpr", false_positives, len(outside)),
    ):
        low, high = clopper_pearson(count, total)
        metric = f"{name}_at_fixed_{rate:g}"
        yield template._replace(metric=metric, value=count / total, low=low, high=high)
    for prior in PRIORS:
        value = ppv(true_positives / len(inside), false_positives / len(outside), prior)
        yield template._replace(metric=f"ppv_at_fixed_{rate:g}_prior_{prior:g}", value=value)
    bound = epsilon_lower_bound(true_positives, len(inside), false_positives, len(outside))
    yield template._replace(metric=f"epsilon_at_fixed_{rate:g}", value=bound, low=bound)


def ppv(tpr: float, fpr: float, prior: float) -> float:
    """Return the chance that an accused record is a member; NaN where nobody is accused.

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
    """Return what epsilon is at least, with the given confidence; at least 0.

    Any (epsilon, delta)-private training has TPR <= e^epsilon FPR + delta. The threshold has to
    be fixed before the records are seen: the best of many thresholds overstates the bound.
    Guessing gives 0.

    Source: Jagielski et al. (2020), section 3, https://arxiv.org/abs/2006.07709, with
    Clopper-Pearson bounds that share the error evenly.

    >>> round(epsilon_lower_bound(50, 500, 5, 500), 7)
    1.1759476
    """
    tpr, _ = clopper_pearson(true_positives, num_members, confidence)
    _, fpr = clopper_pearson(false_positives, num_nonmembers, confidence)
    return max(0.0, math.log((tpr - delta) / fpr)) if tpr > delta else 0.0


def rank_records(scores: Float[Tensor, " n"], outside: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the share of outsiders that score below each record: from 0, safe, to 1, exposed.

    Rankings are stable over seeds where sets of vulnerable records are not. NaN stays NaN, and
    without any outsider that has a score all ranks are.
    """
    ordered = scores[outside & ~scores.isnan()].sort().values
    rank = torch.searchsorted(ordered, scores.contiguous()).double() / len(ordered)
    return rank.masked_fill(scores.isnan(), NAN)


def assess_dispersion(by_client: list[Finding], template: Finding) -> Iterator[Finding]:
    """Yield how unevenly leakage falls on clients: range and deviation of their AUC.

    Over clients with two members and two outsiders or more. Small pools alone spread the AUC:
    `low` of the deviation is what chance would give.
    """
    there = [own for own in by_client if min(own.num_members, own.num_outsiders) >= MIN_RECORDS]
    if len(there) < 2:
        return
    areas = torch.tensor([own.value for own in there], dtype=torch.float64)
    chance = [
        (own.num_members + own.num_outsiders + 1) / (12 * own.num_members * own.num_outsiders)
        for own in there
    ]
    expected = math.sqrt(sum(chance) / len(chance))
    template = template._replace(client=-1, group="clients")
    yield template._replace(metric="client_auc_range", value=float(areas.max() - areas.min()))
    deviation = float(areas.std())
    yield template._replace(metric="client_auc_deviation", value=deviation, low=expected)


def assess_shift(
    scores: Float[Tensor, " n"], records: Records, template: Finding
) -> Iterator[Finding]:
    """Yield the two-by-two of protected and clean, members and outsiders, as AUCs.

    `shift_only` tells protected from clean outsiders, where nobody is a member; `naive` tells
    protected members from clean outsiders, as a comparison without care would.
    """
    scored = ~scores.isnan()
    outside = scored & ~records.members
    clean = outside & ~records.protected
    pairs = {
        "shift_only": outside & records.protected,
        "naive_protected": scored & records.members & records.protected,
    }
    for name, first in pairs.items():
        found = shift_auc(scores, first, clean)
        if name != "shift_only" and found.valid:
            found = found._replace(valid=False, note="mixes noise with membership")
        yield _fill(
            template._replace(
                view="nobody",
                pool="clean outsiders",
                num_members=int(first.sum()),
                num_outsiders=int(clean.sum()),
            ),
            f"{name}_auc",
            found,
        )
