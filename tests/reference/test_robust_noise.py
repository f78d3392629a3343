"""REM, SEM and NTGA against their definitions, written the slow way."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Dataset
from fl_sim.core.errors import FieldError
from fl_sim.core.pass_counter import count_passes
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.experiment import Model
from fl_sim.models.surrogate import Surrogate
from fl_sim.models.tuning import build_network
from fl_sim.protections import neural_tangent
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.neural_tangent import NeuralTangent, compute_tangents, predict
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing

RADIUS = 8 / 255
PLAIN: dict[str, Any] = {"transforms": 1, "padding": 0, "flip": False, "adversary_radius": 0.0}


def start_of(images: Tensor, rng: torch.Generator) -> Tensor:
    noise = RADIUS * (torch.rand(images.shape, generator=rng) * 2 - 1)
    return (images + noise).clamp(0, 1) - images


def unused_draws(count: int, rng: torch.Generator) -> None:
    """Advance the generator as transforms and disturbance do, although they change nothing."""
    torch.randint(0, 1, (2, count), generator=rng)
    torch.rand(count, generator=rng)


def minimised(surrogate: Surrogate, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
    """Return error-minimising noise of one batch, from a random start: ten steps, one by one."""
    noise = start_of(images, rng)
    for _ in range(10):
        unused_draws(len(images), rng)
        torch.rand(images.shape, generator=rng)
        moved = (images + noise).detach().requires_grad_(True)
        functional.cross_entropy(surrogate.model(moved), labels, reduction="sum").backward()
        assert moved.grad is not None
        noise = (noise - RADIUS / 5 * moved.grad.sign()).clamp(-RADIUS, RADIUS)
        noise = ((images + noise).clamp(0, 1) - images).detach()
    return noise


def test_stable_noise_without_disturbance_or_adversary_is_error_minimising_on_batches(
    digits: Dataset,
) -> None:
    images, labels = as_pixels(digits.train_images[:60]), digits.train_labels[:60]
    settings = StableErrorMinimizing(surrogate_steps=5, batch_size=25, random_radius=0.0, **PLAIN)
    surrogate = Surrogate(settings.surrogate, (1, 8, 8), 10, 3, settings.learning_rate)
    for step, factor in enumerate((1.0, 1.0, 0.1, 0.1, 0.01)):
        rng = generator(3, "sem", "step", step)
        order = torch.randperm(60, generator=generator(3, "sem", "epoch", step // 3))
        rows = order.split(25)[step % 3]
        noise = minimised(surrogate, images[rows], labels[rows], rng)
        surrogate.scale_rates(factor)
        surrogate.step(images[rows] + (noise * 255).round() / 255, labels[rows])
    expected = [
        minimised(surrogate, images[rows], labels[rows], generator(3, "sem", "final", number))
        for number, rows in enumerate(torch.arange(60).split(25))
    ]
    assert torch.equal(settings.noise(images, labels, 3), torch.cat(expected))


def test_the_adversary_of_robust_noise_is_projected_gradient_ascent() -> None:
    """On a linear loss with known gradients, one pixel after another, in NumPy."""
    weights = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    images = torch.rand(4, 1, 3, 3, generator=generator(0, "images"))
    images[0] = images[0].round()

    def loss(moved: Tensor) -> Tensor:
        return (torch.from_numpy(weights) * moved.flatten(1).square()).sum()

    settings = RobustErrorMinimizing(adversary_radius=4 / 255, adversary_steps=7)
    found = settings.attack(loss, images, generator(1, "adversary"))
    start = torch.rand(images.shape, generator=generator(1, "adversary")) * 2 - 1
    for image, own, drawn, change in zip(
        images.flatten(1).numpy(), weights, start.flatten(1).numpy(), found.flatten(1), strict=True
    ):
        for pixel, weight, first, got in zip(image, own, drawn, change.tolist(), strict=True):
            moved = np.clip(pixel + 4 / 255 * first, 0, 1)
            for _ in range(7):
                moved = moved + np.sign(2 * weight * moved) * 0.8 / 255
                moved = np.clip(np.clip(moved, pixel - 4 / 255, pixel + 4 / 255), 0, 1)
            assert got == pytest.approx(moved - pixel, abs=1e-6)


@pytest.fixture(scope="module")
def fitted(digits: Dataset) -> tuple[Surrogate, Tensor, Tensor]:
    images, labels = as_pixels(digits.train_images), digits.train_labels
    settings = RobustErrorMinimizing()
    surrogate = Surrogate(settings.surrogate, (1, 8, 8), 10, 0, 0.1)
    surrogate.fit(images, labels, 8, 30, 0, generator(0, "fit"))
    return surrogate, images, labels


def test_robust_noise_withstands_its_adversary_better_than_plain_noise_does(
    fitted: tuple[Surrogate, Tensor, Tensor],
) -> None:
    """Against one fixed network: the worst case of noise made for it is lower. Seed 0."""
    surrogate, images, labels = fitted
    loss = surrogate.make_loss(labels)
    robust = RobustErrorMinimizing(radius=16 / 255, transforms=1, padding=0, flip=False)
    plain = StableErrorMinimizing(radius=16 / 255, random_radius=0.0, **PLAIN)
    worst = {}
    for name, settings in (("robust", robust), ("plain", plain)):
        noise = settings.make_batch_noise(surrogate, images, labels, generator(0, "noise"))
        attack = robust.attack(loss, images + noise, generator(0, "attack"))
        worst[name] = float(loss(images + noise + attack))
    assert worst["robust"] < worst["plain"]


def test_the_passes_of_stable_and_robust_noise_are_those_of_the_papers(digits: Dataset) -> None:
    """An image of a step: SEM K_u J + K_a + 1, REM K_u J (K_a + 1) + K_a + 1; then once more."""
    images, labels = as_pixels(digits.train_images[:30]), digits.train_labels[:30]
    shape: dict[str, Any] = {
        "surrogate_steps": 2,
        "batch_size": 30,
        "noise_steps": 3,
        "transforms": 2,
        "adversary_steps": 4,
    }
    with count_passes() as stable:
        StableErrorMinimizing(**shape).noise(images, labels, 0)
    with count_passes() as robust:
        RobustErrorMinimizing(**shape).noise(images, labels, 0)
    assert stable.passes == 30 * (2 * (3 * 2 + 4 + 1) + 3 * 2)
    assert robust.passes == 30 * (2 * (3 * 2 * 5 + 4 + 1) + 3 * 2 * 5)


def test_the_passes_of_error_minimising_noise_are_those_of_the_paper(digits: Dataset) -> None:
    images, labels = as_pixels(digits.train_images), digits.train_labels
    settings = ErrorMinimizing(
        surrogate_steps=3, noise_steps=7, max_passes=2, stop_error=0.0, batch_size=40
    )
    with count_passes() as effort:
        settings.noise(images, labels, 0)
    assert effort.passes == 2 * (3 * 40 + 7 * 120)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_gradients_of_a_surrogate_are_clipped_only_where_that_is_asked_for(
    clip: float | None, digits: Dataset
) -> None:
    """One step with rate 0.1 without momentum yet: the change is the gradient and the decay."""
    images, labels = as_pixels(digits.train_images[:30]), digits.train_labels[:30]
    settings = StableErrorMinimizing(surrogate_steps=1, clip_gradient=clip, **PLAIN)
    surrogate = Surrogate(settings.surrogate, (1, 8, 8), 10, 0, 0.1, settings.clip_gradient)
    before = [parameter.clone() for parameter in surrogate.parameters]
    surrogate.step(images, labels)
    moves = [
        (old - new) / 0.1 - 5e-4 * old
        for old, new in zip(before, surrogate.parameters, strict=True)
    ]
    norm = float(torch.cat([move.flatten() for move in moves]).norm())
    assert norm > 0.1 if clip is None else norm == pytest.approx(clip, rel=1e-2)
    trained = settings.train_surrogate(images, labels, 0)
    assert trained.clip_gradient == clip


def tiny_network() -> nn.Sequential:
    with seed_torch(0, "tiny"):
        layers = (nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
        return nn.Sequential(*layers).double()


def test_the_tangent_kernel_is_that_of_autograd_jacobians() -> None:
    model = tiny_network()
    images = torch.rand(5, 1, 3, 3, generator=generator(0, "images"), dtype=torch.float64)
    rows = []
    for image in images:
        model.zero_grad()
        model(image[None]).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
    jacobian = torch.stack(rows)
    found = compute_tangents(model, images)
    torch.testing.assert_close(found @ found.T, jacobian @ jacobian.T, rtol=1e-10, atol=1e-12)


def test_the_prediction_is_what_gradient_descent_on_the_tangents_learns() -> None:
    """Many small steps of plain gradient descent, against the closed form."""
    rng = generator(0, "features")
    train = torch.randn(6, 20, generator=rng, dtype=torch.float64)
    test = torch.randn(4, 20, generator=rng, dtype=torch.float64)
    labels = functional.one_hot(torch.arange(6) % 3).double()
    scale = train.square().sum(1).mean().sqrt()
    weights, rate, time = torch.zeros(20, 3, dtype=torch.float64), 1e-3, 5.0
    for _ in range(round(time / rate)):
        residual = train / scale @ weights - labels
        weights -= rate * (train / scale).T @ residual / 6
    expected = test / scale @ weights
    found = predict(train, test, labels, time)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_cross_entropy_of_a_prediction_is_that_of_its_softmax() -> None:
    guess = torch.randn(4, 3, generator=generator(0, "guess"), dtype=torch.float64)
    truth = functional.one_hot(torch.tensor([0, 2, 1, 1]), 3).double()
    shares = np.exp(guess.numpy()) / np.exp(guess.numpy()).sum(1, keepdims=True)
    expected = -np.log((shares * truth.numpy()).sum(1)).sum()
    assert float(neural_tangent.cross_entropy(guess, truth)) == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_tangent_noise_raises_its_loss(loss: Any, digits: Dataset) -> None:
    images, labels = as_pixels(digits.train_images[:40]), digits.train_labels[:40]
    settings = NeuralTangent(16 / 255, block_size=40, num_targets=40, noise_steps=4, loss=loss)
    moved = images + settings.noise(images, labels, 0)
    network = build_network(settings.surrogate, (1, 8, 8), 1, 0)
    model = nn.Sequential(*network.frozen, *network.trained).eval()
    wanted = functional.one_hot(labels).double()
    features, raised = compute_tangents(model, images), getattr(neural_tangent, loss)
    clean, noisy = (
        float(raised(predict(compute_tangents(model, seen), features, wanted, 64.0), wanted))
        for seen in (images, moved)
    )
    assert noisy > clean


def test_tangents_of_a_foundation_model_are_found_image_by_image() -> None:
    """EfficientNet-Lite0 scales images, channels last, which works for whole batches alone."""
    lite = Model(backbone="efficientnet_lite0", pixels=32)
    images = torch.rand(2, 1, 8, 8, generator=generator(0, "images"))
    settings = NeuralTangent(surrogate=lite, block_size=2, num_targets=1, noise_steps=1)
    noise = settings.noise(images, torch.arange(2), 0)
    assert float(noise.abs().max()) == pytest.approx(8 / 255)


def test_a_surrogate_that_cannot_be_differentiated_twice_is_refused() -> None:
    settings = NeuralTangent(surrogate=Model(backbone="mobilenet_v3_small", pixels=32))
    with pytest.raises(FieldError, match=r"surrogate.backbone: a network .*hardsigmoid"):
        settings.check((3, 16, 16), 10)
