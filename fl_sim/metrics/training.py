"""Training metrics that clients report, and norms of their updates."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from fl_sim.contracts import Metric, RoundRecord, Row


@final
@dataclass(frozen=True)
class Training(Metric):
    """Metrics reported by each client, and the norm of its update.

    Clients may report false values; `update_norm` is measured by the server. A uniform prediction
    over y classes has a training loss of log y.

    Source: this project.
    """

    needs_scores: ClassVar[bool] = False

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the number of updates, then the metrics and the norm per client."""
        yield Row(record.round, "num_updates", len(record.updates))
        for update in record.updates:
            for name, value in update.metrics.items():
                note = (
                    "" if not math.isnan(value) else "no number: withheld, or nothing to train on"
                )
                yield Row(record.round, name, value, update.client, valid=not note, note=note)
            if math.isfinite(update.norm):
                yield Row(record.round, "update_norm", update.norm, update.client)
