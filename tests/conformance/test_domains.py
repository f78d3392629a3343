"""Every domain transform, found by walking its package, keeps the contract of its kind."""

import pytest
import torch
from torch import Tensor

from fl_sim.contracts import DomainTransform
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import construct, describe

CLASSES = discover("fl_sim.data.domains", DomainTransform)  # type: ignore[type-abstract]
every_one = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def make_images(count: int, channels: int) -> Tensor:
    """Return random pictures with a plain border."""
    images = torch.zeros(count, channels, 28, 24, dtype=torch.uint8)
    inside = torch.randint(0, 256, (count, channels, 16, 12), generator=generator(0, "images"))
    images[:, :, 6:22, 6:18] = inside.to(torch.uint8)
    return images


@pytest.mark.parametrize(
    ("cls", "channels"),
    [(cls, channels) for cls in CLASSES for channels in (1, 3) if channels >= cls.min_channels],
)
def test_images_keep_their_shape_and_each_domain_changes_them_in_its_own_way(
    cls: type[DomainTransform], channels: int
) -> None:
    images = make_images(8, channels)
    before = images.clone()
    seen = [cls().apply(images, domain, 0) for domain in range(4)]
    assert torch.equal(images, before)
    assert all((out.dtype, out.shape) == (torch.uint8, images.shape) for out in seen)
    distinct = {bytes(out.numpy().tobytes()) for out in [images, *seen]}
    assert len(distinct) == 5


@every_one
def test_a_domain_depends_on_its_number_and_the_seed_alone(cls: type[DomainTransform]) -> None:
    images = make_images(8, 3)
    first = cls().apply(images, 2, 0)
    assert torch.equal(first, cls().apply(images, 2, 0))
    assert torch.equal(first[:5], cls().apply(images[:5], 2, 0)) or cls.__name__ == "Background"
    assert not torch.equal(first, cls().apply(images, 2, 1))
    assert len(cls().apply(images[:0], 2, 0)) == 0


@every_one
def test_a_transform_survives_json(cls: type[DomainTransform]) -> None:
    assert construct(describe(cls()), DomainTransform) == cls()  # type: ignore[type-abstract]
