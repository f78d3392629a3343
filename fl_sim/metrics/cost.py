"""What a round costs: time, bytes and memory."""

import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from fl_sim.contracts import Metric, Observation, Row

TO_MIB = 1 / 1024 if sys.platform != "darwin" else 1 / 1024**2  # Linux counts in KiB


@final
@dataclass(frozen=True)
class Cost(Metric):
    """Time, parameter bytes down and up, peak memory of this process, failed clients.

    `seconds` are those of the clock, which hold for the machine's load as well: of runs side by
    side, compare `cpu_seconds`, the processor time of all processes of the run.

    Source: this project; bytes are those of the trained parameters and statistics, 4 bytes a
    number, without the transport's own.
    """

    needs_scores: ClassVar[bool] = False

    def rows(self, seen: Observation) -> Iterator[Row]:
        """Yield the costs of the round."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * TO_MIB
        yield Row(seen.round, "seconds", seen.seconds)
        yield self._cpu_seconds(seen)
        yield Row(seen.round, "bytes_down", seen.bytes_down)
        yield Row(seen.round, "bytes_up", seen.bytes_up)
        yield Row(seen.round, "peak_mib", peak)
        yield Row(seen.round, "failures", seen.num_failures)

    def _cpu_seconds(self, seen: Observation) -> Row:
        known = seen.cpu_seconds == seen.cpu_seconds
        note = "" if known else seen.cpu_note
        return Row(seen.round, "cpu_seconds", seen.cpu_seconds, valid=known, note=note)
