"""Every corruption, found by walking its package, keeps the contract of its kind."""

import pytest
import torch
from torch import Tensor

from fl_sim.contracts import Corruption
from fl_sim.core.errors import FieldError
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import construct, describe

CLASSES = discover("fl_sim.data.corruptions", Corruption)  # type: ignore[type-abstract]
every_one = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
every_shape = pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 48)], ids=str)


def make_images(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return smooth random pictures on black, so that blurs and warps matter."""
    drawn = torch.rand(count, shape[0], 5, 5, generator=generator(0, "images"))
    smooth = torch.nn.functional.interpolate(drawn, size=shape[1:], mode="bilinear")
    return ((smooth * 2 - 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def corrupted(cls: type[Corruption], images: Tensor, severity: int = 3, seed: int = 0) -> Tensor:
    return cls(severity=severity).apply(images, generator(seed, "corruption"))


@every_shape
@every_one
def test_images_keep_their_shape_and_change(
    cls: type[Corruption], shape: tuple[int, int, int]
) -> None:
    images = make_images(6, shape)
    before = images.clone()
    out = corrupted(cls, images)
    assert torch.equal(images, before)
    assert (out.dtype, out.shape) == (torch.uint8, images.shape)
    assert not torch.equal(out, images)


@every_one
def test_equal_generators_give_equal_bits(cls: type[Corruption]) -> None:
    images = make_images(6, (1, 28, 28))
    assert torch.equal(corrupted(cls, images), corrupted(cls, images))


@every_shape
@every_one
def test_a_higher_severity_changes_more(cls: type[Corruption], shape: tuple[int, int, int]) -> None:
    images = make_images(8, shape)
    changes = [
        float((corrupted(cls, images, severity).float() - images.float()).square().mean())
        for severity in (1, 3, 5)
    ]
    assert changes == sorted(changes)
    assert changes[2] > 1.3 * changes[0]


@every_one
def test_a_severity_beyond_the_five_is_refused(cls: type[Corruption]) -> None:
    for severity in (0, 6):
        with pytest.raises(FieldError, match="severity: from 1 to 5"):
            cls(severity=severity)
    assert construct(describe(cls(severity=4)), Corruption) == cls(severity=4)  # type: ignore[type-abstract]


@every_one
def test_no_image_makes_no_error(cls: type[Corruption]) -> None:
    assert len(corrupted(cls, torch.empty(0, 1, 28, 28, dtype=torch.uint8))) == 0


def test_names_are_those_of_the_paper() -> None:
    """Hendrycks and Dietterich (2019), figure 1, but for glass blur, snow and frost."""
    assert [cls.name() for cls in CLASSES] == [
        "brightness",
        "contrast",
        "defocus_blur",
        "elastic_transform",
        "fog",
        "gaussian_noise",
        "impulse_noise",
        "jpeg_compression",
        "motion_blur",
        "pixelate",
        "shot_noise",
        "zoom_blur",
    ]
