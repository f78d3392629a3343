"""Prepares a run: data, partition, protection and the initial model."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from fl_sim.contracts import AggregationRule, Client, Corruption, Dataset, Draw, Metric, Shard
from fl_sim.core import serialization, user_modules
from fl_sim.core.cache import digest
from fl_sim.core.device import CPU, current_device, move
from fl_sim.core.errors import require
from fl_sim.core.literals import Precision
from fl_sim.core.plugins import discover_own
from fl_sim.core.precision import current_precision
from fl_sim.core.seeding import generator
from fl_sim.data.domain_shift import assign_domains
from fl_sim.data.sources import find_source, hash_dataset, load_dataset
from fl_sim.experiment import CLOSED_FORM, Experiment, subset_of
from fl_sim.federation.pool import Noise, Pool, add_noise, make_pool, rank_in_strata, sort_by_round
from fl_sim.federation.shards import ClientShards, assign_attacker_rows
from fl_sim.models import parameters
from fl_sim.models.architectures import to_channels_last
from fl_sim.models.backbones import PIXELS
from fl_sim.models.features import extract_features, to_trainable
from fl_sim.models.foundation import Rescale, hash_code, hash_model, hash_networks
from fl_sim.models.low_rank import send_base
from fl_sim.models.planting import hash_state, plant
from fl_sim.models.tuning import build_network, calibrate
from fl_sim.schedule import Schedule, backdoors

SERVER = -1  # client id of a server that trains on images of its own
CHANGES = {  # of the files of a run, by the name of their hash: see `hash_files`
    "data_sha256": "of other data: the dataset changed since",
    "planted_data_sha256": "of another start: the images of model.planted changed since",
    "model_sha256": "of another network: its weights or code changed since",
    "protection_sha256": "of another protection: the files of its network changed since",
    "plugins_sha256": "of other plug-ins, or other code of them",
}


@dataclass(frozen=True, eq=False)
class Federation:
    """A run before its first round: data only, which no round changes.

    Attributes:
        experiment: The experiment.
        dataset: Its images.
        pool: The records of all clients.
        inputs: Inputs of all records, images or cached features, with noise on protected ones.
        clean_inputs: The same without noise.
        test_inputs: Inputs of the test set.
        model: The trained part of the network; load parameters and buffers before using it.
        start: Parameters before the first round.
        start_buffers: Buffers before the first round.
        trained: Boolean mask of the records that are trained on.
        root: Records that the server holds, or None.
        hashes: Hashes of the files that data and network are read from, see `hash_files`, and
            `planted_sha256` of a planted start.
        frozen: The part of the network before `model`, which is not trained; empty if all of it is.
        frozen_id: Identifier of the weights and settings of `frozen`.
        noise: Inputs with the noise of each clause `Protects`; empty for a `Layout`.
        device: Device of `model`, `frozen` and `shards`; all else is on the CPU.
    """

    experiment: Experiment
    dataset: Dataset
    pool: Pool
    inputs: Shaped[Tensor, "n ..."]
    clean_inputs: Shaped[Tensor, "n ..."]
    test_inputs: Shaped[Tensor, "t ..."]
    model: nn.Sequential
    start: Float[Tensor, " p"]
    start_buffers: dict[str, Tensor]
    trained: Bool[Tensor, " n"]
    root: Shard | None
    hashes: dict[str, str] = field(default_factory=dict)
    frozen: nn.Sequential = field(default_factory=nn.Sequential)
    frozen_id: str = ""
    noise: tuple[Noise, ...] = ()
    device: torch.device = CPU

    def compute_inputs(self, images: UInt8[Tensor, "n c h w"]) -> Shaped[Tensor, "n ..."]:
        """Return the inputs of `model` for images: their features, cached, or the images."""
        return compute_inputs(self.frozen, self.frozen_id, images)

    @cached_property
    def shards(self) -> ClientShards:
        """The records of each client, as views of the federation's tensors."""
        rows = self.trained.nonzero().squeeze(1)
        holders = self.pool.clients[rows]
        counts = holders.bincount(minlength=self.experiment.data.num_clients).tolist()
        owners = list(rows[holders.argsort(stable=True)].split(counts))
        schedule = Schedule(self.experiment)
        shards = ClientShards(
            schedule=schedule,
            inputs=self.inputs,
            clean_inputs=self.clean_inputs,
            labels=self.pool.labels,
            protected=self.pool.protected,
            owners=owners + assign_attacker_rows(schedule, owners),
            num_classes=self.dataset.num_classes,
            noise=self.noise,
        )
        shards = replace(shards, changed_inputs=self._change_inputs(shards))
        return shards if self.device == CPU else move(shards, self.device)

    def _change_inputs(
        self, shards: ClientShards
    ) -> dict[tuple[int, Client, tuple[int, ...]], Shaped[Tensor, "_ ..."]]:
        """Return the features of images that clients change; none if they are given images."""
        if not len(self.frozen):
            return {}
        changed_inputs = {}
        mixed: dict[tuple[int, ...], UInt8[Tensor, "n c h w"]] = {}  # of the latest clauses alone
        for key, round_num in shards.schedule.find_image_changes().items():
            client, behaviour, active = key
            shard = shards.shard(client, round_num)
            rows = shard.sample_ids
            if active not in mixed:
                mixed = {active: self.pool.find_images(active)}
            images = mixed[active][rows]
            changed = images
            for _, part in behaviour.walk(""):
                changed = part.change_images(changed, shard)
            differs = (changed != images).flatten(1).any(1)
            inputs = shards.round_inputs(round_num)[rows]
            if bool(differs.any()):
                inputs[differs] = self.compute_inputs(changed[differs])
            changed_inputs[key] = inputs
        return changed_inputs

    @property
    def schedule(self) -> Schedule:
        """The behaviour of each client in each round."""
        return self.shards.schedule

    def shard(self, client: int, round_num: int = 1) -> Shard:
        """Return the records that `client` trains on in a round."""
        return self.shards.shard(client, round_num)

    @cached_property
    def clients_with_data(self) -> list[int]:
        """The clients that have any records to train on."""
        return [client for client, size in enumerate(self.shards.sizes) if size]

    @cached_property
    def draws(self) -> tuple[Draw, ...]:
        """The draw of the clients of each round, from the first to the last."""
        numbers = range(1, self.experiment.rounds + 1)
        return tuple(self.schedule.describe_draw(i, self.clients_with_data) for i in numbers)

    @cached_property
    def max_clients_per_round(self) -> int:
        """The largest number of clients chosen in any round."""
        if self.experiment.participation.sampling == "fixed":
            return self.experiment.clients_per_round
        numbers, schedule = range(1, self.experiment.rounds + 1), self.schedule
        return max(len(schedule.choose_clients(i, self.clients_with_data)) for i in numbers)

    @cached_property
    def evaluation_inputs(self) -> dict[str, Tensor]:
        """The inputs that the global model is scored on, by name."""
        inputs = {"test": self.test_inputs, "pool": self.inputs[self.pool.audited]}
        inputs |= dict(zip(self.domain_names, self.domain_inputs, strict=True))
        for trigger, _ in backdoors(self.experiment):
            inputs["triggered"] = self.compute_inputs(trigger.stamp(self.dataset.test_images))
        return inputs

    @cached_property
    def domains(self) -> Int64[Tensor, " k"] | None:
        """The domain of each client, or None without a domain shift."""
        shift, holders = self.experiment.domains, self.experiment.data.num_clients
        if shift is None:
            return None
        return assign_domains(self.num_clients, shift.count_domains(holders))

    @cached_property
    def test_clients(self) -> Int64[Tensor, " t"] | None:
        """The client that owns each test image, or -1; None if clients share the test set."""
        train_owners, test_owners = self.dataset.train_owners, self.dataset.test_owners
        if not self.experiment.partition.own_test or train_owners is None or test_owners is None:
            return None
        clients = torch.full((len(self.dataset.owner_names) + 1,), -1)  # the last is of no owner
        clients[train_owners] = self.pool.clients
        return clients[test_owners]

    @property
    def domain_names(self) -> list[str]:
        """The name of each domain's test set in `evaluation_inputs`."""
        shift = self.experiment.domains
        if shift is None:
            return []
        names = [
            f"domain {i}" for i in range(shift.count_domains(self.experiment.data.num_clients))
        ]
        return ["test", *names[1:]] if shift.keep_first else names

    @cached_property
    def domain_inputs(self) -> list[Shaped[Tensor, "t ..."]]:
        """The inputs of the test set as each domain has it."""
        shift, images = self.experiment.domains, self.dataset.test_images
        if shift is None:
            return []
        return [
            self.test_inputs
            if name == "test"
            else self.compute_inputs(shift.apply(images, domain, self.experiment.seed))
            for domain, name in enumerate(self.domain_names)
        ]

    def find_test_inputs(self, client: int) -> Shaped[Tensor, "t ..."]:
        """Return the inputs of the test set as the domain of a client has it."""
        return (
            self.test_inputs if self.domains is None else self.domain_inputs[self.domains[client]]
        )

    @cached_property
    def class_counts(self) -> Int64[Tensor, "k y"]:
        """The number of records per client and class."""
        num_classes = self.dataset.num_classes
        cells = self.pool.clients * num_classes + self.pool.labels
        counts = cells.bincount(minlength=self.num_clients * num_classes)
        return counts.view(self.num_clients, num_classes)

    @cached_property
    def protected_counts(self) -> Int64[Tensor, " k"]:
        """The number of protected records per client."""
        return self.pool.clients[self.pool.protected].bincount(minlength=self.num_clients)

    def count_protected(self, round_num: int) -> Int64[Tensor, " k"]:
        """Return the number of protected records per client, in a round if clauses name rounds."""
        if not self.noise:
            return self.protected_counts
        noisy = self.shards.round_protected(round_num)
        return self.pool.clients[noisy].bincount(minlength=self.num_clients)

    @property
    def num_clients(self) -> int:
        """The number of clients, including attackers without images."""
        return self.experiment.num_clients


