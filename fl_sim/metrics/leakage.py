"""Membership leakage of the global model, by loss, margin and gradient norm.

Each record has a loss and a margin under the global model; higher scores mean "more likely a
member". Members and non-members are compared within the same client, class and protected status,
so that a shift of labels or of noise is not mistaken for leakage.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from fl_sim.attacks.gradient_norm import head_gradient_norm
from fl_sim.attacks.label_only import label_only_scores
from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.contracts.attacks import margin_of
from fl_sim.metrics._shared.pools import (
    Estimate,
    Records,
    attack_auc,
    estimate_tail_tnr,
    shift_auc,
    true_positive_rates,
)
from fl_sim.metrics._shared.roc import MAX_FPRS, auc, balanced_accuracy, tail_tnr, tpr_at_fpr

__all__ = [
    "MAX_FPRS",
    "Leakage",
    "auc",
    "balanced_accuracy",
    "label_score",
    "loss_score",
    "margin_score",
    "tail_tnr",
    "tpr_at_fpr",
]


def loss_score(logits: Float[Tensor, "n y"], labels: Tensor) -> Float[Tensor, " n"]:
    """Return minus the loss. Yeom et al. (2018), https://arxiv.org/abs/1709.01604."""
    return -functional.cross_entropy(logits, labels, reduction="none")


def margin_score(logits: Float[Tensor, "n y"], labels: Tensor) -> Float[Tensor, " n"]:
    """Return the logit-scaled confidence log p - log(1 - p), computed from the logits.

    Source: Carlini et al. (2022), section 4.3, https://arxiv.org/abs/2112.03570.
    """
    return margin_of(logits, labels)


def label_score(record: RoundRecord, mask: Bool[Tensor, " n"]) -> Float[Tensor, " m"]:
    """Return `label_only_scores` of the masked records: the baseline of every attack."""
    clients, labels = record.pool_clients[mask], record.pool_labels[mask]
    return label_only_scores(clients, labels, record.members[mask]).float()


@final
@dataclass(frozen=True)
class Leakage(Metric):
    """Membership attacks on the global model, by loss and by margin, on matched pools.

    If the head alone is trained, also by the norm of each record's gradient. Guessing gives an
    AUC and a balanced accuracy of 0.5, a TPR equal to the FPR, and gaps of 0.

    Threat model: any client, who holds the global model.

    Source: Yeom et al. (2018), https://arxiv.org/abs/1709.01604, and the metrics of Carlini
    et al. (2022), https://arxiv.org/abs/2112.03570.
    """

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the attacks over all, protected and clean records, and per client."""
        scores = {
            "loss": loss_score(record.pool_logits, record.pool_labels),
            "margin": margin_score(record.pool_logits, record.pool_labels),
        }
        if record.pool_features is not None:
            norms = head_gradient_norm(record.pool_logits, record.pool_labels, record.pool_features)
            scores["gradient_norm"] = -norms.float()
        pool = pool_records(record)
        for group, mask in pool.groups().items():
            for name, score in scores.items():
                yield from self._attack(record, pool, f"mia_{name}", score, mask, group)
            yield from self._gaps(record, pool, mask, group)
        for client in range(record.num_clients):
            area = attack_auc(scores["margin"], pool, pool.clients == client)
            yield _row(record, "mia_margin_auc", area, "all", client)
        noisy, clean = pool.protected & ~pool.members, ~(pool.protected | pool.members)
        yield _row(record, "mia_shift_auc", shift_auc(scores["margin"], noisy, clean))

    def _attack(
        self,
        record: RoundRecord,
        pool: Records,
        attack: str,
        score: Float[Tensor, " n"],
        mask: Bool[Tensor, " n"],
        group: str,
    ) -> Iterator[Row]:
        area = attack_auc(score, pool, mask)
        yield _row(record, f"{attack}_auc", area, group)
        inside, outside = score[mask & pool.members], score[mask & ~pool.members]
        best = Estimate(balanced_accuracy(inside, outside), valid=area.valid, note=area.note)
        yield _row(record, f"{attack}_balanced_accuracy", best, group)
        for metric, rate in true_positive_rates(inside, outside, area):
            yield _row(record, f"{attack}_{metric}", rate, group)

    def _gaps(
        self, record: RoundRecord, pool: Records, mask: Bool[Tensor, " n"], group: str
    ) -> Iterator[Row]:
        """Yield gaps of members and non-members: half that in accuracy, that in loss, its tail."""
        inside, outside = mask & pool.members, mask & ~pool.members
        if not (inside.any() and outside.any()):
            return
        right = (record.pool_logits.argmax(1) == record.pool_labels).double()
        low_loss = loss_score(record.pool_logits, record.pool_labels).double()
        area = attack_auc(low_loss, pool, mask)
        tail = estimate_tail_tnr(low_loss[inside], low_loss[outside], area)
        gaps = {
            "mia_gap_advantage": float(right[inside].mean() - right[outside].mean()) / 2,
            "mia_loss_gap": float(low_loss[inside].mean() - low_loss[outside].mean()),
        }
        for metric, gap in gaps.items():
            yield _row(record, metric, Estimate(gap, valid=area.valid, note=area.note), group)
        yield _row(record, "mia_tail_tnr", tail, group)


def pool_records(record: RoundRecord) -> Records:
    """Return the strata and membership of the pool's records."""
    return Records(record.pool_clients, record.pool_labels, record.protected, record.members)


def _row(
    record: RoundRecord, metric: str, estimate: Estimate, group: str = "all", client: int = -1
) -> Row:
    value, low, high, valid, note = estimate
    return Row(record.round, metric, value, client, group, low, high, valid, note)
