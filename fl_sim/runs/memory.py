"""Prediction of the memory that a run needs, and a check that it fits."""

from fl_sim.core.errors import FieldError
from fl_sim.core.process import available_memory, used_memory
from fl_sim.federation.federation import Federation
from fl_sim.rounds.loop import can_sum_updates

MIB = 1024**2
# Of the model, in single precision: global, evaluation, training, gradients, momentum, update.
COPIES = 7
STEP = 4  # further copies, in double precision: the sum, its chunk, and the step


def predict(federation: Federation, workers: int = 0) -> int:
    """Return the peak memory of a run in bytes, including its own workers.

    Memory that is in use already, above all the data, counts. Activations do not: they cannot be
    predicted, and are small beside a model that is large enough to matter.
    """
    size = federation.start.nbytes
    total = used_memory() + size * (COPIES + 2 * STEP)
    if not sums_all_updates(federation):
        total += size * federation.max_clients_per_round
    return total + workers * (used_memory() + size * (COPIES + STEP))


def sums_all_updates(federation: Federation) -> bool:
    """Return whether no round of a run has to hold all its updates at once."""
    rounds = range(1, federation.experiment.rounds + 1)
    return all(can_sum_updates(federation, round_num) for round_num in rounds)


def check(federation: Federation, workers: int = 0) -> int:
    """Return the predicted peak memory in bytes.

    Raises:
        FieldError: If it does not fit, naming the field to change.
    """
    needed, available = predict(federation, workers), available_memory() + used_memory()
    if needed <= available:
        return needed
    size, clients = federation.start.nbytes, federation.max_clients_per_round
    # All clients but those whose updates are too many, rounded up.
    fits = clients - -(-(needed - available) // size)
    reason = f"the run would need {needed // MIB:,} MiB of {available // MIB:,}"
    if sums_all_updates(federation) or fits < 1:
        raise FieldError(
            "model.backbone", f"a smaller network: {reason}", federation.experiment.model.backbone
        )
    name = type(federation.experiment.strategy).__name__
    allowed = f"at most {fits} for {name}, which needs all updates at once: {reason}"
    raise FieldError("participation.clients_per_round", allowed, clients)
