"""Auto-PGD: projected gradient ascent that halves the step of each image once it stalls."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.core.perturbation import project

Losses = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, " n"]]
MOMENTUM = 0.75
RISING = 0.75  # share of the steps since the last checkpoint that have to raise the loss


def auto_pgd(
    losses: Losses,
    images: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    radius: float,
    num_steps: int,
) -> Float[Tensor, "n c h w"]:
    """Return the noise of highest loss that is found within the radius, image by image.

    Steps begin at twice the radius, with momentum. At each checkpoint an image whose loss did not
    rise often enough, or whose best loss stayed the same although its step was not halved before,
    goes back to its best point and continues with half the step.

    Source: Croce and Hein (2020), algorithm 1, https://arxiv.org/abs/2003.01690.

    Args:
        losses: Function from a batch of images in [0, 1] to the loss of each.
        images: Clean images, in [0, 1].
        noise: Noise to start from.
        radius: Largest change of a pixel, in [0, 1], such as 8/255.
        num_steps: Number of steps; a forward and backward pass each, and one for the start.
    """
    search = _Search(losses, images, radius, noise)
    checkpoint_steps = set(list_checkpoints(num_steps))
    for step in range(1, num_steps + 1):
        search.step(first=step == 1)
        if step in checkpoint_steps:
            search.check_progress()
    return search.best_noise


def list_checkpoints(num_steps: int) -> list[int]:
    """Return the steps after which progress is checked.

    As shares of all steps they are 0.22, 0.41, 0.57 ...: each gap is 0.03 shorter than the one
    before, and at least 0.06.

    >>> list_checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    # Rounded first, since 0.57 * 100 comes out above 57.
    return [-int(-round(share * num_steps, 6) // 1) for share in shares[1:] if share < 1]


@dataclass
class _Search:
    """State of the search: the current and the best noise of each image."""

    losses: Losses
    images: Float[Tensor, "n c h w"]
    radius: float
    noise: Float[Tensor, "n c h w"]

    def __post_init__(self) -> None:
        count = len(self.images)
        self.step_size = torch.full((count,), 2 * self.radius)
        self.loss, self.gradient = self._evaluate(self.noise)
        self.before = self.noise
        self.best, self.best_noise, self.best_gradient = self.loss, self.noise, self.gradient
        self.rises, self.steps = torch.zeros(count), 0
        self.halved = torch.ones(count, dtype=torch.bool)
        self.best_at_last_check = self.best

    def step(self, first: bool) -> None:
        """Take a step with momentum; the first step has none."""
        length = _by_image(self.step_size)
        ahead = self._project(self.noise + length * self.gradient.sign())
        momentum = 1.0 if first else MOMENTUM
        drift = momentum * (ahead - self.noise) + (1 - momentum) * (self.noise - self.before)
        self.before, self.noise = self.noise, self._project(self.noise + drift)
        loss, self.gradient = self._evaluate(self.noise)
        self.rises += loss > self.loss
        self.loss, self.steps = loss, self.steps + 1
        better = loss > self.best
        self.best = torch.where(better, loss, self.best)
        self.best_noise = torch.where(_by_image(better), self.noise, self.best_noise)
        self.best_gradient = torch.where(_by_image(better), self.gradient, self.best_gradient)

    def check_progress(self) -> None:
        """Halve the steps of stalled images, and return those to their best noise."""
        rises_seldom = self.rises < RISING * self.steps
        is_stuck = ~self.halved & (self.best <= self.best_at_last_check)
        self.halved = rises_seldom | is_stuck
        self.best_at_last_check = self.best
        self.step_size = torch.where(self.halved, self.step_size / 2, self.step_size)
        back: Bool[Tensor, "n 1 1 1"] = _by_image(self.halved)
        self.noise = torch.where(back, self.best_noise, self.noise)
        self.before = torch.where(back, self.best_noise, self.before)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)
        self.loss = torch.where(self.halved, self.best, self.loss)
        self.rises, self.steps = torch.zeros_like(self.rises), 0

    def _project(self, noise: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return project(noise, self.images, self.radius)

    def _evaluate(
        self, noise: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c h w"]]:
        moved = (self.images + noise).requires_grad_(True)
        losses = self.losses(moved)
        (gradient,) = torch.autograd.grad(losses.sum(), moved)
        return losses.detach(), gradient


def _by_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
