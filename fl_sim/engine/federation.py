"""Steps 2 to 5 of a run: data, partition, protection, and the network they meet."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from fl_sim.cache import cached, digest
from fl_sim.contracts import Dataset, Protection, Shard
from fl_sim.data.partition import shares
from fl_sim.data.sources import load_subset
from fl_sim.description import describe
from fl_sim.engine.orders import Order, Task
from fl_sim.engine.workshop import Workshop
from fl_sim.errors import require
from fl_sim.experiment import Experiment
from fl_sim.models import parameters
from fl_sim.models.architectures import channels_last
from fl_sim.models.features import features
from fl_sim.models.foundation import weights_digest
from fl_sim.models.tuning import build, calibrate
from fl_sim.perturbation import as_pixels
from fl_sim.schedule import Schedule, backdoors
from fl_sim.seeding import generator, numpy_generator

SERVER = -1  # the server, where it trains on images of its own
CALIBRATION = 1024  # images that set the statistics of a random, frozen front


@dataclass(frozen=True, eq=False)
class Pool:
    """Every record that any client holds, in order of sample id, and who is who.

    `noisy_images` holds every image as its protection would have it; which of them are
    published so, `protected` says.
    """

    clean_images: UInt8[Tensor, "n c h w"]
    noisy_images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    clients: Int64[Tensor, " n"]
    members: Bool[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    audited: Bool[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Federation:
    """A run before its first round: the pool, what the network sees of it, and the network.

    `model` is a workbench: whoever uses it loads parameters and buffers first. Those of the
    first round are `start` and `start_buffers`.
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

    @cached_property
    def workshop(self) -> Workshop:
        """Where the clients are trained; it shares the network and the inputs."""
        owners = [
            (self.trained & (self.pool.clients == client)).nonzero().squeeze(1)
            for client in range(self.num_clients)
        ]
        return Workshop(
            schedule=Schedule(self.experiment),
            model=self.model,
            inputs=self.inputs,
            clean_inputs=self.clean_inputs,
            labels=self.pool.labels,
            owners=owners,
            num_classes=self.dataset.num_classes,
        )

    def shard(self, client: int, number: int = 1) -> Shard:
        """Return what `client` trains on in a round."""
        return self.workshop.shard(client, number)

    @cached_property
    def able(self) -> list[int]:
        """The clients that have anything to train on."""
        return [client for client, size in enumerate(self.workshop.sizes) if size]

    @cached_property
    def examined(self) -> dict[str, Tensor]:
        """The inputs that the global model is scored on, by name."""
        found = {"test": self.test_inputs, "pool": self.inputs[self.pool.audited]}
        for trigger, _ in backdoors(self.experiment):
            found["triggered"] = trigger.stamped(self.dataset.test_images)
        return found

    def root_update(self, order: Order) -> Float[Tensor, " p"] | None:
        """Return the server's own update on its root images; None where the rule has none."""
        if self.root is None:
            return None
        task, client = Task(SERVER), self.experiment.client
        update, _ = self.workshop.trained(order, task, client, self.root)
        return update.delta

    @cached_property
    def class_counts(self) -> Int64[Tensor, "k y"]:
        """How many records of each class each client holds."""
        num_classes = self.dataset.num_classes
        cells = self.pool.clients * num_classes + self.pool.labels
        counts = cells.bincount(minlength=self.num_clients * num_classes)
        return counts.view(self.num_clients, num_classes)

    @cached_property
    def protected_counts(self) -> Int64[Tensor, " k"]:
        """How many records of each client are protected."""
        return self.pool.clients[self.pool.protected].bincount(minlength=self.num_clients)

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return self.experiment.data.num_clients


@lru_cache(maxsize=2)
def federation(text: str) -> Federation:
    """Return the federation of an experiment given as JSON, prepared once a process."""
    return prepare(Experiment.from_json(text))


