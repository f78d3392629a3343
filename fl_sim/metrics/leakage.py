"""Membership leakage: can an outsider tell who was in the training set?

Signals first: each record has a loss and a margin under the global model; higher scores mean
"more likely a member". Members and outsiders are compared within the same client, class and
protected status, so that a shift of labels or of noise is not mistaken for leakage.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from fl_sim.attacks.gradient_norm import head_gradient_norm
from fl_sim.attacks.label_only import label_only
from fl_sim.attacks.signals import margin_of
from fl_sim.contracts import Metric, Observation, Row
from fl_sim.metrics.intervals import auc_with_interval, clopper_pearson

MAX_FPRS = (0.01, 0.001)


def loss_score(logits: Float[Tensor, "n y"], labels: Tensor) -> Float[Tensor, " n"]:
    """Return minus the loss. Yeom et al. (2018), https://arxiv.org/abs/1709.01604."""
    return -functional.cross_entropy(logits, labels, reduction="none")


def margin_score(logits: Float[Tensor, "n y"], labels: Tensor) -> Float[Tensor, " n"]:
    """Return the logit-scaled confidence log p - log(1 - p), computed from the logits.

    Source: Carlini et al. (2022), section 4.3, https://arxiv.org/abs/2112.03570.
    """
    return margin_of(logits, labels)


