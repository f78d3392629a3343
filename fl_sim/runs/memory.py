"""The memory that a run will need, predicted before it starts."""

from fl_sim.core.errors import FieldError
from fl_sim.core.process import available_memory, used_memory
from fl_sim.federation.federation import Federation
from fl_sim.rounds.loop import can_sum_updates

MIB = 1024**2
# Of the model, in single precision: global, evaluation, training, gradients, momentum, update.
COPIES = 7
STEP = 4  # more in double precision for the sum, its chunk, and the step


def predict(federation: Federation, workers: int = 0) -> int:
    """Return the bytes that a run will have at its peak, workers of its own included.

    What is there already counts, data above all; activations of training do not, since nobody
    can tell them from outside: they are small beside a model that is large enough to matter.
    """
    size = 4 * len(federation.start)
    total = used_memory() + size * (COPIES + 2 * STEP)
    if not sums_all_updates(federation):
        total += size * federation.max_clients_per_round
    return total + workers * (used_memory() + size * (COPIES + STEP))


def sums_all_updates(federation: Federation) -> bool:
    """Return whether no round of a run has to hold all its updates at once."""
    rounds = range(1, federation.experiment.rounds + 1)
    return all(can_sum_updates(federation, round_num) for round_num in rounds)


def check(federation: Federation, workers: int = 0) -> int:
    """Return the prediction.

    Raises:
        FieldError: where it would not fit, naming the number to change.
    """
    wanted, there = predict(federation, workers), available_memory() + used_memory()
    if wanted <= there:
        return wanted
    size, clients = 4 * len(federation.start), federation.max_clients_per_round
    fits = clients - -(-(wanted - there) // size)
    told = f"the run would need {wanted // MIB:,} MiB of {there // MIB:,}"
    if sums_all_updates(federation) or fits < 1:
        raise FieldError(
            "model.backbone", f"a smaller network: {told}", federation.experiment.model.backbone
        )
    name = type(federation.experiment.strategy).__name__
    allowed = f"at most {fits} for {name}, which sees all updates at once: {told}"
    raise FieldError("participation.clients_per_round", allowed, clients)
