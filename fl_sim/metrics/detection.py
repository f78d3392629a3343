"""Can a server tell who protects, by what it is told anyway?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.contracts import Metric, RoundRecord, Row
from fl_sim.metrics._shared.groups import CLEAN, PROTECTED, assign_group
from fl_sim.metrics._shared.intervals import auc_with_interval


@final
@dataclass(frozen=True)
class Detection(Metric):
    """How well protecting clients are told from clean ones, round by round.

    Noise that minimises errors makes the training loss of whoever holds it collapse, and updates
    short: so a low loss, or a short update, is the server's sign of protection. The area under
    the curve (`detection_auc`, in groups `train_loss` and `update_norm`) is the chance that a
    protecting client looks more suspicious than a clean one; guessing gives 0.5, and below it the
    sign points the wrong way. Clients with a mixed shard, and attackers, are left out.

    Attacker's view: the server, which sees each update on its own. A client can report whatever
    loss it likes.

    Source: this project.
    """

    needs_scores: ClassVar[bool] = False

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield an area a sign, invalid where no client protects, or all do."""
        held = record.class_counts.sum(1)
        share = (record.protected_counts / held.clamp(min=1)).tolist()
        groups = [assign_group(own, i in record.attackers) for i, own in enumerate(share)]
        owners = [groups[update.client] for update in record.updates]
        signs = {
            "train_loss": [-u.metrics.get("train_loss", math.nan) for u in record.updates],
            "update_norm": [-update.norm for update in record.updates],
        }
        for name, suspicion in signs.items():
            yield _row(record.round, name, suspicion, owners)


def _row(round_num: int, name: str, suspicion: Sequence[float], owners: Sequence[str]) -> Row:
    def of(group: str) -> torch.Tensor:
        known = zip(suspicion, owners, strict=True)
        return torch.tensor([s for s, own in known if own == group and not math.isnan(s)])

    protecting, clean = of(PROTECTED), of(CLEAN)
    if not (len(protecting) and len(clean)):
        note = "no clients to compare: none of both kinds delivered"
        return Row(round_num, "detection_auc", math.nan, group=name, valid=False, note=note)
    area, low, high = auc_with_interval(protecting, clean)
    return Row(round_num, "detection_auc", area, -1, name, low, high)
