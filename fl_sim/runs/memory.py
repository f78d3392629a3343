"""Prediction of the memory that a run needs, and a check that it fits."""

from bisect import bisect_right
from contextlib import suppress
from dataclasses import replace

from torch import nn

from fl_sim.core.device import current_device, free_memory, is_out_of_memory, measure_peak
from fl_sim.core.errors import FieldError
from fl_sim.core.process import available_memory, used_memory
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation
from fl_sim.models import parameters
from fl_sim.models.closed_form import find_statistics_head, sketch_head
from fl_sim.participants import Participation
from fl_sim.rounds.loop import can_sum_updates
from fl_sim.training.client_trainer import ClientTrainer
from fl_sim.training.faults import NO_FAULTS
from fl_sim.training.tasks import ClientTask, RoundConfig, max_batched_clients

MIB = 1024**2
# Of the model, in single precision: global, evaluation, training, gradients, momentum, update.
COPIES = 7
STEP = 4  # further copies, in double precision: the sum, its chunk, and the step
MEASURED = ("cuda", "xpu", "mps")  # kinds of device of whose memory PyTorch keeps account
USABLE = 0.9  # share of a device's free memory; the rest is lost between blocks
SOLVE = 6  # matrices of a covariance's size, in double precision: its parts and eigenvectors


def predict(federation: Federation, workers: int = 0) -> int:
    """Return the peak memory of a run in bytes, including its own workers.

    Memory that is in use already, above all the data, counts. Activations do not: they cannot be
    predicted, and are small beside a model that is large enough to matter.
    """
    size = federation.start.nbytes
    total = used_memory() + max(map(_count_bytes, _list_phases(federation)))
    return total + workers * (used_memory() + size * (COPIES + STEP))


def _list_phases(federation: Federation) -> list[Federation]:
    """Return a federation and, before it, that of the head which it starts from, without data."""
    tune = federation.experiment.model.warm_start
    if tune is None:
        return [federation]
    model = nn.Sequential(sketch_head(federation.model, tune))
    first = federation.experiment.closed_form_start()
    start = parameters.flatten(model)
    return [replace(federation, experiment=first, model=model, start=start), federation]


def _count_bytes(federation: Federation) -> int:
    """Return the memory that the server needs for the rounds of a federation."""
    total = federation.start.nbytes * (COPIES + 2 * STEP)
    if not sums_all_updates(federation):
        total += federation.start.nbytes * federation.max_clients_per_round
    head = find_statistics_head(federation.model)
    if head is not None and federation.experiment.model.tune != "ncm":  # means need none
        total += SOLVE * 8 * head.in_features**2
    return total


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
    largest = max(_list_phases(federation), key=_count_bytes)
    size, clients = largest.start.nbytes, largest.max_clients_per_round
    # All clients but those whose updates are too many, rounded up.
    fits = clients - -(-(needed - available) // size)
    reason = f"the run would need {needed // MIB:,} MiB of {available // MIB:,}"
    model = federation.experiment.model
    if largest is not federation:
        raise FieldError("model.warm_start", f"None here: {reason}", model.warm_start)
    if sums_all_updates(federation) or fits < 1:
        raise FieldError("model.backbone", f"a smaller network: {reason}", model.backbone)
    name = type(federation.experiment.strategy).__name__
    allowed = f"at most {fits} for {name}, which needs all updates at once: {reason}"
    raise FieldError("participation.clients_per_round", allowed, clients)


def fit_to_device(trainer: ClientTrainer, federation: Federation, batched: bool) -> None:
    """Limit the clients that a trainer takes as one batch to the memory of an accelerator.

    One step is tried beforehand: of one client and, where clients are batched, of two. The peak of
    a batch grows evenly with its clients.

    Raises:
        FieldError: If the step of one client does not fit, naming the field to change.
    """
    device = current_device()
    if device.type not in MEASURED:
        return
    probe = _make_probe(trainer)
    config = RoundConfig(1, federation.start, federation.start_buffers, batch_clients=batched)
    free = free_memory(device)
    try:
        one = measure_peak(device, lambda: probe.attempt(config, ClientTask(0)))
    except Exception as error:
        if not is_out_of_memory(error):  # of the client's code, which fails alike in the run
            return
        allowed = f"smaller: one step needs more than {free // MIB:,} MiB, free on {device}"
        field, given = _find_size_field(federation.experiment)
        raise FieldError(field, allowed, given) from None
    count = min(max_batched_clients(), federation.max_clients_per_round)
    if not batched or count < 2:
        return
    pair = (ClientTask(0), ClientTask(1))
    two = measure_peak(device, lambda: probe.train_chunk(config, pair))
    spare, per_client = int(USABLE * free) - one, max(1, two - one)
    if probe.max_batch is None and spare // per_client >= count - 1:
        return
    # Of smaller batches, the updates of earlier ones stay until all of the chunk are summed.
    fits = 1 + (spare - count * federation.start.nbytes) // per_client
    trainer.limit_batch(probe.max_batch or max(1, fits))


def _find_size_field(experiment: Experiment) -> tuple[str, object]:
    """Return the field that makes a step smaller, and its value."""
    if hasattr(experiment.client, "batch_size"):
        return "client.batch_size", experiment.client.batch_size
    return "model.backbone", experiment.model.backbone


def _make_probe(trainer: ClientTrainer) -> ClientTrainer:
    """Return a trainer of two honest clients, with as many records each as one step takes."""
    schedule, owners = trainer.schedule, trainer.shards.owners
    experiment = replace(schedule.experiment, adversary=None, participation=Participation())
    rows = max(owners, key=len)
    sizes = range(1, len(rows) + 1)
    with suppress(Exception):  # of the client's code
        steps = experiment.client.num_steps
        rows = rows[: bisect_right(sizes, steps(1), key=steps)]
    schedule = replace(schedule, experiment=experiment)
    shards = replace(trainer.shards, schedule=schedule, owners=[rows, rows])
    return replace(trainer, shards=shards, faults=NO_FAULTS)
