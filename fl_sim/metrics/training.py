"""What clients say of their training, and how far they went."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from fl_sim.contracts import Metric, RoundRecord, Row


@final
@dataclass(frozen=True)
class Training(Metric):
    """What each client reported, and the length of its update.

    Source: this project. A client can report what it likes; `update_norm` is the server's own.
    """

    needs_scores: ClassVar[bool] = False

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the number of updates, then the numbers client by client."""
        yield Row(record.round, "num_updates", len(record.updates))
        for update in record.updates:
            for name, value in update.metrics.items():
                note = (
                    "" if not math.isnan(value) else "no number: withheld, or nothing to train on"
                )
                yield Row(record.round, name, value, update.client, valid=not note, note=note)
            if math.isfinite(update.norm):
                yield Row(record.round, "update_norm", update.norm, update.client)
