"""The processor time of a round: of this process, and of those that train for it."""

from dataclasses import dataclass, field

from fl_sim.backends.base import Backend, CpuSeconds

WORKER_LOST = "a worker came to an end in this round, with what it had used"


@dataclass(eq=False)
class CpuTimer:
    """Measures what a crew uses from now on."""

    backend: Backend
    before: CpuSeconds = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.backend.cpu_seconds()

    def measure(self) -> tuple[float, str]:
        """Return the seconds since, by all processes together; NaN, and why, where not known."""
        return subtract_cpu_seconds(self.before, self.backend.cpu_seconds())


def subtract_cpu_seconds(before: CpuSeconds, after: CpuSeconds) -> tuple[float, str]:
    """Return the seconds that processes used between two looks; NaN, and why, where not known.

    Processes that came in between count from the start of their work for the run.

    >>> subtract_cpu_seconds({"a": 5.0}, {"a": 7.0, "b": 0.5})
    (2.5, '')
    """
    if isinstance(before, str) or isinstance(after, str):
        return float("nan"), str(before if isinstance(before, str) else after)
    if before.keys() - after.keys():
        return float("nan"), WORKER_LOST
    return sum(used - before.get(process, 0.0) for process, used in after.items()), ""
