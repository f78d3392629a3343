"""Steps 2 to 5 of a run: data, partition, protection, and the network they meet."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from fl_sim.contracts import Dataset, Draw, Shard
from fl_sim.core.cache import digest
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator
from fl_sim.data.sources import hash_dataset, load_dataset
from fl_sim.experiment import Experiment, subset_of
from fl_sim.federation.pool import Pool, make_pool, rank_in_strata
from fl_sim.federation.shards import ClientShards, assign_attacker_rows
from fl_sim.models import parameters
from fl_sim.models.architectures import to_channels_last
from fl_sim.models.features import extract_features, to_trainable
from fl_sim.models.foundation import hash_weights
from fl_sim.models.tuning import build_network, calibrate
from fl_sim.schedule import Schedule, backdoors

SERVER = -1  # the server, where it trains on images of its own


@dataclass(frozen=True, eq=False)
class Federation:
    """A run before its first round: the pool, what the network sees of it, and the network.

    `model` is a workbench: whoever uses it loads parameters and buffers first. Those of the
    first round are `start` and `start_buffers`. `data_sha256` is a hash of the files that the
    dataset was read from, "" where it is a built-in one.
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
    data_sha256: str = ""

    @cached_property
    def shards(self) -> ClientShards:
        """The records of each client; they share the federation's tensors."""
        rows = self.trained.nonzero().squeeze(1)
        holders = self.pool.clients[rows]
        counts = holders.bincount(minlength=self.experiment.data.num_clients).tolist()
        owners = list(rows[holders.argsort(stable=True)].split(counts))
        schedule = Schedule(self.experiment)
        return ClientShards(
            schedule=schedule,
            inputs=self.inputs,
            clean_inputs=self.clean_inputs,
            labels=self.pool.labels,
            protected=self.pool.protected,
            owners=owners + assign_attacker_rows(schedule, owners),
            num_classes=self.dataset.num_classes,
        )

    @property
    def schedule(self) -> Schedule:
        """The behaviour of each client in each round."""
        return self.shards.schedule

    def shard(self, client: int, round_num: int = 1) -> Shard:
        """Return what `client` trains on in a round."""
        return self.shards.shard(client, round_num)

    @cached_property
    def clients_with_data(self) -> list[int]:
        """The clients that have anything to train on."""
        return [client for client, size in enumerate(self.shards.sizes) if size]

    @cached_property
    def draws(self) -> tuple[Draw, ...]:
        """How the clients of each round are drawn, from the first round to the last."""
        numbers = range(1, self.experiment.rounds + 1)
        return tuple(
            self.schedule.describe_draw(round_num, self.clients_with_data) for round_num in numbers
        )

    @cached_property
    def max_clients_per_round(self) -> int:
        """The most clients that are asked in any round."""
        if self.experiment.participation.sampling == "fixed":
            return self.experiment.clients_per_round
        numbers, schedule = range(1, self.experiment.rounds + 1), self.schedule
        return max(
            len(schedule.choose_clients(round_num, self.clients_with_data)) for round_num in numbers
        )

    @cached_property
    def evaluation_inputs(self) -> dict[str, Tensor]:
        """The inputs that the global model is scored on, by name."""
        found = {"test": self.test_inputs, "pool": self.inputs[self.pool.audited]}
        for trigger, _ in backdoors(self.experiment):
            found["triggered"] = trigger.stamp(self.dataset.test_images)
        return found

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
        """Number of clients, attackers that hold no images included."""
        return self.experiment.num_clients


def load_federation(text: str) -> Federation:
    """Return the federation of an experiment given as JSON.

    It is prepared once a process, and again where the files of its dataset have changed.
    """
    experiment = Experiment.from_json(text)
    data = experiment.data
    return _cached_federation(
        text, hash_dataset(data.dataset, data.path), hash_user_files(experiment)
    )


@lru_cache(maxsize=2)
def _cached_federation(text: str, content: str, data_sha256: str) -> Federation:
    return replace(prepare_federation(Experiment.from_json(text)), data_sha256=data_sha256)


def hash_user_files(experiment: Experiment) -> str:
    """Return a hash of what the user's own files of a dataset hold now; "" for a built-in one."""
    data = experiment.data
    return "" if data.path is None else hash_dataset(data.dataset, data.path)


