"""What an attack's scores are worth: numbers with counts, intervals, and whether to read them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim.attacks.label_only import label_only
from fl_sim.metrics.intervals import auc_with_interval, clopper_pearson
from fl_sim.metrics.leakage import MAX_FPRS, tail_tnr, tpr_at_fpr

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


@dataclass(frozen=True, eq=False)
class Records:
    """Who the audited records are.

    Attributes:
        clients, labels, protected: the strata in which members and outsiders are matched.
        members: which of them the target was trained on.
    """

    clients: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    members: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.members)

    def groups(self) -> dict[str, Bool[Tensor, " n"]]:
        """Return all records; and, where some are protected, those and the clean ones."""
        groups = {"all": torch.ones_like(self.members)}
        if bool(self.protected.any()):
            groups |= {"protected": self.protected, "clean": ~self.protected}
        return groups

    def gate(self, kept: Bool[Tensor, " n"]) -> tuple[float, float, float]:
        """Return the AUC of labels and clients alone on the kept records, and its interval."""
        inside = self.members[kept]
        score = label_only(self.clients[kept], self.labels[kept], inside)
        return auc_with_interval(score[inside], score[~inside])


def assess(
    scores: Float[Tensor, " n"],
    records: Records,
    about: Finding,
    thresholds: dict[float, float] | None = None,
) -> Iterator[Finding]:
    """Yield AUC, hit rates and what follows from them, by group; and the AUC by client.

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
    told = ~scores.isnan()
    for group, own in records.groups().items():
        found = about._replace(group=group)
        yield from _of_group(scores, records, own & told, found)
        for rate, threshold in (thresholds or {}).items():
            yield from _at_threshold(scores, records, own & told, found, rate, threshold)
    for client in records.clients.unique().tolist():
        kept = told & (records.clients == client)
        yield _area(scores, records, kept, about._replace(client=client))


def _of_group(
    scores: Float[Tensor, " n"], records: Records, kept: Bool[Tensor, " n"], about: Finding
) -> Iterator[Finding]:
    area = _area(scores, records, kept, about)
    yield area
    inside, outside = scores[kept & records.members], scores[kept & ~records.members]
    if len(inside) == 0 or len(outside) == 0:
        return
    for rate in MAX_FPRS:
        hits = tpr_at_fpr(inside, outside, rate)
        low, high = clopper_pearson(round(hits * len(inside)), len(inside))
        enough = len(outside) >= 3 / rate
        few = "" if enough else f"{len(outside)} outsiders; {3 / rate:.0f} needed"
        notes = "; ".join(note for note in (area.note, few) if note)
        yield area._replace(
            metric=f"tpr_at_{rate:g}",
            value=hits,
            low=low,
            high=high,
            valid=area.valid and enough,
            note=notes,
        )
    tail = tail_tnr(inside, outside)
    low, high = clopper_pearson(round(tail * len(outside)), len(outside))
    yield area._replace(metric="tail_tnr", value=tail, low=low, high=high)


def _area(
    scores: Float[Tensor, " n"], records: Records, kept: Bool[Tensor, " n"], about: Finding
) -> Finding:
    """Return the AUC, marked as shift where labels alone can tell."""
    inside, outside = kept & records.members, kept & ~records.members
    area, low, high = auc_with_interval(scores[inside], scores[outside])
    about = about._replace(
        metric="auc",
        value=area,
        low=low,
        high=high,
        num_members=int(inside.sum()),
        num_outsiders=int(outside.sum()),
    )
    if not (about.num_members and about.num_outsiders):
        return about._replace(valid=False, note="empty pool")
    gate, gate_low, gate_high = records.gate(kept)
    if gate_low <= 0.5 <= gate_high:
        return about
    return about._replace(valid=False, note=f"shift: labels alone reach {gate:.2f}")


