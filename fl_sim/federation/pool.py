"""Assigns records to clients, holds some out, and protects the chosen ones."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64, Shaped, UInt8
from torch import Tensor

from fl_sim.contracts import Dataset, Protection
from fl_sim.core import pass_counter
from fl_sim.core.cache import digest, is_stored, load_or_compute
from fl_sim.core.device import call_on_device, device_key
from fl_sim.core.errors import RunFailedError
from fl_sim.core.seeding import generator, numpy_generator
from fl_sim.core.serialization import describe, hash_own_modules
from fl_sim.data.domain_shift import assign_domains
from fl_sim.data.layout import Layout, assign_clauses
from fl_sim.data.partition import partition_records
from fl_sim.experiment import Experiment
from fl_sim.models.foundation import hash_networks

NOISE = "protected"  # kind of the cache's entries


@dataclass(frozen=True, eq=False)
class Noise:
    """The records that a clause of the layout protects, as they are with its noise.

    Attributes:
        rows: Rows of the records, `[m]`.
        values: Their images, or inputs of the network, with noise.
    """

    rows: Int64[Tensor, " m"]
    values: Shaped[Tensor, "m ..."]


def add_noise(clean: Shaped[Tensor, "n ..."], layers: Iterable[Noise]) -> Shaped[Tensor, "n ..."]:
    """Return records with noise of several clauses, of which the last counts."""
    noisy = clean.clone()
    for layer in layers:
        noisy[layer.rows] = layer.values
    return noisy


@dataclass(frozen=True, eq=False)
class Pool:
    """The records of all clients, in order of sample id.

    Attributes:
        clean_images: Images without noise.
        noisy_images: Images with noise; only those in `protected` are published so. They carry the
            noise of the last clause that protects them.
        labels: Labels.
        clients: Client of each record.
        members: Boolean mask of the records that are not held out.
        protected: Boolean mask of the records that carry noise in any round.
        noise: The noise of each clause `Protects` of the layout; empty for a `Layout`.
        audited: Boolean mask of the records that membership attacks are measured on.
    """

    clean_images: UInt8[Tensor, "n c h w"]
    noisy_images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    clients: Int64[Tensor, " n"]
    members: Bool[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    audited: Bool[Tensor, " n"]
    noise: tuple[Noise, ...] = ()

    def find_images(self, active: tuple[int, ...]) -> UInt8[Tensor, "n c h w"]:
        """Return all images with the noise of the clauses that are active in a round."""
        if self.noise or not active:
            return add_noise(self.clean_images, (self.noise[place] for place in active))
        mask = self.protected[:, None, None, None]
        return torch.where(mask, self.noisy_images, self.clean_images)


def make_pool(experiment: Experiment, dataset: Dataset) -> Pool:
    """Split the training images over the clients, hold some out, and protect the chosen ones."""
    labels, seed = dataset.train_labels, experiment.seed
    clients, members, protected = assign_records(experiment, dataset)
    dataset = _shift_domains(experiment, dataset, clients)
    noise = _protect_by_clause(experiment, dataset, clients, members)
    clean = dataset.train_images
    return Pool(
        clean_images=clean,
        noisy_images=add_noise(clean, sort_by_round(experiment, noise))
        if noise
        else _protect_images(experiment, dataset, clients, protected),
        labels=labels,
        clients=clients,
        members=members,
        protected=protected,
        audited=_choose_audited(clients, labels, protected, members, seed)
        & ~(experiment.withholds_images & protected),
        noise=noise,
    )


def assign_records(
    experiment: Experiment, dataset: Dataset
) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Return each record's client, and boolean masks of members and of protected records."""
    data, seed, labels = experiment.data, experiment.seed, dataset.train_labels
    rng = numpy_generator(seed, "partition")
    owners = dataset.train_owners
    parts = partition_records(experiment.partition, labels, data.num_clients, rng, owners)
    clients = torch.empty(len(labels), dtype=torch.int64)
    for client, rows in enumerate(parts):
        clients[rows] = client
    members = _choose_members(clients, labels, data.held_out, seed)
    layout = experiment.layout
    if isinstance(layout, Layout):
        protected = layout.choose_protected(
            clients, members, labels, data.num_clients, dataset.num_classes, seed
        )
    else:
        masks = _mark_by_clause(experiment, dataset, clients, members)
        protected = torch.stack([torch.zeros_like(members), *masks]).any(0)
    return clients, members, protected


def _mark_by_clause(
    experiment: Experiment,
    dataset: Dataset,
    clients: Int64[Tensor, " n"],
    members: Bool[Tensor, " n"],
) -> list[Bool[Tensor, " n"]]:
    """Return a boolean mask of the records that each clause protects."""
    clauses, seed = experiment.named_clauses, experiment.seed
    labels = dataset.train_labels
    assigned = assign_clauses(clauses, experiment.data.num_clients, seed)
    pairs = zip(clauses, assigned, strict=True)
    return [clause.choose_protected(own, clients, members, labels, seed) for clause, own in pairs]


