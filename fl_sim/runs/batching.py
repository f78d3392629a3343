"""Choice between batched clients and one client at a time, by a measurement on this machine."""

from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from fl_sim.core.atomic_io import DamagedFileError, read_json, write_sealed
from fl_sim.core.cache import digest, is_storing, lock_entry, make_folder
from fl_sim.core.device import current_device, device_key, name_accelerator, on_device
from fl_sim.core.errors import RequestError
from fl_sim.core.literals import BatchMode as BatchMode
from fl_sim.core.portable import is_portable
from fl_sim.core.precision import current_precision
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation
from fl_sim.participants import Participation
from fl_sim.runs.environment import read_processor_name
from fl_sim.training.batched_layers import is_stack_of_layers
from fl_sim.training.batched_networks import explain_unbatchable
from fl_sim.training.client_trainer import ClientTrainer, make_trainer
from fl_sim.training.tasks import ClientTask, RoundConfig, Tensors, max_batched_clients

PROBE_SIZE = 4  # number of clients that are timed on a CPU, and of batches of each


def choose_batching(mode: BatchMode, federation: Federation) -> bool:
    """Return whether a run trains its clients in batches.

    Raises:
        RequestError: If `mode` is "on" and the model or client cannot be batched.
    """
    experiment = federation.experiment
    if mode == "on":
        with on_device(federation.device):
            refuse_unbatchable(experiment, federation.model, federation.shards.inputs)
        return True
    if mode == "off" or is_portable() or experiment.client.sgd_config(1) is None:
        return False
    can_gain = is_stack_of_layers(federation.model)
    if current_device().type != "cpu":  # there, no other network is faster in batches
        with on_device(federation.device):
            inputs = federation.shards.inputs
            can_gain = can_gain or not explain_unbatchable(federation.model, inputs)
    return can_gain and is_batching_faster(federation)


def refuse_unbatchable(
    experiment: Experiment, network: nn.Sequential, inputs: Shaped[Tensor, "n ..."]
) -> None:
    """Raise a `RequestError` that names the part that cannot be trained as one batch, if any.

    Args:
        experiment: The experiment.
        network: The part of its network that is trained.
        inputs: Inputs of that part, of which the first is used.
    """
    client, model = type(experiment.client).__name__, experiment.model
    if experiment.client.sgd_config(1) is None:
        raise RequestError(
            "--batch-clients on: client has to train by plain SGD, so that many can be "
            f"trained as one batch; got {client}"
        )
    cause = "" if is_stack_of_layers(network) else explain_unbatchable(network, inputs)
    if cause:
        raise RequestError(
            "--batch-clients on: model has to be a network of which many can be trained as one "
            f"batch; {cause}; got {model}"
        )


def is_batching_faster(federation: Federation) -> bool:
    """Return whether batched clients are faster than one at a time, measured on this machine.

    The measurement is cached, so that one machine always makes the same choice.
    """
    seconds = _load_or_measure(federation) if is_storing() else time_both_ways(federation)
    return seconds["cohort"] < seconds["in_turn"]


def _load_or_measure(federation: Federation) -> dict[str, float]:
    sgd = federation.experiment.client.sgd_config(1)
    shapes = [tuple(parameter.shape) for parameter in federation.model.parameters()]
    place = *device_key(), *filter(None, [name_accelerator(current_device())])
    precision = current_precision()
    place += () if precision == "float32" else (precision,)
    key = digest(read_processor_name(), repr(sgd), repr(shapes), *place)
    path = make_folder("cohort") / f"{key}.json"
    with lock_entry(path):
        seconds = _read_measurement(path)
        if seconds is None:
            seconds = time_both_ways(federation)
            write_sealed(path, seconds)
    return seconds


def _read_measurement(path: Path) -> dict[str, float] | None:
    """Return a cached measurement, or None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        measured = read_json(path)
        return {name: float(measured[name]) for name in ("cohort", "in_turn")}
    except (DamagedFileError, KeyError, TypeError, ValueError):
        return None


def time_both_ways(federation: Federation) -> dict[str, float]:
    """Return the seconds of a few batches of some clients, both ways; the best of three."""
    count = min(max_batched_clients(), federation.experiment.clients_per_round)
    if current_device().type == "cpu":
        count = min(count, PROBE_SIZE)
    probe = _make_probe(make_trainer(federation), count)
    buffers: Tensors = federation.start_buffers
    tasks = tuple(ClientTask(client) for client in range(count))
    seconds = {}
    for name, together in (("cohort", True), ("in_turn", False)):
        config = RoundConfig(1, federation.start, buffers, batch_clients=together)
        runs = []
        for _ in range(3):
            started = _read_clock()
            probe.train_chunk(config, tasks)
            runs.append(_read_clock() - started)
        seconds[name] = min(runs)
    return seconds


def _read_clock() -> float:
    """Return the CPU time of this process; on an accelerator, the time when its work is done.

    Kernels of an accelerator run on while Python continues.
    """
    device = current_device()
    if device.type == "cpu":
        return process_time()
    torch.get_device_module(device).synchronize()
    return perf_counter()


def _make_probe(trainer: ClientTrainer, count: int) -> ClientTrainer:
    """Return a trainer of some clients with a few batches each, from the real data."""
    sgd = trainer.schedule.experiment.client.sgd_config(1)
    assert sgd is not None
    size = PROBE_SIZE * sgd.batch_size
    with on_device(trainer.device):
        rows = torch.arange(max(count, PROBE_SIZE) * size) % len(trainer.shards.labels)
    all_clients = Participation()
    honest = replace(trainer.schedule.experiment, adversary=None, participation=all_clients)
    schedule = replace(trainer.schedule, experiment=honest)
    shards = replace(trainer.shards, schedule=schedule, owners=list(rows.split(size)))
    return replace(trainer, shards=shards)
