"""The processor time of a round: of this process, and of those that train for it."""

from dataclasses import dataclass, field

from fl_sim.backends.base import Backend, CpuSeconds

GONE = "a worker came to an end in this round, with what it had used"


@dataclass(eq=False)
class CpuTimer:
    """Measures what a crew uses from now on."""

    crew: Backend
    before: CpuSeconds = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.crew.cpu_seconds()

    def spent(self) -> tuple[float, str]:
        """Return the seconds since, by all processes together; NaN, and why, where not known."""
        return cpu_seconds_between(self.before, self.crew.cpu_seconds())


def cpu_seconds_between(before: CpuSeconds, after: CpuSeconds) -> tuple[float, str]:
    """Return the seconds that processes used between two looks; NaN, and why, where not known.

    Processes that came in between count from the start of their work for the run.

    >>> cpu_seconds_between({"a": 5.0}, {"a": 7.0, "b": 0.5})
    (2.5, '')
    """
    if isinstance(before, str) or isinstance(after, str):
        return float("nan"), str(before if isinstance(before, str) else after)
    if before.keys() - after.keys():
        return float("nan"), GONE
    return sum(used - before.get(process, 0.0) for process, used in after.items()), ""