def prepare(experiment: Experiment) -> Federation:
    """Load, share out, protect, and build.

    Raises:
        RequestError: for what the request gets wrong; nothing has been written by then.
    """
    seed, data = experiment.seed, experiment.data
    dataset = load_subset(data.dataset, data.path, data.num_samples, data.num_test, data.classes)
    pool = _pool(experiment, dataset)
    network = build(experiment.model, _shape(dataset), dataset.num_classes, seed)
    inputs, clean, test = _seen(experiment, dataset, pool, network.frozen)
    root, dataset, test = _set_aside(experiment, dataset, test)
    withheld = experiment.layout.withheld & pool.protected
    trained = pool.members & ~withheld
    require(bool(trained.any()), "layout.fraction", "below 1 where images are withheld", 1.0)
    model = channels_last(network.trained)
    return Federation(
        experiment=experiment,
        dataset=dataset,
        pool=pool,
        inputs=inputs,
        clean_inputs=clean,
        test_inputs=test,
        model=model,
        start=parameters.flat(model),
        start_buffers=parameters.buffers(model),
        trained=trained,
        root=root,
    )


def _pool(experiment: Experiment, dataset: Dataset) -> Pool:
    data, seed = experiment.data, experiment.seed
    labels, layout = dataset.train_labels, experiment.layout
    rng = numpy_generator(seed, "partition")
    parts = shares(experiment.partition, labels, data.num_clients, rng)
    clients = torch.empty(len(labels), dtype=torch.int64)
    for client, own in enumerate(parts):
        clients[own] = client
    members = _members(clients, labels, data.held_out, seed)
    protected = layout.chosen(clients, members, labels, data.num_clients, dataset.num_classes, seed)
    return Pool(
        clean_images=dataset.train_images,
        noisy_images=_noisy_images(experiment, dataset, clients, protected),
        labels=labels,
        clients=clients,
        members=members,
        protected=protected,
        audited=_audited(clients, labels, protected, members, seed)
        & ~(layout.withheld & protected),
    )


def _members(
    clients: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], held_out: float, seed: int
) -> Bool[Tensor, " n"]:
    """Hold out the same share of each class of each client; everybody keeps an image."""
    rank, size = _ranks(_strata(clients, labels), generator(seed, "held out"))
    return rank >= (held_out * size).floor()


def _audited(
    clients: Int64[Tensor, " n"],
    labels: Int64[Tensor, " n"],
    protected: Bool[Tensor, " n"],
    members: Bool[Tensor, " n"],
    seed: int,
) -> Bool[Tensor, " n"]:
    """Choose as many members as outsiders in each client, class and protected status."""
    strata = _strata(clients, labels, protected.long())
    kinds = _strata(strata, members.long())
    rank, _ = _ranks(kinds, generator(seed, "audit"))
    counts = torch.zeros(int(strata.max()) + 1, 2, dtype=torch.int64)
    counts.index_put_((strata, members.long()), torch.ones_like(strata), accumulate=True)
    return rank < counts.min(1).values[strata]


