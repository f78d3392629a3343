"""Projected sign steps and protections against the statements of their papers."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Dataset
from fl_sim.core.errors import FieldError
from fl_sim.core.perturbation import as_pixels, take_sign_steps
from fl_sim.core.seeding import generator
from fl_sim.data.sources import load_dataset, take_subset
from fl_sim.protections import error_minimizing
from fl_sim.protections._shared import alternating_optimization
from fl_sim.protections.error_maximizing import ErrorMaximizing
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise

Direction = Literal["minimise", "maximise"]
RADIUS, STEP = 8 / 255, 2 / 255


def slopes(seed: int) -> Tensor:
    return torch.randn(9, generator=generator(seed, "slopes"), dtype=torch.float64)


def curved_loss(seed: int):  # type: ignore[no-untyped-def]
    """Return sum over images of tanh(w x)^2 + sin(w x): its gradient is known by hand."""
    weights = slopes(seed)

    def loss(images: Tensor) -> Tensor:
        score = images.flatten(1) @ weights
        return (score.tanh() ** 2 + score.sin()).sum()

    return loss


def sign_steps_by_definition(
    seed: int, image: list[float], noise: list[float], num_steps: int, direction: Direction
) -> list[float]:
    """One image, one pixel after another."""
    weights = slopes(seed).tolist()
    for _ in range(num_steps):
        score = sum(w * (x + d) for w, x, d in zip(weights, image, noise, strict=True))
        outer = 2 * math.tanh(score) * (1 - math.tanh(score) ** 2) + math.cos(score)
        moved = []
        for weight, pixel, change in zip(weights, image, noise, strict=True):
            step = math.copysign(STEP, outer * weight) * (1 if direction == "maximise" else -1)
            change = min(max(change + step, -RADIUS), RADIUS)
            moved.append(min(max(pixel + change, 0.0), 1.0) - pixel)
        noise = moved
    return noise


@pytest.mark.parametrize("direction", ["minimise", "maximise"])
@given(seed=st.integers(0, 10**6), num_steps=st.integers(0, 7))
def test_sign_steps_are_those_of_a_loop_over_images_and_pixels(
    direction: Direction, seed: int, num_steps: int
) -> None:
    rng = generator(seed, "images")
    images = torch.rand(4, 1, 3, 3, generator=rng, dtype=torch.float64)
    images[0] = images[0].round()  # black and white: where clipping bites
    start = RADIUS * (2 * torch.rand(4, 1, 3, 3, generator=rng, dtype=torch.float64) - 1)
    noise = take_sign_steps(curved_loss(seed), images, start, RADIUS, STEP, num_steps, direction)
    expected = [
        sign_steps_by_definition(seed, image, own, num_steps, direction)
        for image, own in zip(images.flatten(1).tolist(), start.flatten(1).tolist(), strict=True)
    ]
    np.testing.assert_allclose(noise.flatten(1).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", ["minimise", "maximise"])
def test_a_linear_loss_is_driven_into_the_corner_of_the_ball(direction: Direction) -> None:
    weights = slopes(0).view(1, 1, 3, 3)
    images = torch.full((2, 1, 3, 3), 0.5, dtype=torch.float64)
    noise = take_sign_steps(
        lambda x: (weights * x).sum(), images, torch.zeros_like(images), RADIUS, STEP, 10, direction
    )
    sign = 1 if direction == "maximise" else -1
    expected = (sign * RADIUS * weights.sign()).expand_as(noise)
    torch.testing.assert_close(noise, expected, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def some_digits() -> Dataset:
    return take_subset(load_dataset("digits"), 400, 60)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", ["sample", "class"])
def test_error_minimising_noise_lowers_the_loss_of_its_surrogate(
    form: Literal["sample", "class"],
    seed: int,
    some_digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seeds 0 to 2, radius 16/255, 400 digits, which the surrogate learns to tell apart too."""
    trained = []

    class Remembered(error_minimizing.Surrogate):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            trained.append(self)

    monkeypatch.setattr(error_minimizing, "Surrogate", Remembered)
    images, labels = as_pixels(some_digits.train_images), some_digits.train_labels
    protection = ErrorMinimizing(radius=16 / 255, form=form, max_passes=10)
    noise = protection.noise(images, labels, seed)
    (surrogate,) = trained
    clean, noisy = (
        functional.cross_entropy(surrogate.model(seen), labels).item()
        for seen in (images, images + noise)
    )
    assert noisy < clean