def load_federation(text: str) -> Federation:
    """Return the federation of an experiment given as JSON.

    It is prepared once per process, device and precision, and again if the files of its dataset
    have changed.
    """
    experiment = Experiment.from_json(text)
    content = hash_dataset(experiment.data.dataset, experiment.data.path)
    hashes = tuple(hash_files(experiment).items())
    return _cached_federation(text, content, hashes, current_device(), current_precision())


@lru_cache(maxsize=2)
def _cached_federation(
    text: str,
    content: str,
    hashes: tuple[tuple[str, str], ...],
    device: torch.device,
    precision: Precision,
) -> Federation:
    federation = prepare_federation(Experiment.from_json(text))
    return replace(federation, hashes=federation.hashes | dict(hashes))


def hash_files(experiment: Experiment) -> dict[str, str]:
    """Return hashes of the files that data and network are read from, by field of the result.

    `data_sha256` is of the user's own images, and missing for a built-in dataset. `model_sha256`
    is of pretrained weights, of a checkpoint, of an adapter, or of the user's own code of a
    network, and missing if there is none of them; `protection_sha256` is the same of the networks
    that noise is made with. `planted_data_sha256` is of the images of `model.planted`, if they are
    another dataset. `plugins_sha256` has a hash for each of the user's own modules whose plug-ins
    take part, and is missing if there is none.
    """
    data, model = experiment.data, experiment.model
    adapter = model.hash_adapter() if model.adapter else ""
    recipe = model.planted
    planted = hash_dataset(recipe.dataset, recipe.path) if recipe and recipe.dataset else ""
    noise = [hash_networks(protection) for _, protection, _ in experiment.list_protections()]
    hashes = {
        "data_sha256": "" if data.path is None else hash_dataset(data.dataset, data.path),
        "planted_data_sha256": planted,
        "model_sha256": " ".join(filter(None, [hash_model(model), adapter])),
        "protection_sha256": " ".join(filter(None, dict.fromkeys(noise))),
        "plugins_sha256": user_modules.hash_modules(_list_own_modules(experiment)),
    }
    return {name: sha256 for name, sha256 in hashes.items() if sha256}


