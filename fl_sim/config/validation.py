"""Checks an experiment against its dataset, network and plug-ins before any work."""

import warnings
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from fl_sim.contracts import AggregationRule, Client, Dataset, RoundContext
from fl_sim.core.errors import FieldError, RequestError, RequestWarning, require
from fl_sim.core.flower_strategies import NEED_CLIENTS, find_strategy
from fl_sim.core.flower_types import Strategy
from fl_sim.core.seeding import generator, numpy_generator
from fl_sim.core.serialization import check_classes, label
from fl_sim.data.layout import Layout, Protects
from fl_sim.data.partition import partition_records
from fl_sim.experiment import CLOSED_FORM, Experiment, Model, subset_of
from fl_sim.models.batches import find_batch_norms, min_batch_size
from fl_sim.models.low_rank import find_low_rank
from fl_sim.models.surrogate import find_obstacle
from fl_sim.models.tuning import Network, build_network
from fl_sim.schedule import Schedule, backdoors

NODES = ("min_train_nodes", "min_available_nodes")  # of Flower's strategies


def check(experiment: Experiment) -> None:
    """Raise a `RequestError` for an experiment whose run would certainly fail.

    Raises:
        FieldError: Naming the field, the allowed values and the given one.
        MissingDataError: If the dataset cannot be found.
        MissingWeightsError: If weights cannot be found, naming the missing file.
    """
    check_classes(experiment)
    if experiment.model.warm_start:
        _check_warm_start(experiment)
    data = experiment.data
    dataset = subset_of(data)
    present = len(dataset.train_labels.unique())
    allowed = f"images of at least two classes to train on; {dataset.origin} has {present}"
    require(present >= 2, "data", allowed, str(data.num_samples or data.dataset))
    rng = numpy_generator(experiment.seed, "partition")
    partition, owners = experiment.partition, dataset.train_owners
    named = owners is not None or not partition.needs_owners
    allowed = "ByOwner for datasets that name owners (data.folders or labels.csv); others here"
    require(named, "partition", allowed, type(partition).__name__)
    has_test_owners = dataset.test_owners is not None or not partition.own_test
    allowed = "False, or a dataset that names the owners of test images"
    require(has_test_owners, "partition.own_test", allowed, partition.own_test)
    _check_domains(experiment, dataset)
    _check_robustness(experiment, dataset)
    parts = partition_records(partition, dataset.train_labels, data.num_clients, rng, owners)
    _check_planted(experiment)
    network = network_of(experiment)
    _check_strategy(experiment)
    _check_base(experiment, network.trained)
    _check_root_images(experiment, len(dataset.test_labels))
    Schedule(experiment).check(partial(min_clients_per_round, experiment))
    _check_attacks(experiment, dataset.num_classes)
    _check_clients(experiment, network.trained)
    _check_protection(experiment, dataset)
    _check_single_images(experiment, dataset, parts, network)
    if len(network.frozen):
        _refuse_hidden_images(experiment)
    layout = experiment.layout
    if isinstance(layout, Layout):
        allowed = "below 1 where images are withheld"
        fits = layout.fraction != 1 or not layout.withheld
        require(fits, "layout.fraction", allowed, layout.fraction)


def _check_robustness(experiment: Experiment, dataset: Dataset) -> None:
    """Refuse corruptions that fail on such images, and more attacked images than there are."""
    corruptions, adversarial = experiment.evaluation.corruptions, experiment.evaluation.adversarial
    images, rng = dataset.test_images[:2], generator(0, "corruption")
    for each in corruptions.build() if corruptions else ():
        try:
            with warnings.catch_warnings(action="ignore"):
                each.apply(images, rng)
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            cause = next(iter(str(error).splitlines()), type(error).__name__)
            shape = "{} x {} x {}".format(*images.shape[1:])
            allowed = f"some for images of {shape}, which {each.name()} does not take ({cause})"
            field = "evaluation.corruptions.names"
            raise FieldError(field, allowed, corruptions.names) from None  # type: ignore[union-attr]
    wanted = adversarial.num_images if adversarial else None
    left = len(dataset.test_labels) - experiment.root_samples
    allowed = f"at most the {left} test images, or None for all"
    require(wanted is None or wanted <= left, "evaluation.adversarial.num_images", allowed, wanted)


