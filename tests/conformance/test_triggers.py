"""Every trigger, found in its module, keeps the contract of its kind."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import construct, describe
from fl_sim.triggers import Trigger

TRIGGERS: list[Any] = [cls() for cls in discover("fl_sim.triggers", Trigger)]  # type: ignore[type-abstract]
every_trigger = pytest.mark.parametrize("trigger", TRIGGERS, ids=lambda t: type(t).__name__)


def make_images(count: int, channels: int) -> Tensor:
    """Return dark images of random pixels."""
    shape = (count, channels, 28, 24)
    return torch.randint(0, 100, shape, generator=generator(0, "images")).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@every_trigger
def test_copies_of_the_same_shape_carry_the_trigger(trigger: Trigger, channels: int) -> None:
    images = make_images(6, channels)
    before = images.clone()
    stamped = trigger.stamp(images)
    assert torch.equal(images, before)
    assert (stamped.dtype, stamped.shape) == (torch.uint8, images.shape)
    assert bool((stamped != images).flatten(1).any(1).all())


@every_trigger
def test_a_stamp_is_repeatable_and_draws_from_no_global_generator(trigger: Trigger) -> None:
    images = make_images(6, 1)
    state = torch.get_rng_state()
    first = trigger.stamp(images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(trigger.stamp(images), first)


@every_trigger
def test_an_image_is_stamped_as_it_is_among_others(trigger: Trigger) -> None:
    images = make_images(6, 1)
    assert torch.equal(trigger.stamp(images)[2:3], trigger.stamp(images[2:3]))
    assert len(trigger.stamp(images[:0])) == 0


@pytest.mark.parametrize("part", range(5))
@every_trigger
def test_every_attacker_has_a_part_of_the_trigger(trigger: Trigger, part: int) -> None:
    images = make_images(3, 1)
    assert trigger.stamp(images, part).shape == images.shape
    assert not torch.equal(trigger.stamp(images, part), images)


@every_trigger
def test_a_trigger_survives_json(trigger: Trigger) -> None:
    assert construct(json.loads(json.dumps(describe(trigger))), Trigger) == trigger  # type: ignore[type-abstract]
