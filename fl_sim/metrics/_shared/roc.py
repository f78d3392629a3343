"""ROC metrics of the scores of members and non-members.

Infinite scores are ordered as others are. If a side is empty or has a NaN, every metric is NaN.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.metrics._shared.intervals import auc_with_interval

MAX_FPRS = (0.01, 0.001)
NAN = float("nan")


def auc(members: Float[Tensor, " m"], nonmembers: Float[Tensor, " o"]) -> float:
    """Return the chance that a random member scores above a random non-member; guessing: 0.5.

    >>> auc(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    return auc_with_interval(members, nonmembers)[0]


def balanced_accuracy(members: Float[Tensor, " m"], nonmembers: Float[Tensor, " o"]) -> float:
    """Return the largest mean of TPR and TNR over all thresholds; guessing: 0.5.

    The threshold is chosen on the audited records, so this is an upper bound.

    >>> balanced_accuracy(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    tpr, fpr = _rates(members, nonmembers)
    return float((0.5 + (tpr - fpr) / 2).max()) if len(tpr) else NAN


def tpr_at_fpr(
    members: Float[Tensor, " m"], nonmembers: Float[Tensor, " o"], max_fpr: float = 0.01
) -> float:
    """Return the largest true positive rate at a false positive rate of at most `max_fpr`.

    The ROC curve is a step function and not interpolated. Guessing gives `max_fpr`.
    Source: Carlini et al. (2022), section 3, https://arxiv.org/abs/2112.03570.

    >>> tpr_at_fpr(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]), max_fpr=0.5)
    1.0
    """
    tpr, fpr = _rates(members, nonmembers)
    return float(tpr[fpr <= max_fpr].max()) if len(tpr) else NAN


def tail_tnr(
    members: Float[Tensor, " m"], nonmembers: Float[Tensor, " o"], max_fnr: float = 0.01
) -> float:
    """Return the largest true negative rate at a false negative rate of at most `max_fnr`.

    Members rarely have a high loss: if many non-members have one, a calibrated attack will find
    members. This shows it without reference models. Guessing gives `max_fnr`.

    Source: after the tail of the loss in https://arxiv.org/abs/2510.19773, as the mirror image of
    `tpr_at_fpr`.

    >>> tail_tnr(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5, 1.0, 3.0]))
    0.5
    """
    return tpr_at_fpr(-nonmembers, -members, max_fnr)


def _rates(
    members: Float[Tensor, " m"], nonmembers: Float[Tensor, " o"]
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Return TPR and FPR of `score >= threshold` at every score, and above all of them.

    Empty if a side is empty or a score is NaN.
    """
    thresholds = torch.cat([members, nonmembers]).unique()
    if not (len(members) and len(nonmembers)) or bool(thresholds.isnan().any()):
        none = torch.empty(0, dtype=torch.float64)
        return none, none
    # No threshold lies above an infinite score, so the last point of the curve is added as such.
    none_accused = torch.zeros(1, dtype=torch.float64)
    true_positives = len(members) - torch.searchsorted(members.sort().values, thresholds)
    false_positives = len(nonmembers) - torch.searchsorted(nonmembers.sort().values, thresholds)
    tpr = torch.cat([true_positives.double() / len(members), none_accused])
    return tpr, torch.cat([false_positives.double() / len(nonmembers), none_accused])