def sort_by_round(experiment: Experiment, noise: tuple[Noise, ...]) -> list[Noise]:
    """Return the noise of the clauses in the order of their first rounds."""
    firsts = [clause.first_round for clause in experiment.named_clauses]
    return [layer for _, layer in sorted(zip(firsts, noise, strict=True), key=lambda p: p[0])]


def _shift_domains(
    experiment: Experiment, dataset: Dataset, clients: Int64[Tensor, " n"]
) -> Dataset:
    """Return the dataset with each training image as the domain of its client has it."""
    shift, num_clients = experiment.domains, experiment.data.num_clients
    if shift is None:
        return dataset
    domains = assign_domains(num_clients, shift.count_domains(num_clients))[clients]
    images = shift.apply_by_domain(dataset.train_images, domains, experiment.seed)
    return replace(dataset, train_images=images)


def _choose_members(
    clients: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], held_out: float, seed: int
) -> Bool[Tensor, " n"]:
    """Hold out the same share of each class of each client, but never all of it."""
    rank, size = rank_in_strata(_number_strata(clients, labels), generator(seed, "held out"))
    return rank >= (held_out * size).floor()


def _choose_audited(
    clients: Int64[Tensor, " n"],
    labels: Int64[Tensor, " n"],
    protected: Bool[Tensor, " n"],
    members: Bool[Tensor, " n"],
    seed: int,
) -> Bool[Tensor, " n"]:
    """Choose as many members as non-members per client, class and protected status."""
    strata = _number_strata(clients, labels, protected.long())
    kinds = _number_strata(strata, members.long())
    rank, _ = rank_in_strata(kinds, generator(seed, "audit"))
    counts = torch.zeros(int(strata.max()) + 1, 2, dtype=torch.int64)
    counts.index_put_((strata, members.long()), torch.ones_like(strata), accumulate=True)
    return rank < counts.min(1).values[strata]


