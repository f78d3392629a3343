"""Matched pools of members and non-members, and estimates on them with validity and interval."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim.attacks.label_only import label_only_scores
from fl_sim.metrics._shared.intervals import auc_with_interval, clopper_pearson
from fl_sim.metrics._shared.roc import MAX_FPRS, tail_tnr, tpr_at_fpr

MIN_RECORDS = 2  # members, and non-members, since DeLong's interval needs a variance
NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Records:
    """Strata and membership of the audited records.

    Attributes:
        clients, labels, protected: Strata in which members and non-members are matched.
        members: Mask of the records that the target was trained on.
    """

    clients: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    members: Bool[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.members)

    def groups(self) -> dict[str, Bool[Tensor, " n"]]:
        """Return masks of all records and, if some are protected, of these and of the others."""
        groups = {"all": torch.ones_like(self.members)}
        if bool(self.protected.any()):
            groups |= {"protected": self.protected, "clean": ~self.protected}
        return groups

    def label_only_auc(self, mask: Bool[Tensor, " n"]) -> tuple[float, float, float]:
        """Return the AUC of labels and clients alone on the masked records, and its interval."""
        inside = self.members[mask]
        score = label_only_scores(self.clients[mask], self.labels[mask], inside)
        return auc_with_interval(score[inside], score[~inside])


class Estimate(NamedTuple):
    """A value with its 95 % interval and its validity; the note has the reason if it is invalid."""

    value: float
    low: float = NAN
    high: float = NAN
    valid: bool = True
    note: str = ""


def attack_auc(scores: Float[Tensor, " n"], records: Records, mask: Bool[Tensor, " n"]) -> Estimate:
    """Return the AUC of members against non-members among the masked records.

    Invalid if a side has fewer than two records, if a score is NaN, or if labels alone can tell
    the sides apart, since that is a shift between the pools and not membership.
    """
    inside, outside = mask & records.members, mask & ~records.members
    estimate = Estimate(*auc_with_interval(scores[inside], scores[outside]))
    note = _explain_invalid(int(inside.sum()), int(outside.sum())) or _explain_shift(records, mask)
    return estimate._replace(valid=not note, note=note)


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
    """Yield the TPR at low FPRs, by name; none if a side is empty.

    Valid with at least 3 / FPR non-members, and if the AUC on the `pool` is valid.
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
    """Return the share of non-members below the tail of the members: see `tail_tnr`."""
    return estimate_share(tail_tnr(inside, outside), len(outside), pool.valid, pool.note)


def estimate_share(value: float, count: int, valid: bool = True, note: str = "") -> Estimate:
    """Return a share of `count` records with its exact interval; NaN without an interval."""
    if value != value:
        return Estimate(value, valid=False, note=note)
    return Estimate(value, *clopper_pearson(round(value * count), count), valid, note)


def shift_auc(
    scores: Float[Tensor, " n"], noisy: Bool[Tensor, " n"], clean: Bool[Tensor, " n"]
) -> Estimate:
    """Return the AUC of noisy records against clean non-members: a control, not an attack."""
    estimate = Estimate(*auc_with_interval(scores[noisy], scores[clean]))
    valid = bool(noisy.any()) and bool(clean.any())
    return estimate if valid else estimate._replace(valid=False, note="one of the pools is empty")
