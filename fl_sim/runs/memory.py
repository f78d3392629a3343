"""The memory that a run will need, predicted before it starts."""

from fl_sim.contracts import LinearRule
from fl_sim.core.errors import FieldError
from fl_sim.core.process import available_memory, used_memory
from fl_sim.federation.federation import Federation

MIB = 1024**2
COPIES = 6  # of the model, in single precision: global, workbench, gradients, momentum, update
STEP = 4  # more in double precision for the sum, its chunk, and the step


def predict(federation: Federation, workers: int = 0) -> int:
    """Return the bytes that a run will have at its peak, workers of its own included.

    What is there already counts, data above all; activations of training do not, since nobody
    can tell them from outside: they are small beside a model that is large enough to matter.
    """
    size = 4 * len(federation.start)
    total = used_memory() + size * (COPIES + 2 * STEP)
    if not streams(federation):
        total += size * federation.most_asked
    return total + workers * (used_memory() + size * (COPIES + STEP))


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
    wanted, there = predict(federation, workers), available_memory() + used_memory()
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
