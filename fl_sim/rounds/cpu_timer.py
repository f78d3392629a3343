"""CPU time of a round, over all processes that work for it."""

from dataclasses import dataclass, field

from fl_sim.backends.base import Backend, CpuSeconds

WORKER_LOST = "a worker came to an end in this round, with what it had used"


@dataclass(eq=False)
class CpuTimer:
    """Measures the CPU time that a backend uses from now on."""

    backend: Backend
    before: CpuSeconds = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.backend.cpu_seconds()

    def measure(self) -> tuple[float, str]:
        """Return the CPU seconds of all processes since the start; or NaN, and the reason."""
        return subtract_cpu_seconds(self.before, self.backend.cpu_seconds())


def subtract_cpu_seconds(before: CpuSeconds, after: CpuSeconds) -> tuple[float, str]:
    """Return the CPU seconds of all processes between two measurements; or NaN, and the reason.

    A process that started in between counts from the start of its work for the run.

    >>> subtract_cpu_seconds({"a": 5.0}, {"a": 7.0, "b": 0.5})
    (2.5, '')
    """
    if isinstance(before, str) or isinstance(after, str):
        return float("nan"), str(before if isinstance(before, str) else after)
    if before.keys() - after.keys():
        return float("nan"), WORKER_LOST
    return sum(used - before.get(process, 0.0) for process, used in after.items()), ""