def _number_strata(*columns: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Return a number per combination of values, in lexicographic order."""
    key = torch.zeros_like(columns[0])
    for column in columns:
        key = key * (int(column.max()) + 1) + column if len(column) else key
    inverse: Tensor = key.unique(return_inverse=True)[1]
    return inverse


def rank_in_strata(
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


@dataclass(frozen=True, eq=False)
class NoisePart:
    """Records that get noise together, with its source.

    Attributes:
        protection: The protection.
        rows: Rows of the records.
        owner: Number of the owner that makes it; empty if it is shared by all.
        place: Place of its clause in the layout.
    """

    protection: Protection
    rows: Int64[Tensor, " m"]
    owner: tuple[int, ...] = ()
    place: int = 0

    def find_key(self, dataset: Dataset, seed: int) -> str:
        """Return the key of the records with noise in the cache, a hash of all they depend on."""
        images, labels = dataset.train_images[self.rows], dataset.train_labels[self.rows]
        hashes = hash_own_modules(self.protection), hash_networks(self.protection)
        parts = [repr(describe(self.protection)), *filter(None, hashes)]
        return digest(*parts, images, labels, self.rows, seed, *self.owner, *device_key())

    def predict_passes(self, dataset: Dataset) -> int:
        """Return the number of passes that making the noise takes at most."""
        num_classes = int(dataset.train_labels[self.rows].max()) + 1
        return self.protection.predict_passes(len(self.rows), num_classes)

    def make(self, dataset: Dataset, seed: int, key: str) -> UInt8[Tensor, "m c h w"]:
        """Return the records with noise, from the cache if they have been made before."""
        images, labels = dataset.train_images[self.rows], dataset.train_labels[self.rows]
        own, protect = self.owner, self.protection.protect
        noise_seed = generator(seed, "protection", *own).initial_seed() if own else seed
        return load_or_compute(
            NOISE, key, lambda: call_on_device(protect, images, labels, self.rows, noise_seed)
        )


def _protect_images(
    experiment: Experiment,
    dataset: Dataset,
    clients: Int64[Tensor, " n"],
    protected: Bool[Tensor, " n"],
) -> UInt8[Tensor, "n c h w"]:
    """Return the images with the noise of a `Layout`.

    Noise is made for the whole pool and mixed in by mask, so that it does not depend on the
    fraction, and held-out images carry noise of the same generator.

    Raises:
        RunFailedError: If no pixel of any image changes, so that nothing would be protected.
    """
    clean = dataset.train_images
    if experiment.protection is None or not bool(protected.any()):
        return clean
    return _add_parts(clean, dataset, _split_layout(experiment, clients, protected), experiment)


def _protect_by_clause(
    experiment: Experiment,
    dataset: Dataset,
    clients: Int64[Tensor, " n"],
    members: Bool[Tensor, " n"],
) -> tuple[Noise, ...]:
    """Return the noise of each clause; empty for a `Layout`, and where images are withheld.

    Raises:
        RunFailedError: If no pixel of any image of a clause changes.
    """
    if not experiment.named_clauses or experiment.withholds_images:
        return ()
    masks, clean = _mark_by_clause(experiment, dataset, clients, members), dataset.train_images
    parts, layers = _split_clauses(experiment, clients, masks), []
    for place, mask in enumerate(masks):
        own = [part for part in parts if part.place == place]
        noisy = _add_parts(clean, dataset, own, experiment) if own else clean
        rows = mask.nonzero().squeeze(1)
        layers.append(Noise(rows, noisy[rows]))
    return tuple(layers)


def _add_parts(
    clean: UInt8[Tensor, "n c h w"],
    dataset: Dataset,
    parts: list[NoisePart],
    experiment: Experiment,
) -> UInt8[Tensor, "n c h w"]:
    noisy, seed = clean.clone(), experiment.seed
    keys = [part.find_key(dataset, seed) for part in parts]
    pairs = list(zip(parts, keys, strict=True))
    left = [part for part, key in pairs if not is_stored(NOISE, key)]
    pass_counter.expect(sum(part.predict_passes(dataset) for part in left))
    for part, key in pairs:
        noisy[part.rows] = part.make(dataset, seed, key)
    if torch.equal(noisy, clean):
        name = type(parts[0].protection).__name__
        raise RunFailedError(f"{name} changed no pixel of any image: nothing is protected")
    return noisy


def _split_layout(
    experiment: Experiment, clients: Int64[Tensor, " n"], protected: Bool[Tensor, " n"]
) -> list[NoisePart]:
    """Return the parts of the noise of a `Layout`, of each owner that protects any image."""
    layout, protection = experiment.layout, experiment.protection
    assert isinstance(layout, Layout)
    assert protection is not None
    if layout.provenance == "shared":
        return [NoisePart(protection, torch.arange(len(clients)))]
    owners = layout.assign_owners(experiment.data.num_clients, experiment.seed)[clients]
    protecting = owners[protected].unique().tolist()
    return [
        NoisePart(protection, (owners == owner).nonzero().squeeze(1), (owner,))
        for owner in protecting
    ]


def _split_clauses(
    experiment: Experiment, clients: Int64[Tensor, " n"], masks: list[Bool[Tensor, " n"]]
) -> list[NoisePart]:
    """Return the parts of the noise of clauses that protect any image."""
    assigned = assign_clauses(
        experiment.named_clauses, experiment.data.num_clients, experiment.seed
    )
    parts = list[NoisePart]()
    for place, (clause, own) in enumerate(zip(experiment.named_clauses, assigned, strict=True)):
        protection = clause.make_protection(experiment.protection)
        if protection is None or not bool(masks[place].any()):
            continue
        if clause.provenance == "shared":
            parts.append(NoisePart(protection, torch.arange(len(clients)), place=place))
            continue
        groups = [own] if clause.provenance == "owner" else [(client,) for client in own]
        for group in groups:
            rows = torch.isin(clients, torch.tensor(group)).nonzero().squeeze(1)
            if bool(masks[place][rows].any()):
                parts.append(NoisePart(protection, rows, (min(group),), place))
    return parts


def list_noise_parts(experiment: Experiment, dataset: Dataset) -> list[NoisePart]:
    """Return the parts of an experiment's noise, each of which is made in one piece."""
    if not experiment.list_protections():
        return []
    clients, members, protected = assign_records(experiment, dataset)
    if not bool(protected.any()):
        return []
    if isinstance(experiment.layout, Layout):
        return _split_layout(experiment, clients, protected)
    masks = _mark_by_clause(experiment, dataset, clients, members)
    return _split_clauses(experiment, clients, masks)


def list_noise_to_make(
    experiment: Experiment, dataset: Dataset
) -> dict[str, tuple[NoisePart, Dataset]]:
    """Return the parts of the noise that are not in the cache, with the images, by their keys."""
    clients, _, _ = assign_records(experiment, dataset)
    shifted, seed = _shift_domains(experiment, dataset, clients), experiment.seed
    parts = {part.find_key(shifted, seed): part for part in list_noise_parts(experiment, dataset)}
    return {key: (part, shifted) for key, part in parts.items() if not is_stored(NOISE, key)}


def make_noise(experiment: Experiment, dataset: Dataset, number: int) -> None:
    """Make one part of `list_noise_parts` and cache it, from where `make_pool` reads it."""
    clients, _, _ = assign_records(experiment, dataset)
    part = list_noise_parts(experiment, dataset)[number]
    shifted = _shift_domains(experiment, dataset, clients)
    part.make(shifted, experiment.seed, part.find_key(shifted, experiment.seed))