def _at_threshold(
    scores: Float[Tensor, " n"],
    records: Records,
    kept: Bool[Tensor, " n"],
    about: Finding,
    rate: float,
    threshold: float,
) -> Iterator[Finding]:
    """Yield what a threshold that was fixed on other models meets here."""
    inside, outside = scores[kept & records.members], scores[kept & ~records.members]
    if len(inside) == 0 or len(outside) == 0:
        return
    hits, alarms = int((inside > threshold).sum()), int((outside > threshold).sum())
    about = about._replace(num_members=len(inside), num_outsiders=len(outside))
    for name, count, total in (("tpr", hits, len(inside)), ("fpr", alarms, len(outside))):
        low, high = clopper_pearson(count, total)
        metric = f"{name}_at_fixed_{rate:g}"
        yield about._replace(metric=metric, value=count / total, low=low, high=high)
    for prior in PRIORS:
        value = ppv(hits / len(inside), alarms / len(outside), prior)
        yield about._replace(metric=f"ppv_at_fixed_{rate:g}_prior_{prior:g}", value=value)
    bound = epsilon_lower_bound(hits, len(inside), alarms, len(outside))
    yield about._replace(metric=f"epsilon_at_fixed_{rate:g}", value=bound, low=bound)


def ppv(tpr: float, fpr: float, prior: float) -> float:
    """Return the chance that an accused record is a member; NaN where nobody is accused.

    Guessing gives the prior.

    >>> ppv(0.1, 0.1, 0.01), round(ppv(0.1, 0.001, 0.01), 3)
    (0.01, 0.503)
    """
    accused = prior * tpr + (1 - prior) * fpr
    return prior * tpr / accused if accused else NAN


def epsilon_lower_bound(
    hits: int, members: int, alarms: int, outsiders: int, confidence: float = 0.95, delta: float = 0
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
    tpr, _ = clopper_pearson(hits, members, confidence)
    _, fpr = clopper_pearson(alarms, outsiders, confidence)
    return max(0.0, math.log((tpr - delta) / fpr)) if tpr > delta else 0.0


def ranks(scores: Float[Tensor, " n"], outside: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the share of outsiders that score below each record: from 0, safe, to 1, exposed.

    Rankings are stable over seeds where sets of vulnerable records are not. NaN stays NaN.
    """
    ordered = scores[outside & ~scores.isnan()].sort().values
    rank = torch.searchsorted(ordered, scores.contiguous()).double() / max(1, len(ordered))
    return rank.masked_fill(scores.isnan(), NAN)


def dispersion(by_client: list[Finding], about: Finding) -> Iterator[Finding]:
    """Yield how unevenly leakage falls on clients: range and deviation of their AUC.

    Small pools alone spread the AUC: `low` of the deviation is what chance would give.
    """
    there = [own for own in by_client if own.num_members and own.num_outsiders]
    if len(there) < 2:
        return
    areas = torch.tensor([own.value for own in there], dtype=torch.float64)
    chance = [
        (own.num_members + own.num_outsiders + 1) / (12 * own.num_members * own.num_outsiders)
        for own in there
    ]
    expected = math.sqrt(sum(chance) / len(chance))
    about = about._replace(client=-1, group="clients")
    yield about._replace(metric="client_auc_range", value=float(areas.max() - areas.min()))
    deviation = float(areas.std())
    yield about._replace(metric="client_auc_deviation", value=deviation, low=expected)


def shift_control(
    scores: Float[Tensor, " n"], records: Records, about: Finding
) -> Iterator[Finding]:
    """Yield the two-by-two of protected and clean, members and outsiders, as AUCs.

    `shift_only` tells protected from clean outsiders, where nobody is a member; `naive` tells
    protected members from clean outsiders, as a comparison without care would.
    """
    outside, told = ~records.members & ~scores.isnan(), ~scores.isnan()
    clean = outside & ~records.protected
    pairs = {
        "shift_only": outside & records.protected,
        "naive_protected": told & records.members & records.protected,
    }
    for name, first in pairs.items():
        area, low, high = auc_with_interval(scores[first], scores[clean])
        note = "" if name == "shift_only" else "mixes noise with membership"
        note = note if first.any() and clean.any() else "one of the pools is empty"
        yield about._replace(
            metric=f"{name}_auc",
            value=area,
            low=low,
            high=high,
            view="nobody",
            pool="clean outsiders",
            num_members=int(first.sum()),
            num_outsiders=int(clean.sum()),
            valid=not note,
            note=note,
        )