def find_change(
    stored: Mapping[str, str], hashes: Mapping[str, str], names: Collection[str] = tuple(CHANGES)
) -> str:
    """Return the name of the first hash that differs from the stored one, or an empty string.

    A hash that an earlier version did not store is not compared, but for that of plug-ins.
    """
    for name in names:
        now = hashes.get(name, "")
        if stored.get(name, "" if name == "plugins_sha256" else now) != now:
            return name
    return ""


def _list_own_modules(experiment: Experiment) -> set[str]:
    """Return the modules of plug-ins that take part in an experiment, among them the user's own."""
    named: list[type] = [type(find_source(experiment.data.dataset))]
    named += discover_own(Metric)  # type: ignore[type-abstract]
    if experiment.evaluation.corruptions is not None:
        named += discover_own(Corruption)  # type: ignore[type-abstract]
    return serialization.list_modules(experiment) | {cls.__module__ for cls in named}


def load_experiment_dataset(experiment: Experiment) -> Dataset:
    """Return the dataset of an experiment, reduced to its classes and sizes."""
    return subset_of(experiment.data)


def prepare_federation(experiment: Experiment) -> Federation:
    """Load the data, split and protect it, and build the initial model.

    Raises:
        RequestError: If the experiment cannot be run as it stands; nothing has been written.
    """
    seed, dataset = experiment.seed, load_experiment_dataset(experiment)
    pool = make_pool(experiment, dataset)
    shape, planted = _image_shape(dataset), experiment.model.init == "planted"
    state = plant(experiment.model, experiment.data, shape, seed) if planted else None
    hashes = {} if state is None else {"planted_sha256": hash_state(state)}
    network = build_network(experiment.model, shape, dataset.num_classes, seed, state)
    frozen, frozen_id = network.frozen, ""
    if len(frozen):
        to_channels_last(frozen)
        frozen_id = _identify_front(experiment, dataset, frozen, hashes.get("planted_sha256"))
        frozen.to(current_device())
    clean, test = (
        compute_inputs(frozen, frozen_id, images)
        for images in (pool.clean_images, dataset.test_images)
    )
    inputs = clean
    noise = tuple(
        replace(layer, values=compute_inputs(frozen, frozen_id, layer.values))
        for layer in pool.noise
    )
    if noise:
        inputs = add_noise(clean, sort_by_round(experiment, noise))
    elif pool.noisy_images is not pool.clean_images:
        # Clean and noisy features are cached separately and mixed by mask, so that the cache does
        # not depend on the choice of the protected records.
        noisy = compute_inputs(frozen, frozen_id, pool.noisy_images)
        inputs = _mix_by_mask(pool.protected, noisy, clean)
    root, dataset, test = _split_root_images(experiment, dataset, test)
    withheld = experiment.withholds_images & pool.protected
    trained = pool.members & ~withheld
    require(bool(trained.any()), "layout.fraction", "below 1 where images are withheld", 1.0)
    # Heads that are solved or given are not trained, and the scores of classes are close.
    if experiment.model.tune not in (*CLOSED_FORM, "zero_shot"):
        network.trained.precision = current_precision()
    model, rule = to_channels_last(network.trained), experiment.strategy
    if isinstance(rule, AggregationRule) and rule.changes_base:
        send_base(model)
    start = parameters.flatten(model)
    start_buffers = parameters.copy_buffers(model) | parameters.copy_base(model)
    return Federation(
        experiment=experiment,
        dataset=dataset,
        pool=pool,
        inputs=inputs,
        clean_inputs=clean,
        test_inputs=test,
        model=model.to(current_device()),
        start=start,
        start_buffers=start_buffers,
        trained=trained,
        root=root,
        hashes=hashes,
        frozen=frozen,
        frozen_id=frozen_id,
        noise=noise,
        device=current_device(),
    )


