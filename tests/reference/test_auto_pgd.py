"""Auto-PGD: its checkpoints, its radius, and at least the loss of plain steps."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.auto_pgd import auto_pgd, list_checkpoints
from fl_sim.core.perturbation import sample_uniform, take_sign_steps
from fl_sim.core.seeding import generator, seed_torch

RADIUS = 8 / 255


def network() -> nn.Sequential:
    with seed_torch(0, "network"):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(288, 5)
        ).requires_grad_(False)


def batch(count: int = 40) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 1, 8, 8, generator=generator(0, "images"))
    return images, torch.arange(count) % 5


def test_checkpoints_are_those_of_the_paper() -> None:
    """Croce and Hein (2020), section 3.1: p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87 ..."""
    assert list_checkpoints(1000)[:6] == [220, 410, 570, 700, 800, 870]
    assert list_checkpoints(10) == [3, 5, 6, 7, 8, 9, 10, 10]


def test_the_highest_loss_is_kept_and_the_ball_too() -> None:
    model, (images, labels) = network(), batch()

    def losses(moved: Tensor) -> Tensor:
        return functional.cross_entropy(model(moved), labels, reduction="none")

    seen: list[Tensor] = []

    def spied(moved: Tensor) -> Tensor:
        found = losses(moved)
        seen.append(found.detach())
        return found

    start = sample_uniform(images, RADIUS, generator(0, "start"))
    noise = auto_pgd(spied, images, start, RADIUS, 20)
    assert len(seen) == 21
    torch.testing.assert_close(losses(images + noise), torch.stack(seen).amax(0))
    assert float(noise.abs().max()) <= RADIUS + 1e-7
    assert float((images + noise).min()) >= 0
    assert float((images + noise).max()) <= 1


def test_it_finds_at_least_the_loss_of_plain_steps() -> None:
    """Same start, same number of steps, no step size to choose: Croce and Hein's claim."""
    model, (images, labels) = network(), batch(200)

    def losses(moved: Tensor) -> Tensor:
        return functional.cross_entropy(model(moved), labels, reduction="none")

    start = sample_uniform(images, RADIUS, generator(0, "start"))
    own = auto_pgd(losses, images, start, RADIUS, 20)
    for step in (RADIUS / 10, RADIUS / 5, RADIUS):
        plain = take_sign_steps(
            lambda moved: losses(moved).sum(), images, start, RADIUS, step, 20, "maximise"
        )
        ours, theirs = float(losses(images + own).mean()), float(losses(images + plain).mean())
        assert ours >= theirs - 1e-3, step


@pytest.mark.parametrize("count", [1, 7])
def test_each_image_is_attacked_by_itself(count: int) -> None:
    model, (images, labels) = network().double(), batch()
    images = images.double()
    start = sample_uniform(images.float(), RADIUS, generator(0, "start")).double()

    def attacked(rows: slice) -> Tensor:
        def losses(moved: Tensor) -> Tensor:
            return functional.cross_entropy(model(moved), labels[rows], reduction="none")

        return auto_pgd(losses, images[rows], start[rows], RADIUS, 12)

    torch.testing.assert_close(
        attacked(slice(0, 40))[:count], attacked(slice(0, count)), rtol=0, atol=1e-5
    )
