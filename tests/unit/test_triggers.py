"""Tests of triggers against the figures of their papers."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator
from fl_sim.triggers import Bars, Blend, Patch, Trigger

TRIGGERS = [Patch(), Blend(), Bars()]
every_trigger = pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda t: type(t).__name__)


def images(channels: int = 1, side: int = 28, count: int = 3) -> Tensor:
    shape, rng = (count, channels, side, side), generator(0, "images")
    return torch.randint(0, 200, shape, generator=rng, dtype=torch.uint8)


@every_trigger
@pytest.mark.parametrize("channels", [1, 3])
def test_a_trigger_is_stamped_on_copies(trigger: Trigger, channels: int) -> None:
    clean = images(channels)
    before, stamped = clean.clone(), trigger.stamp(clean)
    assert torch.equal(clean, before)
    assert stamped.shape == clean.shape
    assert stamped.dtype == torch.uint8
    assert bool((stamped != clean).flatten(1).any(1).all())
    assert torch.equal(stamped, trigger.stamp(clean))
    assert torch.equal(trigger.stamp(clean[1:2]), stamped[1:2])
    assert len(trigger.stamp(clean[:0])) == 0


def test_the_patch_is_a_white_square_in_the_lower_right_corner() -> None:
    clean = images()
    expected = clean.clone()
    for row in (26, 27):
        for column in (26, 27):
            expected[:, :, row, column] = 255
    assert torch.equal(Patch(side=2).stamp(clean), expected)


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_a_blend_is_a_weighted_sum_pixel_by_pixel(strength: float) -> None:
    clean = images(3)
    picture = Blend(strength=1.0).stamp(clean)
    assert torch.equal(picture[0], picture[1])
    mixed = (1 - strength) * clean.double() + strength * picture.double()
    assert float((Blend(strength).stamp(clean).double() - mixed).abs().max()) <= 0.5 + 1e-4
    assert not torch.equal(Blend(pattern=1).stamp(clean), Blend(pattern=2).stamp(clean))


def test_four_bars_of_the_paper_and_each_attacker_has_one() -> None:
    clean = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    whole = Bars(length=4, gap=2).stamp(clean)[0, 0]
    white = {(0, c) for c in (0, 1, 2, 3, 6, 7, 8, 9)} | {(3, c) for c in (0, 1, 2, 3, 6, 7, 8, 9)}
    assert {(int(r), int(c)) for r, c in whole.nonzero()} == white
    parts = [Bars(length=4, gap=2).stamp(clean, part)[0, 0] for part in range(4)]
    assert [int((part > 0).sum()) for part in parts] == [4, 4, 4, 4]
    assert torch.equal(torch.stack(parts).amax(0), whole)
    assert torch.equal(Bars().stamp(clean, 6), Bars().stamp(clean, 2))


@pytest.mark.parametrize(
    ("cls", "fields"), [(Patch, {"side": 0}), (Blend, {"strength": 0.0}), (Bars, {"length": 0})]
)
def test_a_trigger_out_of_range_is_refused(cls: type[Trigger], fields: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match=next(iter(fields))):
        cls(**fields)
