"""Detection of protecting clients by the server, from losses and norms of updates."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.metrics._shared.groups import CLEAN, PROTECTED
from fl_sim.metrics._shared.intervals import auc_with_interval
from fl_sim.metrics.accuracy import client_groups


@final
@dataclass(frozen=True)
class Detection(Metric):
    """AUC with which the server tells protecting clients from clean ones, per round.

    Error-minimising noise makes the training loss of its holder collapse and its updates short,
    so that a low loss or a short update indicates protection. `detection_auc`, in the groups
    `train_loss` and `update_norm`, is the chance that a protecting client has a lower value than
    a clean one. Guessing gives 0.5; below, the indication is reversed. Clients with a mixed shard
    and attackers are left out.

    Threat model: the server, which sees each client's update. Clients may report a false loss.

    Source: this project.
    """

    needs_scores: ClassVar[bool] = False

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield one AUC per indicator, invalid if no client protects, or if all do."""
        groups = client_groups(record)
        update_groups = [groups[update.client] for update in record.updates]
        indicators = {
            "train_loss": [-u.metrics.get("train_loss", math.nan) for u in record.updates],
            "update_norm": [-update.norm for update in record.updates],
        }
        for name, scores in indicators.items():
            yield _row(record.round, name, scores, update_groups)


def _row(round_num: int, name: str, scores: Sequence[float], groups: Sequence[str]) -> Row:
    def select(wanted: str) -> torch.Tensor:
        pairs = zip(scores, groups, strict=True)
        return torch.tensor([s for s, group in pairs if group == wanted and not math.isnan(s)])

    protecting, clean = select(PROTECTED), select(CLEAN)
    if not (len(protecting) and len(clean)):
        note = "no clients to compare: none of both kinds delivered"
        return Row(round_num, "detection_auc", math.nan, group=name, valid=False, note=note)
    area, low, high = auc_with_interval(protecting, clean)
    return Row(round_num, "detection_auc", area, -1, name, low, high)
