"""Everything that can be wrong with a request, found before any work is done."""

from functools import lru_cache

import torch
from flwr.serverapp.strategy import Strategy
from torch import nn

from fl_sim.contracts import AggregationRule
from fl_sim.data.partition import shares
from fl_sim.data.sources import load_subset
from fl_sim.errors import FieldError, require
from fl_sim.experiment import Experiment, Model
from fl_sim.flower_strategies import NEED_CLIENTS
from fl_sim.models.tuning import Network, build
from fl_sim.schedule import Schedule, backdoors, layers
from fl_sim.seeding import numpy_generator


def check(experiment: Experiment) -> None:
    """Raise a `RequestError` for what would make the run fail for sure.

    Raises:
        FieldError: naming the field, what is allowed, and what came.
        MissingDataError: where the dataset is nowhere to be had.
        MissingWeightsError: naming the file to fill.
    """
    data = experiment.data
    dataset = load_subset(data.dataset, data.path, data.num_samples, data.num_test, data.classes)
    rng = numpy_generator(experiment.seed, "partition")
    shares(experiment.partition, dataset.train_labels, data.num_clients, rng)
    shape = dataset.train_images.shape
    image_shape = (shape[1], shape[2], shape[3])
    network = _checked_network(experiment.model, image_shape, dataset.num_classes)
    _check_strategy(experiment)
    Schedule(experiment).check()
    _check_attacks(experiment, dataset.num_classes)
    _check_clients(experiment, network.trained)
    if len(network.frozen):
        _refuse_hidden_images(experiment)
    layout = experiment.layout
    require(
        not (layout.withheld and layout.fraction == 1),
        "layout.fraction",
        "below 1 where images are withheld",
        layout.fraction,
    )


@lru_cache(maxsize=2)
def _checked_network(model: Model, image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Build the network and show it one image: some take only certain sizes."""
    network = build(model, image_shape, num_classes, seed=0)
    network.trained.eval()
    try:
        network.trained(network.frozen(torch.zeros(1, *image_shape)))
    except (RuntimeError, ValueError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        allowed = f"a network for images of {image_shape} at model.pixels {model.pixels} ({cause})"
        raise FieldError("model.backbone", allowed, model.backbone) from None
    return network


def _check_clients(experiment: Experiment, trained: nn.Module) -> None:
    """Refuse a network that some client cannot train."""
    for client in (experiment.client, *(own.client for own in experiment.adversaries)):
        cause = client.cannot_train(trained)
        allowed = f"a network that {type(client).__name__} can train: {cause}"
        require(not cause, "model", allowed, str(experiment.model))


def _refuse_hidden_images(experiment: Experiment) -> None:
    """Refuse what needs images where clients only see cached features."""
    tune = experiment.model.tune
    clients = (experiment.client, *(own.client for own in experiment.adversaries))
    for client in (part for whole in clients for part in layers(whole)):
        allowed = f"'full', so that {type(client).__name__} meets images"
        require(not client.needs_images, "model.tune", allowed, tune)
        asked = getattr(client, "countermeasures", ())
        allowed = "none where a part of the network is frozen; set model.tune=full"
        require(not asked, "client.countermeasures", allowed, [type(own).__name__ for own in asked])


def _check_strategy(experiment: Experiment) -> None:
    count, name = experiment.clients_per_round, type(experiment.strategy).__name__
    if experiment.participation.sampling == "poisson":
        count = 1
        allowed = f"'fixed' for {name}: of clients drawn one by one, only one may come"
        wanted = fewest_clients(experiment.strategy)
        require(wanted <= 1, "participation.sampling", allowed, "poisson")
    if not isinstance(experiment.strategy, Strategy):
        needed = experiment.strategy.min_updates
        if needed > count:
            allowed = f"at least {needed} clients a round for {name}"
            raise FieldError("participation.clients_per_round", allowed, count)
        return
    _refuse_client_halves(experiment.strategy)
    for name in ("min_train_nodes", "min_available_nodes"):
        wanted = getattr(experiment.strategy, name, 0)
        require(wanted <= count, f"strategy.{name}", f"at most {count} clients a round", wanted)


def fewest_clients(strategy: AggregationRule | Strategy) -> int:
    """Return the fewest clients with which a round of a strategy can be played."""
    if isinstance(strategy, AggregationRule):
        return strategy.min_updates
    inner = getattr(strategy, "strategy", None)
    own = [int(getattr(strategy, name, 0)) for name in ("min_train_nodes", "min_available_nodes")]
    return max([*own, fewest_clients(inner)] if isinstance(inner, Strategy) else own)


def _refuse_client_halves(strategy: Strategy) -> None:
    """Refuse strategies whose other half would have to run in the clients."""
    name = type(strategy).__name__
    if name in NEED_CLIENTS:
        allowed = "one that needs nothing of its clients, such as server-side clipping"
        raise FieldError("strategy", allowed, name)


def _check_attacks(experiment: Experiment, num_classes: int) -> None:
    """Refuse classes that do not exist, and backdoors that could not work or be measured."""
    for part in (part for a in experiment.adversaries for part in layers(a.client)):
        for name in ("source", "target"):
            wanted = getattr(part, name, 0)
            allowed = f"one of {num_classes} classes, from 0"
            require(wanted < num_classes, f"adversary.client.{name}", allowed, wanted)
    found = backdoors(experiment)
    require(len(found) <= 1, "adversary", "at most one trigger and target", found)