def auc(members: Float[Tensor, " m"], outsiders: Float[Tensor, " o"]) -> float:
    """Return the chance that a random member scores above a random outsider; guessing: 0.5.

    >>> auc(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    return auc_with_interval(members, outsiders)[0]


def balanced_accuracy(members: Float[Tensor, " m"], outsiders: Float[Tensor, " o"]) -> float:
    """Return the best mean of hit and rejection rate over all thresholds; guessing: 0.5.

    The threshold is chosen on the audited records, so this is an upper bound.

    >>> balanced_accuracy(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    tpr, fpr = _rates(members, outsiders)
    return float((0.5 + (tpr - fpr) / 2).max())


def tpr_at_fpr(
    members: Float[Tensor, " m"], outsiders: Float[Tensor, " o"], max_fpr: float = 0.01
) -> float:
    """Return the share of members found while at most `max_fpr` of outsiders are accused.

    Read off the step curve, never interpolated. Guessing gives `max_fpr`.
    Source: Carlini et al. (2022), section 3, https://arxiv.org/abs/2112.03570.

    >>> tpr_at_fpr(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]), max_fpr=0.5)
    1.0
    """
    tpr, fpr = _rates(members, outsiders)
    return float(tpr[fpr <= max_fpr].max())


def tail_tnr(
    members: Float[Tensor, " m"], outsiders: Float[Tensor, " o"], max_fnr: float = 0.01
) -> float:
    """Return the share of outsiders cleared while at most `max_fnr` of members are.

    High losses are missing among members: where many outsiders have one, a calibrated attack
    will find members, which takes no reference model to see. Guessing gives `max_fnr`.

    Source: after the tail of the loss in https://arxiv.org/abs/2510.19773, as the mirror image of
    the hit rate.

    >>> tail_tnr(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5, 1.0, 3.0]))
    0.5
    """
    return tpr_at_fpr(-outsiders, -members, max_fnr)


def _rates(
    members: Float[Tensor, " m"], outsiders: Float[Tensor, " o"]
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Return hit and false alarm rates at every threshold, `score >= threshold`."""
    top = torch.tensor([torch.inf])
    thresholds = torch.cat([members, outsiders, top.to(members)]).unique()
    hits = len(members) - torch.searchsorted(members.sort().values, thresholds)
    alarms = len(outsiders) - torch.searchsorted(outsiders.sort().values, thresholds)
    return hits.double() / len(members), alarms.double() / len(outsiders)


def label_score(seen: Observation, kept: Bool[Tensor, " n"]) -> Float[Tensor, " m"]:
    """Score the kept records by client and label alone: how many of their kind are members.

    See `label_only`: the gate of every attack.
    """
    clients, labels = seen.pool_clients[kept], seen.pool_labels[kept]
    return label_only(clients, labels, seen.members[kept]).float()


@final
@dataclass(frozen=True)
class Leakage(Metric):
    """Membership attacks on the global model, by loss and by margin, on matched pools.

    Where the head alone is trained, also by the norm of each record's gradient.

    Source: Yeom et al. (2018), https://arxiv.org/abs/1709.01604, and the metrics of Carlini
    et al. (2022), https://arxiv.org/abs/2112.03570. Attacker's view: any client, who holds the
    global model. Guessing gives an AUC of 0.5.
    """

    def rows(self, seen: Observation) -> Iterator[Row]:
        """Yield the attacks overall, for protected and clean records, and per client."""
        scores = {
            "loss": loss_score(seen.pool_logits, seen.pool_labels),
            "margin": margin_score(seen.pool_logits, seen.pool_labels),
        }
        if seen.pool_features is not None:
            norms = head_gradient_norm(seen.pool_logits, seen.pool_labels, seen.pool_features)
            scores["gradient_norm"] = -norms.float()
        groups = {"all": torch.ones_like(seen.members)}
        if bool(seen.protected.any()):
            groups |= {"protected": seen.protected, "clean": ~seen.protected}
        for group, chosen in groups.items():
            for name, score in scores.items():
                yield from self._attack(seen, name, score, chosen, group)
            yield from self._gaps(seen, chosen, group)
        audited = seen.pool_clients.bincount(minlength=seen.num_clients).tolist()
        for client in range(seen.num_clients):
            if not audited[client]:
                yield Row(
                    seen.round, "mia_margin_auc", math.nan, client, valid=False, note="empty pool"
                )
                continue
            kept = seen.pool_clients == client
            yield self._area(seen, "margin", scores["margin"], kept, "all", client)
        yield self._shift(seen, scores["margin"])

    def _attack(
        self,
        seen: Observation,
        name: str,
        score: Float[Tensor, " n"],
        kept: Bool[Tensor, " n"],
        group: str,
    ) -> Iterator[Row]:
        members, outsiders = score[kept & seen.members], score[kept & ~seen.members]
        yield self._area(seen, name, score, kept, group)
        if len(members) == 0 or len(outsiders) == 0:
            return
        value = balanced_accuracy(members, outsiders)
        yield Row(seen.round, f"mia_{name}_balanced_accuracy", value, group=group)
        for max_fpr in MAX_FPRS:
            rate = tpr_at_fpr(members, outsiders, max_fpr)
            low, high = clopper_pearson(round(rate * len(members)), len(members))
            enough = len(outsiders) >= 3 / max_fpr
            note = "" if enough else f"{len(outsiders)} outsiders; {3 / max_fpr:.0f} needed"
            metric = f"mia_{name}_tpr_at_{max_fpr:g}"
            yield Row(seen.round, metric, rate, -1, group, low, high, enough, note)

    def _gaps(self, seen: Observation, kept: Bool[Tensor, " n"], group: str) -> Iterator[Row]:
        """Yield what members have over outsiders: in accuracy, halved, in loss, and in its tail."""
        inside, outside = kept & seen.members, kept & ~seen.members
        if not (inside.any() and outside.any()):
            return
        right = (seen.pool_logits.argmax(1) == seen.pool_labels).double()
        low_loss = loss_score(seen.pool_logits, seen.pool_labels).double()
        gap = float(right[inside].mean() - right[outside].mean()) / 2
        yield Row(seen.round, "mia_gap_advantage", gap, group=group)
        gap = float(low_loss[inside].mean() - low_loss[outside].mean())
        note = "" if math.isfinite(gap) else "the model diverged"
        yield Row(seen.round, "mia_loss_gap", gap, group=group, valid=not note, note=note)
        cleared, count = tail_tnr(low_loss[inside], low_loss[outside]), int(outside.sum())
        low, high = clopper_pearson(round(cleared * count), count)
        yield Row(seen.round, "mia_tail_tnr", cleared, -1, group, low, high)

    def _area(
        self,
        seen: Observation,
        name: str,
        score: Float[Tensor, " n"],
        kept: Bool[Tensor, " n"],
        group: str,
        client: int = -1,
    ) -> Row:
        """Return the AUC, marked as shift where labels alone can tell."""
        inside, outside = kept & seen.members, kept & ~seen.members
        area, low, high = auc_with_interval(score[inside], score[outside])
        metric = f"mia_{name}_auc"
        if not (inside.any() and outside.any()):
            return Row(seen.round, metric, area, client, group, low, high, False, "empty pool")
        by_label = label_score(seen, kept)
        is_member = seen.members[kept]
        gate, gate_low, gate_high = auc_with_interval(by_label[is_member], by_label[~is_member])
        honest = gate_low <= 0.5 <= gate_high
        note = "" if honest else f"shift: labels alone reach {gate:.2f}"
        return Row(seen.round, metric, area, client, group, low, high, honest, note)

    def _shift(self, seen: Observation, score: Float[Tensor, " n"]) -> Row:
        """Return the control: protected against clean outsiders, where nobody is a member."""
        outside = ~seen.members
        noisy, clean = score[outside & seen.protected], score[outside & ~seen.protected]
        area, low, high = auc_with_interval(noisy, clean)
        there = len(noisy) > 0 and len(clean) > 0
        note = "" if there else "one of the pools is empty"
        return Row(seen.round, "mia_shift_auc", area, -1, "all", low, high, there, note)
