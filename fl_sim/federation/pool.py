"""Assigns records to clients, holds some out, and protects the chosen ones."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from fl_sim.contracts import Dataset, Protection
from fl_sim.core.cache import digest, load_or_compute
from fl_sim.core.device import call_on_device, device_key
from fl_sim.core.errors import RunFailedError
from fl_sim.core.seeding import generator, numpy_generator
from fl_sim.core.serialization import describe, hash_own_modules
from fl_sim.data.domain_shift import assign_domains
from fl_sim.data.partition import partition_records
from fl_sim.experiment import Experiment


@dataclass(frozen=True, eq=False)
class Pool:
    """The records of all clients, in order of sample id.

    Attributes:
        clean_images: Images without noise.
        noisy_images: Images with noise; only those in `protected` are published so.
        labels: Labels.
        clients: Client of each record.
        members: Boolean mask of the records that are not held out.
        protected: Boolean mask of the records that carry noise.
        audited: Boolean mask of the records that membership attacks are measured on.
    """

    clean_images: UInt8[Tensor, "n c h w"]
    noisy_images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    clients: Int64[Tensor, " n"]
    members: Bool[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    audited: Bool[Tensor, " n"]


def make_pool(experiment: Experiment, dataset: Dataset) -> Pool:
    """Split the training images over the clients, hold some out, and protect the chosen ones."""
    labels, layout, seed = dataset.train_labels, experiment.layout, experiment.seed
    clients, members, protected = assign_records(experiment, dataset)
    dataset = _shift_domains(experiment, dataset, clients)
    return Pool(
        clean_images=dataset.train_images,
        noisy_images=_protect_images(experiment, dataset, clients, protected),
        labels=labels,
        clients=clients,
        members=members,
        protected=protected,
        audited=_choose_audited(clients, labels, protected, members, seed)
        & ~(layout.withheld & protected),
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
    protected = experiment.layout.choose_protected(
        clients, members, labels, data.num_clients, dataset.num_classes, seed
    )
    return clients, members, protected


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


def _protect_images(
    experiment: Experiment,
    dataset: Dataset,
    clients: Int64[Tensor, " n"],
    protected: Bool[Tensor, " n"],
) -> UInt8[Tensor, "n c h w"]:
    """Return the images with noise.

    Noise is made for the whole pool and mixed in by mask, so that it does not depend on the
    fraction, and held-out images carry noise of the same generator.

    Raises:
        RunFailedError: If no pixel of any image changes, so that nothing would be protected.
    """
    clean, labels, protection = dataset.train_images, dataset.train_labels, experiment.protection
    if protection is None or not bool(protected.any()):
        return clean
    seed = experiment.seed
    if experiment.layout.provenance == "shared":
        noisy = _protect(protection, clean, labels, torch.arange(len(clean)), seed)
    else:
        noisy = clean.clone()
        for owner, rows in _group_by_owner(experiment, clients, protected).items():
            noisy[rows] = _protect(protection, clean[rows], labels[rows], rows, seed, owner)
    if torch.equal(noisy, clean):
        name = type(protection).__name__
        raise RunFailedError(f"{name} changed no pixel of any image: nothing is protected")
    return noisy


def _group_by_owner(
    experiment: Experiment, clients: Int64[Tensor, " n"], protected: Bool[Tensor, " n"]
) -> dict[int, Int64[Tensor, " _"]]:
    """Return the records of each owner that protects any, by owner."""
    owners = experiment.layout.assign_owners(experiment.data.num_clients, experiment.seed)[clients]
    protecting = owners[protected].unique().tolist()
    return {owner: (owners == owner).nonzero().squeeze(1) for owner in protecting}


def list_noise_owners(experiment: Experiment, dataset: Dataset) -> list[int]:
    """Return the owners that make noise of their own; none if noise is shared."""
    if experiment.protection is None or experiment.layout.provenance == "shared":
        return []
    clients, _, protected = assign_records(experiment, dataset)
    return list(_group_by_owner(experiment, clients, protected))


def make_noise(experiment: Experiment, dataset: Dataset, owner: int) -> None:
    """Make one owner's noise and store it in the cache, from which `make_pool` reads it."""
    clients, _, protected = assign_records(experiment, dataset)
    dataset = _shift_domains(experiment, dataset, clients)
    rows = _group_by_owner(experiment, clients, protected)[owner]
    images, labels = dataset.train_images[rows], dataset.train_labels[rows]
    assert experiment.protection is not None
    _protect(experiment.protection, images, labels, rows, experiment.seed, owner)


def _protect(
    protection: Protection,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    sample_ids: Int64[Tensor, " n"],
    seed: int,
    *owner: int,
) -> UInt8[Tensor, "n c h w"]:
    parts = [repr(describe(protection)), *filter(None, [hash_own_modules(protection)])]
    key = digest(*parts, images, labels, sample_ids, seed, *owner, *device_key())
    noise_seed = generator(seed, "protection", *owner).initial_seed() if owner else seed
    return load_or_compute(
        "protected",
        key,
        lambda: call_on_device(protection.protect, images, labels, sample_ids, noise_seed),
    )