def _strata(*columns: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Return one number for each combination of values."""
    inverse: Tensor = torch.stack(columns, 1).unique(dim=0, return_inverse=True)[1]
    return inverse


def _ranks(
    strata: Int64[Tensor, " n"], rng: torch.Generator
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Return each record's random rank within its stratum, and the stratum's size."""
    shuffled = torch.randperm(len(strata), generator=rng)
    order = shuffled[strata[shuffled].argsort(stable=True)]
    sizes = strata.bincount()
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(strata)
    rank[order] = torch.arange(len(strata)) - starts[strata[order]]
    return rank, sizes[strata]


def _noisy_images(
    experiment: Experiment,
    dataset: Dataset,
    clients: Int64[Tensor, " n"],
    protected: Bool[Tensor, " n"],
) -> UInt8[Tensor, "n c h w"]:
    """Return the images with their noise.

    Noise is made for the whole pool and mixed in by mask, so that it does not depend on the
    fraction, and held-out images carry noise of the same generator.
    """
    clean, labels, protection = dataset.train_images, dataset.train_labels, experiment.protection
    if protection is None or not bool(protected.any()):
        return clean
    if experiment.layout.provenance == "shared":
        return _noisy(protection, clean, labels, torch.arange(len(clean)), experiment.seed)
    noisy = clean.clone()
    for client in clients[protected].unique().tolist():
        own = (clients == client).nonzero().squeeze(1)
        noisy[own] = _noisy(protection, clean[own], labels[own], own, experiment.seed, client)
    return noisy


def _noisy(
    protection: Protection,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    sample_ids: Int64[Tensor, " n"],
    seed: int,
    *owner: int,
) -> UInt8[Tensor, "n c h w"]:
    key = digest(repr(describe(protection)), images, labels, sample_ids, seed, *owner)
    own_seed = generator(seed, "protection", *owner).initial_seed() if owner else seed
    return cached(
        "protected", key, lambda: protection.protect(images, labels, sample_ids, own_seed)
    )


def _seen(
    experiment: Experiment, dataset: Dataset, pool: Pool, frozen: nn.Sequential
) -> tuple[Shaped[Tensor, "n ..."], Shaped[Tensor, "n ..."], Shaped[Tensor, "t ..."]]:
    """Return what the trained part of the network sees: images, or cached features.

    They are the published records, the clean ones, and the test set. Clean and noisy features
    are cached apart and mixed by mask.
    """
    if len(frozen) == 0:
        mixed = _mixed(pool.protected, pool.noisy_images, pool.clean_images)
        return mixed, pool.clean_images, dataset.test_images
    channels_last(frozen)
    weights = _front_id(experiment, dataset, frozen)
    clean = features(frozen, weights, pool.clean_images)
    test = features(frozen, weights, dataset.test_images)
    if pool.noisy_images is pool.clean_images:
        return clean, clean, test
    noisy = features(frozen, weights, pool.noisy_images)
    return _mixed(pool.protected, noisy, clean), clean, test


def _set_aside(
    experiment: Experiment, dataset: Dataset, test_inputs: Shaped[Tensor, "t ..."]
) -> tuple[Shard | None, Dataset, Shaped[Tensor, "u ..."]]:
    """Take the clean images that a server holds, where its rule wants any, out of the test set."""
    count = getattr(experiment.strategy, "root_samples", 0)
    if not count:
        return None, dataset, test_inputs
    labels = dataset.test_labels
    rank, _ = _ranks(labels, generator(experiment.seed, "root"))
    order = rank.argsort(stable=True)
    held, left = order[:count].sort().values, order[count:].sort().values
    root = Shard(SERVER, test_inputs[held], labels[held], held, dataset.num_classes)
    rest = replace(dataset, test_images=dataset.test_images[left], test_labels=labels[left])
    return root, rest, test_inputs[left]


def _mixed(
    mask: Bool[Tensor, " n"], noisy: Shaped[Tensor, "n ..."], clean: Shaped[Tensor, "n ..."]
) -> Shaped[Tensor, "n ..."]:
    return torch.where(mask.view(-1, *[1] * (clean.dim() - 1)), noisy, clean)


def _front_id(experiment: Experiment, dataset: Dataset, frozen: nn.Sequential) -> str:
    """Name a frozen front by all that its output depends on; calibrate a random one."""
    model, seed = experiment.model, experiment.seed
    name = f"{model.backbone} {model.tune} {model.norm} {model.pixels} {_shape(dataset)}"
    if model.init == "pretrained":
        return f"{name} {weights_digest(model.backbone)}"
    some = dataset.train_images[:CALIBRATION]
    calibrate(frozen, as_pixels(some))
    return f"{name} random {seed} {digest(some)}"


def _shape(dataset: Dataset) -> tuple[int, int, int]:
    _, channels, height, width = dataset.train_images.shape
    return channels, height, width