def build_start(experiment: Experiment) -> nn.Sequential:
    """Return the whole network with a planted start, before any part of it is replaced."""
    dataset, model = load_experiment_dataset(experiment), experiment.model
    shape, seed = _image_shape(dataset), experiment.seed
    state = plant(model, experiment.data, shape, seed)
    full = replace(model, tune="full")
    return build_network(full, shape, dataset.num_classes, seed, state).trained.to(current_device())


def compute_inputs(
    frozen: nn.Sequential, frozen_id: str, images: UInt8[Tensor, "n c h w"]
) -> Shaped[Tensor, "n ..."]:
    """Return the features of images from a frozen front, cached; the images if it is empty."""
    return extract_features(frozen, frozen_id, images) if len(frozen) else images


def _split_root_images(
    experiment: Experiment, dataset: Dataset, test_inputs: Shaped[Tensor, "t ..."]
) -> tuple[Shard | None, Dataset, Shaped[Tensor, "u ..."]]:
    """Move the clean images that the server's rule needs, if any, out of the test set."""
    count = experiment.root_samples
    if not count:
        return None, dataset, test_inputs
    labels = dataset.test_labels
    rank, _ = rank_in_strata(labels, generator(experiment.seed, "root"))
    order = rank.argsort(stable=True)
    held, left = order[:count].sort().values, order[count:].sort().values
    inputs = to_trainable(test_inputs[held])
    root = Shard(SERVER, inputs, labels[held], held, dataset.num_classes)
    owners = dataset.test_owners
    rest = replace(
        dataset,
        test_images=dataset.test_images[left],
        test_labels=labels[left],
        test_owners=owners if owners is None else owners[left],
    )
    return root, rest, test_inputs[left]


