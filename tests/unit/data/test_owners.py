"""Natural ids: owners are read with the images, and become clients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import numpy_generator
from fl_sim.data.partition import ByOwner, Iid, partition_records
from fl_sim.data.sources import ReadOptions, load_dataset, load_subset


def split(owners: torch.Tensor, num_clients: int, seed: int = 0) -> list[torch.Tensor]:
    rng = numpy_generator(seed, "partition")
    return partition_records(ByOwner(), torch.zeros_like(owners), num_clients, rng, owners)


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    num_clients=st.integers(1, 12),
    seed=st.integers(0, 100),
)
def test_an_owner_is_never_split(sizes: list[int], num_clients: int, seed: int) -> None:
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[order]
    if num_clients > len(sizes):
        with pytest.raises(FieldError, match=r"data.num_clients: at most one client per"):
            split(owners, num_clients)
        return
    parts = split(owners, num_clients, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(owners)))
    held = [set(owners[own].tolist()) for own in parts]
    assert sum(map(len, held)) == len(sizes)
    assert all(held)
    largest = max(len(own) for own in parts)
    assert largest <= sum(sizes) / num_clients + max(sizes)


def test_as_many_clients_as_owners_are_the_owners() -> None:
    owners = torch.tensor([2, 0, 1, 0, 2, 2])
    assert [own.tolist() for own in split(owners, 3)] == [[1, 3], [2], [0, 4, 5]]


def test_other_partitions_ignore_owners() -> None:
    labels = torch.arange(40) % 4
    one, other = (
        partition_records(Iid(), labels, 4, numpy_generator(0, "partition"), owners)
        for owners in (None, torch.arange(40) % 3)
    )
    assert all(map(torch.equal, one, other))


def test_folders_name_the_owner_of_an_image(tmp_path: Path) -> None:
    for index in range(24):
        place = tmp_path / "ab"[index % 2] / ("ann", "bob", "eve")[index % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), index, dtype=np.uint8)).save(place / f"{index}.png")
    reading = ReadOptions(folders="label/owner")
    dataset = load_dataset("image_folder", str(tmp_path), reading)
    numbers = dataset.train_images[:, 0, 0, 0]
    assert dataset.train_owners is not None
    assert dataset.owner_names == ("ann", "bob", "eve")
    assert dataset.test_owners is not None
    assert dataset.test_owners.tolist() == (dataset.test_images[:, 0, 0, 0] % 3).tolist()
    assert dataset.train_owners.tolist() == (numbers % 3).tolist()
    assert dataset.notes == ()
    some = load_subset("image_folder", str(tmp_path), 9, None, (1, 0), reading)
    assert some.train_owners is not None
    assert some.train_owners.tolist() == (some.train_images[:, 0, 0, 0] % 3).tolist()
    assert some.test_owners is not None
    assert some.test_owners.tolist() == (some.test_images[:, 0, 0, 0] % 3).tolist()
    assert some.train_labels.tolist() == (1 - some.train_images[:, 0, 0, 0] % 2).tolist()


def test_a_test_image_of_an_unknown_owner_is_nobodys(tmp_path: Path) -> None:
    for index in range(16):
        split, owner = ("train", "ab"[index % 2]) if index < 12 else ("test", "bz"[index % 2])
        place = tmp_path / split / "xy"[index // 2 % 2] / owner
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), index, dtype=np.uint8)).save(place / f"{index}.png")
    dataset = load_dataset("image_folder", str(tmp_path), ReadOptions(folders="split/label/owner"))
    assert dataset.test_owners is not None
    numbers = dataset.test_images[:, 0, 0, 0] % 2
    assert dataset.test_owners.tolist() == [-1 if number else 1 for number in numbers.tolist()]
