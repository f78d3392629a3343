"""Tests of projection, and of rounding to 8 bits within the radius."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.core.perturbation import as_pixels, project, quantise
from fl_sim.core.seeding import generator

radii = st.sampled_from([1 / 255, 2 / 255, 8 / 255, 16 / 255, 0.03, 0.1, 1.0])


def draw_images(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images with black and white pixels among them, and noise."""
    rng = generator(seed, "quantised")
    images = torch.randint(0, 256, (5, 2, 4, 4), generator=rng, dtype=torch.uint8)
    images[0], images[1] = 0, 255
    return images, spread * (2 * torch.rand(5, 2, 4, 4, generator=rng) - 1)


def test_pixels_are_floats_of_0_to_1() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixels = as_pixels(every)
    assert (pixels.dtype, pixels.min().item(), pixels.max().item()) == (torch.float32, 0, 1)
    assert torch.equal((pixels * 255).round().to(torch.uint8), every)


@given(seed=st.integers(0, 10**6), radius=radii)
def test_projected_noise_keeps_every_pixel_legal(seed: int, radius: float) -> None:
    images, noise = draw_images(seed, 2 * radius)
    pixels = as_pixels(images)
    projected = project(noise, pixels, radius)
    # One rounding of a sum below 1 in float32 is all that the subtraction leaves.
    assert float(projected.abs().max()) <= radius + 2**-24
    assert 0 <= float((pixels + projected).min()) <= float((pixels + projected).max()) <= 1


@given(seed=st.integers(0, 10**6), radius=radii)
def test_projection_leaves_legal_noise_alone(seed: int, radius: float) -> None:
    images, noise = draw_images(seed, radius)
    pixels = as_pixels(images) * (1 - 2 * radius) + radius if radius < 0.5 else as_pixels(images)
    legal = (pixels + noise).clamp(0, 1) - pixels
    torch.testing.assert_close(project(legal, pixels, radius), legal, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 10**6), radius=radii)
def test_no_pixel_exceeds_the_radius_after_rounding(seed: int, radius: float) -> None:
    images, noise = draw_images(seed, 3 * radius)
    moved = quantise(images, noise, radius, "linf").int() - images.int()
    assert int(moved.abs().max()) <= math.floor(radius * 255 + 1e-6)


@pytest.mark.parametrize("levels", [1, 2, 6, 8, 16, 32, 255])
def test_a_radius_of_whole_levels_is_reached(levels: int) -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    radius = levels / 255
    noise = torch.tensor([radius, -radius]).view(2, 1, 1, 1)
    moved = quantise(images, noise, radius, "linf").int() - images.int()
    assert moved.flatten().tolist() == [levels, -levels]


def test_the_sum_is_clipped_not_wrapped() -> None:
    images = torch.tensor([250, 3], dtype=torch.uint8).view(2, 1, 1, 1)
    noise = torch.tensor([0.1, -0.1]).view(2, 1, 1, 1)
    for norm in ("linf", "l2"):
        assert quantise(images, noise, 0.1, norm).flatten().tolist() == [255, 0]  # type: ignore[arg-type]


@given(seed=st.integers(0, 10**6), radius=radii)
def test_the_root_mean_square_grows_by_no_more_than_half_a_level(seed: int, radius: float) -> None:
    images, noise = draw_images(seed, 1.0)
    scaled = radius * noise / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    moved = (quantise(images, scaled, radius, "l2").int() - images.int()).double()
    assert float(moved.square().mean((1, 2, 3)).sqrt().max()) <= radius * 255 + 0.5


def test_no_noise_changes_nothing() -> None:
    images, noise = draw_images(0, 0.0)
    for norm in ("linf", "l2"):
        assert torch.equal(quantise(images, noise, 8 / 255, norm), images)  # type: ignore[arg-type]