def test_error_minimising_noise_of_a_class_is_the_same_for_all_its_images(
    some_digits: Dataset,
) -> None:
    images, labels = as_pixels(some_digits.train_images), some_digits.train_labels
    noise = ErrorMinimizing(form="class", max_passes=2).noise(images, labels, 0)
    kinds = noise.flatten(1).unique(dim=0)
    assert len(kinds) == 10
    for label in range(10):
        assert len(noise[labels == label].flatten(1).unique(dim=0)) == 1


def test_error_minimising_noise_stops_once_the_surrogate_errs_no_more(
    some_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    train: Any = alternating_optimization.AlternatingNoise.train_surrogate

    def count(*given: object) -> None:
        passes.append(1)
        train(*given)

    monkeypatch.setattr(alternating_optimization.AlternatingNoise, "train_surrogate", count)
    images, labels = as_pixels(some_digits.train_images[:64]), some_digits.train_labels[:64]
    ErrorMinimizing(stop_error=0.999, max_passes=9).noise(images, labels, 0)
    assert len(passes) == 1
    ErrorMinimizing(stop_error=0.0, max_passes=2, noise_steps=1).noise(images, labels, 0)
    assert len(passes) == 3


def blank(count: int, side: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    return torch.full((count, channels, side, side), 0.5), torch.arange(count) % 10


@pytest.mark.parametrize(("side", "patch", "channels"), [(28, 7, 1), (32, 8, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_a_linear_model_tells_separable_noise_apart_without_error(
    seed: int, side: int, patch: int, channels: int
) -> None:
    images, labels = blank(500, side, channels)
    noise = LinearSeparable(patch=patch).noise(images, labels, seed)
    scaled = noise.flatten(1).numpy() * 255 / 6
    probe = LogisticRegression(max_iter=1000).fit(scaled[:300], labels[:300].numpy())
    assert probe.score(scaled, labels.numpy()) == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_no_two_classes_share_a_corner_of_separable_noise(seed: int) -> None:
    """Grey 28 x 28 with patches of 14: 16 corners for 10 classes."""
    images, labels = blank(300, 28)
    noise = LinearSeparable(patch=14).noise(images, labels, seed)[:, 0, ::14, ::14].flatten(1)
    corners = {tuple(noise[labels == own].mean(0).sign().tolist()) for own in range(10)}
    assert len(corners) == 10


def test_corners_of_separable_noise_are_uniform_without_replacement() -> None:
    """Two classes, one grey patch, 400 seeds: each has either corner about as often, never one."""
    found = []
    for seed in range(400):
        noise = LinearSeparable(patch=4).noise(torch.zeros(2, 1, 4, 4), torch.arange(2), seed)
        found.append(noise[:, 0, 0, 0].sign().tolist())
    assert {tuple(own) for own in found} == {(1.0, -1.0), (-1.0, 1.0)}
    assert abs(sum(own[0] for own in found)) < 5 * 20


@pytest.mark.parametrize("patch", [14, 28, 99])
def test_too_few_corners_for_the_classes_are_refused_before_any_work(patch: int) -> None:
    protection = LinearSeparable(patch=patch)
    images = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    labels = torch.arange(20)
    with pytest.raises(
        FieldError, match=rf"patch: so small that .* at least 20 classes; .* {patch}"
    ):
        protection.protect(images, labels, labels, 0)
    LinearSeparable(patch=14).check((1, 28, 28), 16)
    LinearSeparable(patch=8).check((3, 224, 224), 10**6)


def test_so_many_patches_that_a_mixing_matrix_fills_the_memory_are_refused() -> None:
    with pytest.raises(FieldError, match=r"patch: so large .* at most 16384 patches .* not 150528"):
        LinearSeparable(patch=1).check((3, 224, 224), 2)


def test_linearly_separable_points_are_those_of_all_mixing_matrices_drawn_at_once() -> None:
    """Corners first, then the mixing matrix of each class, then the points: one stream."""
    labels = torch.tensor([0, 2, 1, 2])
    noise = LinearSeparable(patch=2).noise(torch.zeros(4, 1, 4, 4), labels, 5)
    rng = generator(5, "linear_separable")
    corners = 10 * (2.0 * torch.randint(0, 2, (3, 4), generator=rng) - 1)
    mixing = 2 * torch.rand(3, 4, 4, generator=rng) - 1
    drawn = torch.randn(4, 1, 4, generator=rng)
    points = (drawn @ mixing[labels]).squeeze(1) + corners[labels]
    patches = points / points.square().mean(1, keepdim=True).sqrt() * 6 / 255
    torch.testing.assert_close(noise[:, 0, ::2, ::2].flatten(1), patches)


@pytest.mark.parametrize(
    ("num_images", "pass_steps", "count", "size"),
    [
        (50_000, 0, 79, 10_000),
        (600, 0, 1, 128),
        (600, 78, 78, 600),
        (50, 78, 78, 50),
        (20_000, 78, 78, 9984),
    ],
)
def test_class_wise_noise_takes_the_steps_that_are_asked_for(
    num_images: int, pass_steps: int, count: int, size: int
) -> None:
    rng = generator(0, "subset")
    labels = torch.zeros(num_images, dtype=torch.int64)
    subset = alternating_optimization.select_class_subset(labels, 128, rng, pass_steps)
    batches = alternating_optimization.shuffle_batches(subset, 128, rng, pass_steps)
    assert len(subset.unique()) == len(subset) == size
    assert len(batches) == count
    assert set(torch.cat(batches).tolist()) == set(subset.tolist())


def test_class_wise_noise_sees_an_image_of_every_class() -> None:
    """300 classes of two images, 128 images a pass: one of each class, and no image twice."""
    labels = torch.arange(600) % 300
    subset = alternating_optimization.select_class_subset(labels, 128, generator(0, "subset"))
    assert set(labels[subset].tolist()) == set(range(300))
    assert len(subset.unique()) == len(subset) < 300 + 128
    first = alternating_optimization.select_class_subset(
        torch.zeros_like(labels), 128, generator(0, "subset")
    )
    assert torch.equal(subset[:128], first)


@pytest.mark.parametrize("kind", [ErrorMinimizing, ErrorMaximizing])
def test_class_wise_noise_of_few_images_is_warned_of_by_name_of_the_field(kind: Any) -> None:
    assert kind(form="class").advice(600).startswith("pass_steps: class-wise noise of 600 images")
    assert kind(form="class").advice(1) != ""
    assert kind(form="class", max_passes=2).advice(2000) != ""
    assert kind(form="class", max_passes=2, pass_steps=5).advice(2000) == ""
    assert kind(form="class").advice(5000) == ""
    assert kind(form="class", pass_steps=78).advice(600) == ""
    assert kind(form="sample").advice(600) == ""


def test_more_steps_a_pass_make_class_wise_noise_of_few_images_strong(
    some_digits: Dataset,
) -> None:
    """400 digits, three passes: the root mean square grows from below 4 levels of 16 to above 8."""
    images, labels = as_pixels(some_digits.train_images), some_digits.train_labels
    sizes = []
    for pass_steps in (0, 20):
        settings = ErrorMinimizing(
            radius=16 / 255, form="class", max_passes=3, stop_error=0.0, pass_steps=pass_steps
        )
        noise = settings.noise(images, labels, 0)
        sizes.append(255 * float(noise.square().mean().sqrt()))
    assert sizes[0] < 4
    assert sizes[1] > 8


def test_separable_noise_is_constant_on_its_patches() -> None:
    images, labels = blank(6, 28)
    noise = LinearSeparable(patch=7).noise(images, labels, 0)
    patches = noise.unfold(2, 7, 7).unfold(3, 7, 7).flatten(-2)
    assert float((patches - patches[..., :1]).abs().max()) == 0.0
    assert len(noise[0].unique()) == 16


def test_separable_noise_has_the_radius_as_root_mean_square() -> None:
    images, labels = blank(20, 28)
    noise = LinearSeparable(radius=6 / 255).noise(images, labels, 0)
    sizes = noise.square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(sizes, torch.full((20,), 6 / 255))


def test_random_noise_is_uniform_on_the_ball() -> None:
    """Seed 0, 1,000 images of 28 x 28: mean and variance within five standard errors."""
    images, labels = blank(1000, 28)
    noise = RandomNoise(radius=0.1, form="sample").noise(images, labels, 0) / 0.1
    count = noise.numel()
    assert float(noise.abs().max()) <= 1
    assert abs(float(noise.mean())) < 5 * math.sqrt(1 / 3 / count)
    # The variance of the square of a uniform variable on [-1, 1] is 1/5 - 1/9.
    assert abs(float(noise.square().mean()) - 1 / 3) < 5 * math.sqrt((1 / 5 - 1 / 9) / count)


def test_random_noise_of_a_class_is_the_same_for_all_its_images() -> None:
    images, labels = blank(50, 8)
    noise = RandomNoise(form="class").noise(images, labels, 0)
    assert torch.equal(noise[:10], noise[10:20])
    assert len(noise.flatten(1).unique(dim=0)) == 10
