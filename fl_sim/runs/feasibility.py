"""Checks before any work that a run can be carried out."""

from copy import deepcopy

import torch

from fl_sim.config import validation
from fl_sim.contracts import Update
from fl_sim.core.errors import FieldError, require
from fl_sim.core.flower_types import Strategy
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.precision import current_precision
from fl_sim.core.process import silence_logs
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import load_experiment_dataset
from fl_sim.federation.pool import assign_records
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.server import make_context
from fl_sim.runs.batching import BatchMode, refuse_unbatchable
from fl_sim.training.tasks import RoundConfig

SHAPES = {"weight": (2, 3), "bias": (2,)}  # of the synthetic network that strategies are tried with
SIZE = 8


def check(experiment: Experiment, batch_clients: BatchMode = "auto") -> None:
    """Check everything that would certainly make the run fail.

    Raises:
        FieldError: For a wrong field, with the allowed values and the given one.
        MissingDataError: If the dataset is unavailable.
        MissingWeightsError: If a file of weights is missing, with its path.
        RequestError: For batched clients of a model or client that cannot be batched.
    """
    validation.check(experiment)
    if batch_clients == "on":
        network = validation.network_of(experiment)
        images = as_pixels(load_experiment_dataset(experiment).train_images[:1])
        with torch.no_grad():
            inputs = network.frozen(images)
        trained = deepcopy(network.trained)  # of a network that is built once for all checks
        trained.precision = current_precision()
        refuse_unbatchable(experiment, trained, inputs)
    if isinstance(experiment.strategy, Strategy):
        _check_flower_strategy(experiment)
    if experiment.withholds_images:
        _check_withheld(experiment)


def _check_withheld(experiment: Experiment) -> None:
    """Raise a `FieldError` if too few clients keep any images to train on."""
    clients, members, protected = assign_records(experiment, load_experiment_dataset(experiment))
    num_able = len(clients[members & ~protected].unique())
    fewest = validation.min_clients_per_round(experiment)
    allowed = f"so small that {fewest} clients still have images to train on"
    fractions = max(clause.fraction for clause in experiment.clauses)
    require(num_able >= fewest, "layout.fraction", allowed, fractions)


def _check_flower_strategy(experiment: Experiment) -> None:
    """Let one of Flower's strategies aggregate a round of synthetic updates.

    Its arguments are checked one by one elsewhere; only the strategy itself can check whether
    they fit together.
    """
    silence_logs()
    name = type(experiment.strategy).__name__
    try:
        step = _run_synthetic_round(experiment)
    except Exception as error:  # strategies raise errors of any class
        words = " ".join(str(error).split())
        allowed = f"arguments of {name} with which it can aggregate a round ({words})"
        raise FieldError("strategy", allowed, name) from error
    if not bool(step.isfinite().all()):
        allowed = f"arguments of {name} that do not make all parameters infinite or NaN"
        raise FieldError("strategy", allowed, name)


def _run_synthetic_round(experiment: Experiment) -> torch.Tensor:
    """Return the parameters after a round in which every client sends a different small update."""
    from fl_sim.flower.server import FlowerServer

    strategy = Experiment.from_json(experiment.to_json()).strategy  # strategies keep state
    assert isinstance(strategy, Strategy)
    clients = list(range(experiment.clients_per_round))
    context = make_context(clients, [1] * len(clients), len(clients), 1, experiment.seed)
    server = FlowerServer(strategy, SHAPES, experiment.seed)
    config = RoundConfig(1, torch.zeros(SIZE), {})
    plan = server.plan(config, context, torch.ones(len(clients), dtype=torch.float64))
    fewest = experiment.failures.min_updates
    if len(plan.clients) < fewest:
        raise ValueError(f"it asks {len(plan.clients)} of {len(clients)} clients")
    if "server-round" not in plan.flower_config:
        raise ValueError("configrecord_key has to be 'config', where clients look")
    metrics = {"train_loss": 1.0, "train_accuracy": 0.5}
    updates = [Update(client, None, {}, 10, metrics) for client in plan.clients]
    rows = torch.linspace(-0.01, 0.01, SIZE) * torch.arange(1, len(updates) + 1)[:, None]
    after, _ = server.advance(plan, RoundUpdates(updates, rows, None, []), context)
    return after
