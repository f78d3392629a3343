"""Domain transforms against their definitions, and the domains of clients."""

import pytest
import torch
from torch import Tensor

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator
from fl_sim.data.domain_shift import DomainShift, assign_domains
from fl_sim.data.domains.background import Background, find_background
from fl_sim.data.domains.blur import Blur
from fl_sim.data.domains.colour_cast import ColourCast
from fl_sim.data.domains.contrast import Contrast
from fl_sim.data.domains.rotation import Rotation


def draw(count: int = 4, channels: int = 3) -> Tensor:
    shape = (count, channels, 12, 12)
    return torch.randint(0, 256, shape, generator=generator(0, "x"), dtype=torch.uint8)


def rngs(domain: int) -> tuple[torch.Generator, torch.Generator]:
    return generator(0, "domain", domain), generator(0, "each", domain)


def test_a_cast_multiplies_channels_between_its_bounds() -> None:
    white = torch.ones(1, 3, 2, 2)
    for domain in range(20):
        factors = ColourCast(strength=0.7).transform(white, *rngs(domain))[0, :, 0, 0]
        assert float(factors.max()) == pytest.approx(1)
        assert float(factors.min()) == pytest.approx(0.3)


def test_contrast_mixes_with_one_grey() -> None:
    images = draw() / 255
    for domain in range(10):
        seen = Contrast(strength=0.8).transform(images, *rngs(domain))
        slope = float(seen.std() / images.std())
        assert 0.2 - 1e-5 <= slope <= 0.6 + 1e-5
        grey = (seen - slope * images) / (1 - slope)
        assert float(grey.std()) < 1e-4
        assert -1e-4 <= float(grey.mean()) <= 1 + 1e-4


def test_blur_takes_detail_away() -> None:
    images = draw() / 255
    seen = Blur().transform(images, *rngs(0))
    assert float(seen.diff(dim=3).abs().mean()) < 0.7 * float(images.diff(dim=3).abs().mean())
    assert float(seen.mean()) == pytest.approx(float(images.mean()), abs=0.03)


def test_a_rotation_turns_by_an_angle_within_its_bounds() -> None:
    """A spot at a known place is found where the angle puts it, also on sides of unequal length."""
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(61.0), indexing="ij")
    spot = torch.exp(-((rows - 20) ** 2 + (columns - 42) ** 2) / 8)[None, None]
    signs = set()
    for domain in range(12):
        seen = Rotation(degrees=60.0).transform(spot, *rngs(domain))[0, 0]
        row, column = (float((seen * axis).sum() / seen.sum()) for axis in (rows, columns))
        angle = torch.rad2deg(torch.atan2(torch.tensor(row - 20), torch.tensor(column - 30)))
        assert ((row - 20) ** 2 + (column - 30) ** 2) ** 0.5 == pytest.approx(12, abs=0.3)
        assert 29 < abs(float(angle)) < 61
        signs.add(float(angle) > 0)
    assert signs == {True, False}


def test_the_background_is_replaced_and_the_object_stays() -> None:
    images = torch.ones(5, 3, 16, 16)
    images[:, :, 4:12, 4:12] = 0.2
    outside = find_background(images, 0.2)[:, 0]
    assert torch.equal(outside == 0, (images == 0.2).all(1))
    seen = Background(strength=1.0).transform(images, *rngs(1))
    assert torch.equal(seen[:, :, 4:12, 4:12], images[:, :, 4:12, 4:12])
    texture = seen[:, :, 0]
    assert float(texture.max()) <= 1
    assert float((seen[0] - seen[1]).abs().max()) > 0.01  # each image has its own
    black = images - 1
    assert torch.equal(Background().transform(black, *rngs(1))[0, :, 6, 6], black[0, :, 6, 6])


def test_domains_take_turns_over_transforms_and_clients() -> None:
    cast, blur = ColourCast(), Blur()
    shift = DomainShift((cast, blur), num_domains=4)
    assert [shift.find_transform(i) for i in range(4)] == [None, cast, blur, cast]
    every = DomainShift((cast, blur), num_domains=None, keep_first=False)
    assert [every.find_transform(i) for i in range(3)] == [cast, blur, cast]
    assert (every.count_domains(7), shift.count_domains(7)) == (7, 4)
    assert assign_domains(7, 4).tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_records_are_changed_by_the_domain_of_their_client() -> None:
    images, domains = draw(6), torch.tensor([0, 1, 1, 2, 0, 2])
    shift = DomainShift(num_domains=3)
    seen = shift.apply_by_domain(images, domains, 5)
    assert torch.equal(seen[[0, 4]], images[[0, 4]])
    for domain in (1, 2):
        rows = domains == domain
        assert torch.equal(seen[rows], shift.apply(images[rows], domain, 5))


def test_mistakes_are_named() -> None:
    for fields, field in (
        ({"transforms": ()}, "transforms"),
        ({"num_domains": 1}, "num_domains"),
        ({"num_domains": 0, "keep_first": False}, "num_domains"),
    ):
        with pytest.raises(FieldError, match=f"^{field}: "):
            DomainShift(**fields)  # type: ignore[arg-type]
