"""Cost of a round: time, bytes and memory."""

import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from fl_sim.contracts import Metric, RoundRecord, Row

TO_MIB = 1 / 1024 if sys.platform != "darwin" else 1 / 1024**2  # Linux counts in KiB


@final
@dataclass(frozen=True)
class Cost(Metric):
    """Time, parameter bytes down and up, peak memory of this process, failed clients.

    `seconds` is wall-clock time and depends on the machine's load; to compare runs that share a
    machine, use `cpu_seconds`, the processor time of all processes of the run. Costs have no
    chance level.

    Source: this project; bytes count the trained parameters and statistics, without the overhead of
    the transport: 4 bytes per number, or 8 for a head that is solved (down) and the statistics that
    it is solved from (up), of whose symmetric matrix only one half is sent.
    """

    needs_scores: ClassVar[bool] = False

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        """Yield the costs of the round."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * TO_MIB
        yield Row(record.round, "seconds", record.seconds)
        yield self._cpu_seconds(record)
        yield Row(record.round, "bytes_down", record.bytes_down)
        yield Row(record.round, "bytes_up", record.bytes_up)
        yield Row(record.round, "peak_mib", peak)
        yield Row(record.round, "failures", record.num_failures)

    def _cpu_seconds(self, record: RoundRecord) -> Row:
        known = record.cpu_seconds == record.cpu_seconds
        note = "" if known else record.cpu_note
        return Row(record.round, "cpu_seconds", record.cpu_seconds, valid=known, note=note)