def _check_domains(experiment: Experiment, dataset: Dataset) -> None:
    """Refuse transforms that need more channels than the images have."""
    channels = dataset.train_images.shape[1]
    for place, each in enumerate(experiment.domains.transforms if experiment.domains else ()):
        name, allowed = type(each).__name__, f"one for images with {channels} channel(s)"
        fits = each.min_channels <= channels
        allowed += f"; {name} needs {each.min_channels}"
        require(fits, f"domains.transforms.{place}", allowed, name)


def _check_single_images(
    experiment: Experiment, dataset: Dataset, parts: list[Int64[Tensor, " _"]], network: Network
) -> None:
    """Refuse batches of one image if the network has batch normalisation."""
    with torch.no_grad():
        example = network.frozen(torch.zeros(1, *dataset.train_images.shape[1:]))
    if min_batch_size(network.trained, example) == 1:
        return
    for path, client in _clients_of(experiment):
        size = client.images_per_step()
        allowed = "at least 2: batch normalisation cannot train on a single image"
        require(size != 1, f"{path}.batch_size", allowed, size)
    for client_number, sample_ids in enumerate(parts):
        counts = dataset.train_labels[sample_ids].bincount()
        held_out = (experiment.data.held_out * counts).floor()
        allowed = (
            f"another network or partition: client {client_number} has one image to train on, "
            "which is too few for batch normalisation"
        )
        require(int((counts - held_out).sum()) != 1, "model", allowed, str(experiment.model))


def network_of(experiment: Experiment) -> Network:
    """Return the network of an experiment, cached and therefore not to be trained.

    Raises:
        FieldError: If the network cannot be built, or does not take the images.
    """
    dataset = subset_of(experiment.data)
    _, channels, height, width = dataset.train_images.shape
    return _build_network(experiment.model, (channels, height, width), dataset.num_classes)


