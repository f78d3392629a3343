"""Matched pools: who the audited records are, and what their scores may be compared for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim.attacks.label_only import label_only_scores
from fl_sim.metrics._shared.intervals import auc_with_interval, clopper_pearson
from fl_sim.metrics._shared.roc import MAX_FPRS, tail_tnr, tpr_at_fpr

MIN_RECORDS = 2  # of either side: DeLong's interval takes a variance
NAN = float("nan")


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

    def label_only_auc(self, mask: Bool[Tensor, " n"]) -> tuple[float, float, float]:
        """Return the AUC of labels and clients alone on the kept records, and its interval."""
        inside = self.members[mask]
        score = label_only_scores(self.clients[mask], self.labels[mask], inside)
        return auc_with_interval(score[inside], score[~inside])


class Estimate(NamedTuple):
    """A number about scores, its 95 % interval, and whether it may be read, or why not."""

    value: float
    low: float = NAN
    high: float = NAN
    valid: bool = True
    note: str = ""


def attack_auc(scores: Float[Tensor, " n"], records: Records, mask: Bool[Tensor, " n"]) -> Estimate:
    """Return the AUC of members against outsiders among the kept records.

    Invalid where a side has fewer than two records, where a score is NaN, and where labels alone
    can tell the sides apart: then it is a shift between the pools and no membership.
    """
    inside, outside = mask & records.members, mask & ~records.members
    found = Estimate(*auc_with_interval(scores[inside], scores[outside]))
    note = _explain_invalid(int(inside.sum()), int(outside.sum())) or _explain_shift(records, mask)
    return found._replace(valid=not note, note=note)


def _explain_invalid(num_members: int, num_nonmembers: int) -> str:
    if not (num_members and num_nonmembers):
        return "empty pool"
    if min(num_members, num_nonmembers) < MIN_RECORDS:
        return f"{num_members} and {num_nonmembers} records; {MIN_RECORDS} of either side needed"
    return ""


def _explain_shift(records: Records, mask: Bool[Tensor, " n"]) -> str:
    gate, low, high = records.label_only_auc(mask)
    return "" if low <= 0.5 <= high else f"shift: labels alone reach {gate:.2f}"


def true_positive_rates(
    inside: Float[Tensor, " m"], outside: Float[Tensor, " o"], pool: Estimate
) -> Iterator[tuple[str, Estimate]]:
    """Yield the hit rates at low false alarm rates, by name; none where a side is empty.

    A rate takes at least 3 / rate outsiders to be read, and a `pool` whose AUC may be read.
    """
    if len(inside) == 0 or len(outside) == 0:
        return
    for rate in MAX_FPRS:
        tpr = tpr_at_fpr(inside, outside, rate)
        enough = len(outside) >= 3 / rate
        few = "" if enough else f"{len(outside)} outsiders; {3 / rate:.0f} needed"
        note = "; ".join(part for part in (pool.note, few) if part)
        yield f"tpr_at_{rate:g}", estimate_share(tpr, len(inside), pool.valid and enough, note)


def estimate_tail_tnr(
    inside: Float[Tensor, " m"], outside: Float[Tensor, " o"], pool: Estimate
) -> Estimate:
    """Return the share of outsiders below the tail of the members: see `tail_tnr`."""
    return estimate_share(tail_tnr(inside, outside), len(outside), pool.valid, pool.note)


def estimate_share(value: float, count: int, valid: bool = True, note: str = "") -> Estimate:
    """Return a share of `count` records with its exact interval; NaN has none."""
    if value != value:
        return Estimate(value, valid=False, note=note)
    return Estimate(value, *clopper_pearson(round(value * count), count), valid, note)


def shift_auc(
    scores: Float[Tensor, " n"], noisy: Bool[Tensor, " n"], clean: Bool[Tensor, " n"]
) -> Estimate:
    """Return the AUC of some records against clean outsiders: a control, where nobody is told."""
    found = Estimate(*auc_with_interval(scores[noisy], scores[clean]))
    there = bool(noisy.any()) and bool(clean.any())
    return found if there else found._replace(valid=False, note="one of the pools is empty")