def _mix_by_mask(
    mask: Bool[Tensor, " n"], noisy: Shaped[Tensor, "n ..."], clean: Shaped[Tensor, "n ..."]
) -> Shaped[Tensor, "n ..."]:
    return torch.where(mask.view(-1, *[1] * (clean.dim() - 1)), noisy, clean)


def _identify_front(
    experiment: Experiment,
    dataset: Dataset,
    frozen: nn.Sequential,
    planted: str | None,
) -> str:
    """Return an identifier of all that the output depends on; calibrate a random front."""
    model, seed = experiment.model, experiment.seed
    same = model.tune in (*CLOSED_FORM, "zero_shot")
    tune = "head" if same else model.tune  # the front is the same
    name = f"{model.backbone} {tune} {model.norm} {model.pixels} {_image_shape(dataset)}"
    if tune != "head":
        name += f" {len(frozen)} stages"
    first = frozen[0]
    if isinstance(first, Rescale) and first.pixels not in (PIXELS, model.pixels):
        name += f" side {first.pixels}"
    code = hash_code(model)
    if code:  # a function of the user's may build any network for a number of classes
        name += f" {dataset.num_classes} classes"
    if planted is not None:
        return " ".join(filter(None, [name, "planted", planted, code]))
    weights = hash_model(model)
    if model.init != "random":
        return f"{name} {weights}"
    data = experiment.data
    published = load_dataset(data.dataset, data.path, data.read_options).train_images
    some = calibrate(frozen, published)
    start = digest(*(value.float() for value in frozen.state_dict().values()))
    return " ".join([f"{name} random {seed} {digest(some)} {start}", *filter(None, [weights])])


def _image_shape(dataset: Dataset) -> tuple[int, int, int]:
    _, channels, height, width = dataset.train_images.shape
    return channels, height, width
