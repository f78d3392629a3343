"""Every protection, found by walking its package, keeps the contract of a protection."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fl_sim.contracts import Dataset, Protection
from fl_sim.core import pass_counter, resumable
from fl_sim.core.errors import FieldError
from fl_sim.core.pass_counter import PassCount
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import construct, describe
from fl_sim.experiment import Model
from fl_sim.models.surrogate import find_obstacle

PROTECTIONS = [cls() for cls in discover("fl_sim.protections", Protection)]
WHOLE_RADII = (1 / 255, 8 / 255, 16 / 255)


CAPS = {
    "max_passes": 3,
    "surrogate_steps": 3,
    "surrogate_epochs": 2,
    "noise_steps": 60,
    "adversary_steps": 1,
    "transforms": 1,
    "num_targets": 10,
}
EXPENSIVE = {
    "Bait": {"noise_steps": 5},
    "SemanticCamouflage": {"noise_steps": 10},
    "NeuralTangent": {"noise_steps": 2, "block_size": 40},
    "RobustErrorMinimizing": {"noise_steps": 4},
}
IN_ONE_PIECE = {"Linearization"}  # its network is one layer, and all images here are one batch


def quick(protection: Protection) -> Protection:
    """Return a copy with few steps, if it has a number of steps."""
    changed: Any = protection
    if getattr(protection, "surrogate", Model()).init == "pretrained":
        changed = replace(changed, surrogate=Model())  # the contract is that of any network
    capped = {
        name: min(getattr(protection, name), cap)
        for name, cap in (CAPS | EXPENSIVE.get(type(protection).__name__, {})).items()
        if hasattr(protection, name)
    }
    return cast(Protection, replace(changed, **capped))


def forms(protection: Protection) -> list[Protection]:
    """Return the protection in every form that it has."""
    if not hasattr(protection, "form"):
        return [protection]
    changed: Any = protection
    return [replace(changed, form=form) for form in ("sample", "class")]


ALL = [quick(form) for protection in PROTECTIONS for form in forms(protection)]


def name_of(protection: Any) -> str:
    return "-".join([type(protection).__name__, getattr(protection, "form", "")]).strip("-")


every_protection = pytest.mark.parametrize("protection", ALL, ids=name_of)


class Made(NamedTuple):
    """One protection, what it was given, and what came out."""

    protection: Protection
    images: Tensor
    labels: Tensor
    ids: Tensor
    protected: Tensor

    def again(self, seed: int = 5) -> Tensor:
        return self.protection.protect(self.images, self.labels, self.ids, seed)


@pytest.fixture(scope="module", params=ALL, ids=name_of)
def made(request: pytest.FixtureRequest, digits: Dataset) -> Made:
    """Protect 120 digits once; ids are neither sorted nor consecutive."""
    ids = 7 * torch.randperm(120, generator=generator(0, "ids")) + 3
    protection, images, labels = request.param, digits.train_images, digits.train_labels
    return Made(protection, images, labels, ids, protection.protect(images, labels, ids, 5))


def change(made: Made) -> Tensor:
    return made.protected.int() - made.images.int()


def test_shape_and_type_are_kept(made: Made) -> None:
    assert made.protected.dtype == torch.uint8
    assert made.protected.shape == made.images.shape


def test_the_images_are_changed(made: Made) -> None:
    assert bool((change(made) != 0).flatten(1).any(1).all())


def test_the_change_stays_in_the_ball_after_rounding(made: Made) -> None:
    if made.protection.norm == "linf":
        levels = math.floor(made.protection.radius * 255 + 1e-6)
        assert int(change(made).abs().max()) <= levels
    else:
        size = change(made).double().square().mean((1, 2, 3)).sqrt()
        assert float(size.max()) <= made.protection.radius * 255 + 0.5


def test_the_same_seed_gives_the_same_bytes(made: Made) -> None:
    assert torch.equal(made.again(), made.protected)


class CutError(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_noise_that_is_interrupted_goes_on_to_the_same_bytes(
    made: Made, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SECONDS", 0.0)
    monkeypatch.setattr(resumable, "SHARE", float("inf"))
    with pass_counter.count_passes() as whole:
        made.again()
    num_classes = int(made.labels.max()) + 1
    most = made.protection.predict_passes(len(made.labels), num_classes)
    is_own = not type(made.protection).__module__.startswith("fl_sim.")
    assert whole.passes <= most or (most == 0 and is_own)  # a user's may have no forecast
    if most and not hasattr(made.protection, "stop_error"):
        class_wise = getattr(made.protection, "form", "") == "class"
        added = num_classes * CAPS["max_passes"] if class_wise else 0  # of classes that may lack
        assert whole.passes >= most - added

    def cut(count: PassCount) -> None:
        if count.passes > share * whole.passes:
            raise CutError

    if not whole.passes:
        return  # made without a network
    with resumable.resume_from(tmp_path):
        with pytest.raises(CutError), pass_counter.count_passes(cut):
            made.again()
        with pass_counter.count_passes() as left:
            assert torch.equal(made.again(), made.protected)
    if share > 0.5 and type(made.protection).__name__ not in IN_ONE_PIECE:
        assert left.passes < whole.passes


def test_another_seed_gives_other_bytes(made: Made) -> None:
    assert not torch.equal(made.again(seed=6), made.protected)


def test_the_order_of_the_samples_does_not_matter(made: Made) -> None:
    order = torch.randperm(len(made.labels), generator=generator(1, "order"))
    shuffled = made.protection.protect(made.images[order], made.labels[order], made.ids[order], 5)
    assert torch.equal(shuffled, made.protected[order])


def test_a_lossless_file_keeps_every_pixel(made: Made) -> None:
    for image in made.protected[:5]:
        file = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(file, "PNG")
        assert np.array_equal(np.asarray(Image.open(file)), image[0].numpy())


def test_what_is_passed_in_is_left_as_it_was(made: Made) -> None:
    before = [made.images.clone(), made.labels.clone(), made.ids.clone()]
    made.again()
    assert all(map(torch.equal, before, (made.images, made.labels, made.ids)))


def test_global_generators_are_neither_used_nor_moved(made: Made) -> None:
    torch.manual_seed(1)
    first, state = made.again(), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(made.again(), first)


@every_protection
def test_no_images_make_no_images(protection: Protection) -> None:
    empty = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    nothing = torch.zeros(0, dtype=torch.int64)
    out = protection.protect(empty, nothing, nothing, 0)
    assert (out.shape, out.dtype) == (empty.shape, torch.uint8)


@every_protection
def test_one_image_of_a_high_class_can_be_protected(protection: Protection) -> None:
    image = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    out = protection.protect(image, torch.tensor([7]), torch.tensor([99]), 0)
    assert out.shape == image.shape


@every_protection
def test_colour_images_are_protected_too(protection: Protection) -> None:
    rng = generator(0, "colour")
    images = torch.randint(0, 256, (12, 3, 16, 12), generator=rng, dtype=torch.uint8)
    out = protection.protect(images, torch.arange(12) % 3, torch.arange(12), 0)
    moved = (out.int() - images.int()).abs()
    assert bool(moved.flatten(2).any(2).all())  # in every channel of every image


@pytest.mark.parametrize("radius", WHOLE_RADII, ids=lambda radius: f"{radius * 255:.0f}")
@pytest.mark.parametrize("base", [p for p in ALL if p.norm == "linf"], ids=name_of)
def test_a_radius_in_whole_levels_means_no_more_than_that_many(
    base: Any, radius: float, digits: Dataset
) -> None:
    protection, ids = replace(base, radius=radius), torch.arange(60)
    images = digits.train_images[:60]
    out = protection.protect(images, digits.train_labels[:60], ids, 0)
    moved = int((out.int() - images.int()).abs().max())
    assert moved <= round(radius * 255)


@pytest.mark.parametrize("radius", [16.0, 1.0001, 0.0, -8 / 255])
@every_protection
def test_a_radius_out_of_range_is_refused_with_an_example(protection: Any, radius: float) -> None:
    with pytest.raises(ValueError, match=r"radius: (.*16/255|a finite number); got"):
        replace(protection, radius=radius)


def test_names_on_the_command_line_are_there_and_unique() -> None:
    names = [protection.short for protection in PROTECTIONS]
    assert all(names)
    assert len(set(names)) == len(names)


@every_protection
def test_a_protection_is_described_and_constructed_again(protection: Protection) -> None:
    assert construct(json.loads(json.dumps(describe(protection))), Protection) == protection


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 9), (1, 2, 2), (3, 4, 4)], ids=str)
@every_protection
def test_tiny_images_are_protected_or_refused_beforehand(
    protection: Protection, shape: tuple[int, int, int]
) -> None:
    try:
        refused = find_obstacle(protection, shape, 3)
    except FieldError:
        return
    if refused:
        return
    images = torch.full((6, *shape), 100, dtype=torch.uint8)
    out = protection.protect(images, torch.arange(6) % 3, torch.arange(6), 0)
    assert bool((out != images).any())


@every_protection
def test_one_class_is_protected_or_refused_beforehand(protection: Protection) -> None:
    refused = find_obstacle(protection, (1, 8, 8), 1)
    assert ("at least two classes" in refused) == (protection.min_classes == 2)
    images = torch.full((6, 1, 8, 8), 100, dtype=torch.uint8)
    nothing = torch.zeros(6, dtype=torch.int64)
    out = protection.protect(images, nothing, torch.arange(6), 0)
    assert bool((out != images).any())  # an owner in a run may hold class 0 alone
