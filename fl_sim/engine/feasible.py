"""Whether a run can be carried out as it is asked for: all that is found before any work."""

import torch
from flwr.serverapp.strategy import Strategy

from fl_sim import preflight
from fl_sim.contracts import Update
from fl_sim.engine import compat
from fl_sim.engine.cohort_choice import CohortMode, refuse_unfit
from fl_sim.engine.federation import dataset_of
from fl_sim.engine.orders import Order
from fl_sim.engine.pile import Collected
from fl_sim.engine.pool import who_is_who
from fl_sim.engine.server import FlowerServer, senders_of
from fl_sim.errors import FieldError, require
from fl_sim.experiment import Experiment

SHAPES = {"weight": (2, 3), "bias": (2,)}  # of the network with which strategies are tried
SIZE = 8


def check(experiment: Experiment, cohort: CohortMode = "auto") -> None:
    """Raise a `RequestError` for what would make the run fail for sure.

    Raises:
        FieldError: naming the field, what is allowed, and what came.
        MissingDataError: where the dataset is nowhere to be had.
        MissingWeightsError: naming the file to fill.
        RequestError: for cohorts of a model or client that cannot be trained as a batch.
    """
    preflight.check(experiment)
    if cohort == "on":
        refuse_unfit(experiment, preflight.network_of(experiment).trained)
    if isinstance(experiment.strategy, Strategy):
        _try_out(experiment)
    if experiment.layout.withheld:
        _check_withheld(experiment)


def _check_withheld(experiment: Experiment) -> None:
    """Refuse to withhold so much that too few clients have anything to train on."""
    clients, members, protected = who_is_who(experiment, dataset_of(experiment))
    able = len(clients[members & ~protected].unique())
    fewest = preflight.fewest_of(experiment)
    allowed = f"so small that {fewest} clients still have images to train on"
    require(able >= fewest, "layout.fraction", allowed, experiment.layout.fraction)


def _try_out(experiment: Experiment) -> None:
    """Let a strategy of Flower's aggregate a round of made-up updates.

    Its arguments are looked at one by one elsewhere; how they go together, only itself knows.
    """
    compat.quiet()
    name = type(experiment.strategy).__name__
    try:
        step = _made_up_round(experiment)
    except Exception as error:  # of any class: the strategies raise what they like
        words = " ".join(str(error).split())
        allowed = f"arguments of {name} with which it can aggregate a round ({words})"
        raise FieldError("strategy", allowed, name) from error
    if not bool(step.isfinite().all()):
        allowed = f"arguments of {name} that do not make all parameters infinite or NaN"
        raise FieldError("strategy", allowed, name)


def _made_up_round(experiment: Experiment) -> torch.Tensor:
    """Return the parameters after a round in which every client sends another small update."""
    again = Experiment.from_json(experiment.to_json()).strategy  # strategies remember
    assert isinstance(again, Strategy)
    clients = list(range(experiment.clients_per_round))
    senders = senders_of(clients, [1] * len(clients), len(clients), 1, experiment.seed)
    server = FlowerServer(again, SHAPES, experiment.seed)
    order = Order(1, torch.zeros(SIZE), {})
    plan = server.plan(order, senders, torch.ones(len(clients), dtype=torch.float64))
    fewest = experiment.failures.min_updates
    if len(plan.clients) < fewest:
        raise ValueError(f"it asks {len(plan.clients)} of {len(clients)} clients")
    if "server-round" not in plan.order.config:
        raise ValueError("configrecord_key has to be 'config', where clients look")
    metrics = {"train_loss": 1.0, "train_accuracy": 0.5}
    updates = [Update(client, None, {}, 10, metrics) for client in plan.clients]
    rows = torch.linspace(-0.01, 0.01, SIZE) * torch.arange(1, len(updates) + 1)[:, None]
    after, _ = server.advance(plan, Collected(updates, rows, None, []), senders)
    return after
