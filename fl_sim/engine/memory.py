"""How much memory a run will need, before it starts, and how much it took."""

import resource
import sys
from pathlib import Path

from fl_sim.contracts import LinearRule
from fl_sim.engine.federation import Federation
from fl_sim.errors import FieldError

MIB = 1024**2
COPIES = 6  # of the model, in single precision: global, workbench, gradients, momentum, update
STEP = 4  # more in double precision for the sum, its chunk, and the step


def predicted(federation: Federation, workers: int = 0) -> int:
    """Return the bytes that a run will have at its peak, workers of its own included.

    What is there already counts, data above all; activations of training do not, since nobody
    can tell them from outside: they are small beside a model that is large enough to matter.
    """
    size = 4 * len(federation.start)
    total = used() + size * (COPIES + 2 * STEP)
    if not streams(federation):
        total += size * federation.most_asked
    return total + workers * (used() + size * (COPIES + STEP))


def streams(federation: Federation) -> bool:
    """Return whether updates are added up as they come."""
    experiment = federation.experiment
    rule = experiment.strategy
    return isinstance(rule, LinearRule) and experiment.adversary is None


def check(federation: Federation, workers: int = 0) -> int:
    """Return the prediction.

    Raises:
        FieldError: where it would not fit, naming the number to change.
    """
    wanted, there = predicted(federation, workers), available() + used()
    if wanted <= there:
        return wanted
    size, clients = 4 * len(federation.start), federation.most_asked
    fits = clients - -(-(wanted - there) // size)
    told = f"the run would need {wanted // MIB:,} MiB of {there // MIB:,}"
    if streams(federation) or fits < 1:
        raise FieldError(
            "model.backbone", f"a smaller network: {told}", federation.experiment.model.backbone
        )
    name = type(federation.experiment.strategy).__name__
    allowed = f"at most {fits} for {name}, which sees all updates at once: {told}"
    raise FieldError("participation.clients_per_round", allowed, clients)


def used() -> int:
    """Return the bytes that this process holds now."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return peak()


def peak() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def available() -> int:
    """Return the bytes that can still be had, of the machine or the container."""
    machine = [line for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable")]
    found = [int(line.split()[1]) * 1024 for line in machine]
    limit = _lines(Path("/sys/fs/cgroup/memory.max"))
    taken = _lines(Path("/sys/fs/cgroup/memory.current"))
    if limit and taken and limit[0].isdigit():
        found.append(int(limit[0]) - int(taken[0]))
    return min(found, default=sys.maxsize // 2)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