def load_experiment_dataset(experiment: Experiment) -> Dataset:
    """Return the images that an experiment is about."""
    return subset_of(experiment.data)


def prepare_federation(experiment: Experiment) -> Federation:
    """Load, share out, protect, and build.

    Raises:
        RequestError: for what the request gets wrong; nothing has been written by then.
    """
    seed, dataset = experiment.seed, load_experiment_dataset(experiment)
    pool = make_pool(experiment, dataset)
    network = build_network(experiment.model, _image_shape(dataset), dataset.num_classes, seed)
    inputs, clean, test = _compute_inputs(experiment, dataset, pool, network.frozen)
    root, dataset, test = _split_root_images(experiment, dataset, test)
    withheld = experiment.layout.withheld & pool.protected
    trained = pool.members & ~withheld
    require(bool(trained.any()), "layout.fraction", "below 1 where images are withheld", 1.0)
    model = to_channels_last(network.trained)
    return Federation(
        experiment=experiment,
        dataset=dataset,
        pool=pool,
        inputs=inputs,
        clean_inputs=clean,
        test_inputs=test,
        model=model,
        start=parameters.flatten(model),
        start_buffers=parameters.copy_buffers(model),
        trained=trained,
        root=root,
    )


def _compute_inputs(
    experiment: Experiment, dataset: Dataset, pool: Pool, frozen: nn.Sequential
) -> tuple[Shaped[Tensor, "n ..."], Shaped[Tensor, "n ..."], Shaped[Tensor, "t ..."]]:
    """Return what the trained part of the network sees: images, or cached features.

    They are the published records, the clean ones, and the test set. Clean and noisy features
    are cached apart and mixed by mask.
    """
    if len(frozen) == 0:
        mixed = _mix_by_mask(pool.protected, pool.noisy_images, pool.clean_images)
        return mixed, pool.clean_images, dataset.test_images
    to_channels_last(frozen)
    weights = _identify_front(experiment, dataset, frozen)
    clean = extract_features(frozen, weights, pool.clean_images)
    test = extract_features(frozen, weights, dataset.test_images)
    if pool.noisy_images is pool.clean_images:
        return clean, clean, test
    noisy = extract_features(frozen, weights, pool.noisy_images)
    return _mix_by_mask(pool.protected, noisy, clean), clean, test


def _split_root_images(
    experiment: Experiment, dataset: Dataset, test_inputs: Shaped[Tensor, "t ..."]
) -> tuple[Shard | None, Dataset, Shaped[Tensor, "u ..."]]:
    """Take the clean images that a server holds, where its rule wants any, out of the test set."""
    count = experiment.root_samples
    if not count:
        return None, dataset, test_inputs
    labels = dataset.test_labels
    rank, _ = rank_in_strata(labels, generator(experiment.seed, "root"))
    order = rank.argsort(stable=True)
    held, left = order[:count].sort().values, order[count:].sort().values
    inputs = to_trainable(test_inputs[held])
    root = Shard(SERVER, inputs, labels[held], held, dataset.num_classes)
    rest = replace(dataset, test_images=dataset.test_images[left], test_labels=labels[left])
    return root, rest, test_inputs[left]


def _mix_by_mask(
    mask: Bool[Tensor, " n"], noisy: Shaped[Tensor, "n ..."], clean: Shaped[Tensor, "n ..."]
) -> Shaped[Tensor, "n ..."]:
    return torch.where(mask.view(-1, *[1] * (clean.dim() - 1)), noisy, clean)


def _identify_front(experiment: Experiment, dataset: Dataset, frozen: nn.Sequential) -> str:
    """Name a frozen front by all that its output depends on; calibrate a random one."""
    model, seed = experiment.model, experiment.seed
    name = f"{model.backbone} {model.tune} {model.norm} {model.pixels} {_image_shape(dataset)}"
    if model.init == "pretrained":
        return f"{name} {hash_weights(model.backbone)}"
    data = experiment.data
    published = load_dataset(data.dataset, data.path, data.read_options).train_images
    some = calibrate(frozen, published)
    return f"{name} random {seed} {digest(some)}"


def _image_shape(dataset: Dataset) -> tuple[int, int, int]:
    _, channels, height, width = dataset.train_images.shape
    return channels, height, width
