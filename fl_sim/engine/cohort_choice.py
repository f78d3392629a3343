"""Whether to train small models many at once: what this machine says, asked once."""

from dataclasses import replace
from pathlib import Path
from time import process_time

import torch
from torch import nn

from fl_sim.atomic_io import DamagedFileError, read_json, write_sealed
from fl_sim.cache import digest, locked, made_folder
from fl_sim.engine.environment import processor
from fl_sim.engine.federation import Federation
from fl_sim.engine.orders import MAX_COHORT, Order, Task, Tensors
from fl_sim.engine.stacks import is_row_of_layers
from fl_sim.engine.workshop import Workshop
from fl_sim.errors import RequestError
from fl_sim.experiment import Experiment
from fl_sim.literals import CohortMode as CohortMode
from fl_sim.participants import Participation

PROBED = 4  # clients, and batches of each, that are timed


def choose(mode: CohortMode, federation: Federation) -> bool:
    """Return whether a run trains its clients in cohorts.

    Raises:
        RequestError: where it is asked for and the model does not allow it.
    """
    experiment = federation.experiment
    if mode == "on":
        refuse_unfit(experiment, federation.model)
    wanted = mode != "off" and fits(experiment, federation.model)
    return wanted and (mode == "on" or pays(federation))


def fits(experiment: Experiment, trained: nn.Sequential) -> bool:
    """Return whether clients can be trained as one batch: their network, and how they train it."""
    return is_row_of_layers(trained) and experiment.client.descent(1) is not None


def refuse_unfit(experiment: Experiment, trained: nn.Sequential) -> None:
    """Raise a `RequestError` where clients cannot be trained as one batch, and say which part."""
    client, model = type(experiment.client).__name__, experiment.model
    if not is_row_of_layers(trained):
        raise RequestError(
            "--cohort on: model is to be linear layers and rectifiers, of which many can be "
            f"trained as one batch; got {model}"
        )
    if experiment.client.descent(1) is None:
        raise RequestError(
            "--cohort on: client is to train by plain descent, of which many can be done as one "
            f"batch; got {client}"
        )


def pays(federation: Federation) -> bool:
    """Return whether a cohort is faster than its clients in turn, as measured on this machine.

    The answer is kept, so that one machine always gives the same one.
    """
    settings = federation.experiment.client.descent(1)
    shapes = [tuple(parameter.shape) for parameter in federation.model.parameters()]
    key = digest(processor(), repr(settings), repr(shapes))
    path = made_folder("cohort") / f"{key}.json"
    with locked(path):
        seconds = _kept(path)
        if seconds is None:
            seconds = measured(federation)
            write_sealed(path, seconds)
    return seconds["cohort"] < seconds["in_turn"]


def _kept(path: Path) -> dict[str, float] | None:
    """Return what was measured before; None where it was not, or was changed since."""
    if not path.exists():
        return None
    try:
        kept = read_json(path)
        return {name: float(kept[name]) for name in ("cohort", "in_turn")}
    except (DamagedFileError, KeyError, TypeError, ValueError):
        return None


def measured(federation: Federation) -> dict[str, float]:
    """Return the CPU seconds of a few batches of a few clients, both ways; the better of two."""
    probe = _probe(federation.workshop)
    buffers: Tensors = federation.start_buffers
    count = min(MAX_COHORT, federation.experiment.clients_per_round, PROBED)
    tasks = tuple(Task(client) for client in range(count))
    seconds = {}
    for name, together in (("cohort", True), ("in_turn", False)):
        order = Order(1, federation.start, buffers, cohort=together)
        runs = []
        for _ in range(3):
            started = process_time()
            probe.work(order, tasks)
            runs.append(process_time() - started)
        seconds[name] = min(runs)
    return seconds


def _probe(workshop: Workshop) -> Workshop:
    """Return a workshop of a few clients with a few batches each, out of the real data."""
    settings = workshop.schedule.experiment.client.descent(1)
    assert settings is not None
    size = PROBED * settings.batch_size
    rows = torch.arange(PROBED * size) % len(workshop.labels)
    everybody = Participation()
    honest = replace(workshop.schedule.experiment, adversary=None, participation=everybody)
    return replace(
        workshop,
        schedule=replace(workshop.schedule, experiment=honest),
        owners=list(rows.split(size)),
    )