def _check_protection(experiment: Experiment, dataset: Dataset) -> None:
    """Refuse a protection that cannot be made for the images, and warn of weak noise."""
    _, channels, height, width = dataset.train_images.shape
    image_shape, num_images = (channels, height, width), len(dataset.train_labels)
    for place, named in enumerate(experiment.named_clauses):
        known = max(named.classes, default=0) < dataset.num_classes
        allowed = f"some of {dataset.num_classes} classes, from 0"
        require(known, f"layout.{place}.classes", allowed, named.classes)
    for path, protection, clause in experiment.list_protections():
        try:
            cause = find_obstacle(protection, image_shape, dataset.num_classes)
        except FieldError as error:
            raise error.with_prefix(path) from None
        name = type(protection).__name__
        require(not cause, path, f"one that can be made here: {cause}", name)
        num_owners = _count_owners(experiment, clause)
        advice = protection.advice(num_images // num_owners)
        if advice:
            warnings.warn(f"{path}.{advice}", RequestWarning, stacklevel=2)


def _count_owners(experiment: Experiment, clause: Layout | Protects) -> int:
    """Return the number of owners that share all images, and make the noise of a clause."""
    if isinstance(clause, Layout):
        owners = clause.assign_owners(experiment.data.num_clients, experiment.seed)
        return len(owners.unique())
    return 1 if clause.provenance == "shared" else experiment.data.num_clients


@lru_cache(maxsize=2)
def _build_network(model: Model, image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Build the network and run it on one image, since some accept only certain sizes."""
    network = build_network(model, image_shape, num_classes, seed=0)
    network.trained.eval()
    try:
        with torch.no_grad():
            outputs = network.trained(network.frozen(torch.zeros(1, *image_shape)))
    except (RuntimeError, ValueError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        allowed = f"a network for images of {image_shape} at model.pixels {model.pixels} ({cause})"
        raise FieldError("model.backbone", allowed, model.backbone) from None
    fits = outputs.shape == (1, num_classes) and bool(outputs.isfinite().all())
    allowed = f"a network of finite logits (n, {num_classes})"
    require(fits, "model.backbone", allowed, model.backbone)
    return network


def _clients_of(experiment: Experiment) -> list[tuple[str, Client]]:
    """Return every client plug-in of an experiment, wrapped ones too, with its field path."""
    alone = experiment.evaluation.alone
    outer = [("client", experiment.client), *[("evaluation.alone", alone)] * (alone is not None)]
    outer += [("adversary.client", adversary.client) for adversary in experiment.adversaries]
    return [pair for path, client in outer if client is not None for pair in client.walk(path)]


def _check_clients(experiment: Experiment, trained: nn.Module) -> None:
    """Refuse a network that one of the clients cannot train."""
    if experiment.model.tune in CLOSED_FORM:
        _check_statistics(experiment)
    for _, client in _clients_of(experiment):
        cause = client.cannot_train(trained)
        allowed = f"a network that {type(client).__name__} can train: {cause}"
        require(not cause, "model", allowed, str(experiment.model))


def _check_warm_start(experiment: Experiment) -> None:
    """Refuse a first head that cannot be solved, or whose statistics would break a promise."""
    model = experiment.model
    changed = "prompts" if model.tune == "prompt" else "an adapter" if model.adapter else ""
    allowed = f"None with {changed}: its head would be solved on features without them"
    require(not changed, "model.warm_start", allowed, model.warm_start)
    rule, nothing = experiment.strategy, experiment.client.releases(1, {}) is None
    private = not nothing or (isinstance(rule, AggregationRule) and _promises_privacy(rule))
    allowed = "None where noise protects updates: the statistics would leave without any"
    require(not private, "model.warm_start", allowed, model.warm_start)
    fits = not find_batch_norms(network_of(experiment).trained)
    allowed = "None where batch normalisation is trained: its statistics are of no image at first"
    require(fits, "model.warm_start", allowed, model.warm_start)
    alone = experiment.evaluation.alone
    allowed = "None with model.warm_start: the first head is solved from statistics of all clients"
    require(alone is None, "evaluation.alone", allowed, type(alone).__name__)
    check(experiment.closed_form_start())


def _check_statistics(experiment: Experiment) -> None:
    """Refuse a rule that distorts statistics, and attackers that train a head which is solved."""
    tune, rule = experiment.model.tune, experiment.strategy
    assert isinstance(rule, AggregationRule)
    if type(rule).solve is AggregationRule.solve:
        _refuse_unsolved_means(experiment)
    allowed = (
        f"a rule whose step is a mean or a choice of the updates, such as FedAvg or Krum, for "
        f"model.tune={tune}: others distort what all clients agree on"
    )
    require(_keeps_direction(rule), "strategy", allowed, str(label(rule)))
    for adversary in experiment.adversaries:
        parts = adversary.client.rewrap(experiment.client, always=False).walk("adversary.client")
        path, core = list(parts)[-1]
        allowed = f"StatisticsClient at its core for model.tune={tune}, which trains nothing"
        trains = core.sgd_config(1) is not None
        require(not trains, path, allowed, type(core).__name__)


def _refuse_unsolved_means(experiment: Experiment) -> None:
    """Refuse what needs the head of a part of the clients, if the rule solves no mean."""
    evaluation, name = experiment.evaluation, type(experiment.strategy).__name__
    wanted, alone = evaluation.contributions, evaluation.alone
    allowed = f"'none' for {name}: a mean of some updates is measured, which it solves for no head"
    require(wanted == "none", "evaluation.contributions", allowed, wanted)
    allowed = f"None for {name}: its head needs the statistics of several clients"
    require(alone is None, "evaluation.alone", allowed, type(alone).__name__)


def _promises_privacy(rule: AggregationRule) -> bool:
    """Return whether a rule adds noise to its step."""
    try:
        return rule.releases(()) is not None
    except RequestError:  # there is noise, without a guarantee
        return True


def _keeps_direction(rule: AggregationRule) -> bool:
    """Return whether the step for equal updates has their direction; noise is not looked at.

    Adaptive rules, such as FedAdam, divide each coordinate by its own size.
    """
    if _promises_privacy(rule):
        return True
    count = max(rule.min_updates, 3)
    updates = torch.logspace(-2, 2, 50, dtype=torch.float64).expand(count, -1).contiguous()
    context = replace(RoundContext.anonymous(count), reference=updates[0])
    weights = torch.ones(count, dtype=torch.float64)
    step = rule.decide(rule.initial_state(updates.shape[1]), updates, weights, context).step
    return float(torch.cosine_similarity(step, updates[0], dim=0)) > 0.9


def _refuse_hidden_images(experiment: Experiment) -> None:
    """Refuse plug-ins that change images in training if clients are given cached features."""
    tune = experiment.model.tune
    for path, client in _clients_of(experiment):
        name = type(client).__name__
        allowed = f"'full', so that {name} meets images: it needs them in training"
        require(not client.needs_images, "model.tune", allowed, tune)
        elsewhere = path.startswith("evaluation.alone") or (
            path.startswith("client") and experiment.root_samples > 0
        )
        allowed = f"'full', so that {name} meets images: its changes are made for clients alone"
        require(not (elsewhere and client.changes_images), "model.tune", allowed, tune)
        allowed = (
            "none where a part of the network is frozen, since they change images anew in each "
            "round; set model.tune=full"
        )
        countermeasures = [type(each).__name__ for each in client.applied_countermeasures()]
        require(not countermeasures, f"{path}.countermeasures", allowed, countermeasures)


def _check_strategy(experiment: Experiment) -> None:
    """Refuse a strategy that cannot aggregate the experiment's number of clients."""
    strategy, count = experiment.strategy, experiment.clients_per_round
    if experiment.participation.sampling == "poisson":
        name = type(strategy).__name__
        allowed = f"'fixed' for {name}: of clients drawn one by one, only one may come"
        wanted = min_clients(strategy)
        require(wanted <= 1, "participation.sampling", allowed, "poisson")
    if isinstance(strategy, Strategy):
        name, allowed = type(strategy).__name__, "one that needs no code in its clients"
        require(name not in NEED_CLIENTS, "strategy", allowed, name)
        _check_counts(strategy, count)
    else:
        last, rounds = strategy.first_rounds[-1], experiment.rounds
        require(last <= rounds, "strategy", f"stages within rounds = {rounds}", f"round {last}")
        for first in strategy.first_rounds:
            _check_num_updates(experiment, strategy.at_round(first), count)
    fewest = experiment.failures.min_updates
    require(fewest <= count, "failures.min_updates", f"at most {count} clients a round", fewest)


def _check_num_updates(experiment: Experiment, rule: AggregationRule, count: int) -> None:
    """Refuse a rule that needs more clients than there are in a round, or takes fewer."""
    if rule.min_updates > count:
        allowed = f"{_describe_rule(rule)} needs {_describe_min_updates(rule)}"
        raise FieldError(_count_field(experiment), allowed, count)
    if rule.max_updates is not None and rule.max_updates < count:
        allowed = f"at most {rule.max_updates} clients a round for {_describe_rule(rule)}"
        reason = "it looks at every subset of them"
        raise FieldError(_count_field(experiment), f"{allowed}: {reason}", count)


def _check_base(experiment: Experiment, trained: nn.Module) -> None:
    """Refuse a rule that changes frozen weights where it is wrapped, or where there are none."""
    rule: Any = experiment.strategy
    path, name = "strategy", type(rule).__name__
    if getattr(rule, "changes_base", False):
        found = any(layer.down.requires_grad for layer in find_low_rank(trained).values())
        allowed = (
            f"'lora', with model.lora_train='both', for {name}, which adds the product of both "
            "trained factors to the frozen weights"
        )
        require(found, "model.tune", allowed, str(experiment.model))
        wanted = experiment.evaluation.contributions
        allowed = f"'none' for {name}: contributions are measured without changes of frozen weights"
        require(wanted == "none", "evaluation.contributions", allowed, wanted)
    while isinstance(rule := getattr(rule, "rule", None), AggregationRule):
        path, allowed = (
            f"{path}.rule",
            "one that does not change frozen weights; set it as strategy",
        )
        require(not rule.changes_base, path, allowed, type(rule).__name__)
        allowed = "one that does not change with the round; set it as strategy, around others"
        require(rule.first_rounds == (1,), path, allowed, type(rule).__name__)


def _count_field(experiment: Experiment) -> str:
    """Return the field that sets the number of clients per round."""
    sampled = experiment.participation.clients_per_round is not None
    return "participation.clients_per_round" if sampled else "data.num_clients"


def _describe_rule(rule: AggregationRule) -> str:
    """Return the label of a rule, with the number of attackers it tolerates if there is one."""
    words = str(label(rule))
    number = rule.num_attackers()
    if number is None or "num_byzantine" in words:
        return words
    rest = words.partition("(")[2]
    return f"{type(rule).__name__}(num_byzantine={number}{f', {rest}' if rest else ')'}"


def _describe_min_updates(rule: AggregationRule) -> str:
    """Describe the clients a rule needs, as a formula in its f attackers if one holds."""
    needed = rule.min_updates
    number = rule.num_attackers()
    if number is None:
        return f"{needed} clients"
    counts = [rule.with_num_attackers(number + more).min_updates for more in range(4)]
    steps = {after - before for before, after in pairwise(counts)}
    if len(steps) > 1 or steps == {0}:
        return f"{needed} clients"
    slope = steps.pop()
    rest = needed - slope * number
    return f"{slope if slope > 1 else ''}f{rest:+d} = {needed} clients".replace("+0 ", " ")


def min_clients_per_round(experiment: Experiment, round_num: int | None = None) -> int:
    """Return the fewest clients with which a round can be aggregated; None: any round."""
    rule = experiment.strategy
    if isinstance(rule, AggregationRule) and round_num is not None:
        rule = rule.at_round(round_num)
    return max(experiment.failures.min_updates, min_clients(rule))


def _check_counts(strategy: Strategy, count: int) -> None:
    """Refuse a strategy of Flower's that needs more clients than there are."""
    for name in (*NODES, "num_nodes_to_select", "num_sampled_clients"):
        wanted = getattr(strategy, name, 0)
        require(wanted <= count, f"strategy.{name}", f"at most {count} clients a round", wanted)
    attackers = getattr(strategy, "num_malicious_nodes", 0)
    # Krum scores a client by its n - f - 2 nearest; Bulyan leaves 2f out, twice.
    most = (count - 3) // 4 if isinstance(strategy, find_strategy("Bulyan")) else count - 3
    allowed = f"at most {max(most, 0)} of {count} clients a round"
    require(attackers <= max(most, 0), "strategy.num_malicious_nodes", allowed, attackers)
    inner = getattr(strategy, "strategy", None)
    if isinstance(inner, Strategy):
        _check_counts(inner, count)


def _check_root_images(experiment: Experiment, num_test: int) -> None:
    """Refuse a rule whose root images, taken from the test set, would leave no test image."""
    taken = experiment.root_samples
    name = str(label(experiment.strategy))
    allowed = f"above the {taken} root images that strategy {name} takes out of the test images"
    require(taken < num_test, "data.num_test", allowed, num_test)


def min_clients(strategy: AggregationRule | Strategy) -> int:
    """Return the fewest clients with which a strategy can aggregate a round."""
    if isinstance(strategy, AggregationRule):
        return strategy.min_updates
    inner = getattr(strategy, "strategy", None)
    counts = [int(getattr(strategy, name, 0)) for name in NODES]
    return max([*counts, min_clients(inner)] if isinstance(inner, Strategy) else counts)


def _check_attacks(experiment: Experiment, num_classes: int) -> None:
    """Refuse classes that do not exist, and more than one backdoor, which cannot be measured."""
    clients = [pair for a in experiment.adversaries for pair in a.client.walk("adversary.client")]
    for path, client in clients:
        for name, wanted in client.named_classes().items():
            allowed = f"one of {num_classes} classes, from 0"
            require(wanted < num_classes, f"{path}.{name}", allowed, wanted)
    recipe = experiment.model.planted
    for name, wanted in recipe.named_classes().items() if recipe else ():
        allowed = f"one of {num_classes} classes, from 0"
        require(wanted < num_classes, f"model.planted.{name}", allowed, wanted)
    planted = backdoors(experiment)
    require(len(planted) <= 1, "adversary", "at most one trigger and target", planted)


def _check_planted(experiment: Experiment) -> None:
    """Refuse a recipe that is not used, or that has no images to train on."""
    model, data = experiment.model, experiment.data
    if model.planted is None:
        return
    used = model.init == "planted"
    require(used, "model.planted", "None unless model.init is 'planted'", label(model.planted))
    has_images = model.planted.dataset is not None or data.num_samples is not None
    allowed = "a number, so that images are left for model.planted, or model.planted.dataset"
    require(has_images, "data.num_samples", allowed, data.num_samples)
