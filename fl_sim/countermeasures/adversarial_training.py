"""Adversarial training: training on the worst point near each image."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Images, WorstCase
from fl_sim.core.auto_pgd import auto_pgd
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import Loss, project, sample_uniform, take_sign_steps
from fl_sim.models.modes import eval_mode

TINY = 1e-3  # standard deviation of TPGD's start, since its gradient at the image itself is 0


@final
@dataclass(frozen=True)
class AdversarialTraining(WorstCase):
    """Training on batches that are attacked first, with the network in evaluation mode.

    The strongest known countermeasure to noise of a small radius. It costs one more pass per step
    of the attack.

    Source: Madry et al. (2018), https://arxiv.org/abs/1706.06083 (`pgd`); Goodfellow et al.
    (2015), https://arxiv.org/abs/1412.6572 (`fgsm`); Zhang et al. (2019),
    https://arxiv.org/abs/1901.08573 (`tpgd`, the attack of TRADES); Croce and Hein (2020),
    https://arxiv.org/abs/2003.01690 (`apgd`). Steps as in Fu et al. (2022).

    Attributes:
        radius: Largest change of a pixel, in [0, 1]; papers on protection use half of the
            noise's radius (4/255) and all of it (8/255).
        attack: `pgd` from a random start; `fgsm`, one step of the whole radius; `tpgd`, away
            from the network's own prediction; or `apgd`, which adapts its step size per image.
        steps: Number of steps; `fgsm` always takes one.
        step_size: Size of a step of `pgd` and `tpgd`, in [0, 1]; None for a fifth of the radius.
    """

    radius: float = 4 / 255
    attack: Literal["pgd", "fgsm", "tpgd", "apgd"] = "pgd"
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 0 <= self.radius <= 1
        require(fits, "radius", "in pixels of [0, 1], such as 4/255", self.radius)
        require_at_least(self, 1, "steps")
        require_above(self, 0, "step_size", or_none=True)

    def find_worst(
        self, model: nn.Module, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
    ) -> Images:
        """Return the attacked batch."""
        if self.radius == 0:
            return images
        with eval_mode(model) as still:
            if self.attack == "apgd":
                start = sample_uniform(images, self.radius, rng)
                losses = partial(_losses, still, targets)
                return images + auto_pgd(losses, images, start, self.radius, self.steps)
            loss, start = self._choose_attack(still, images, targets, rng)
            step = self.step_size or self.radius / 5
            steps = self.steps
            if self.attack == "fgsm":
                step, steps = self.radius, 1
            return images + take_sign_steps(
                loss, images, start, self.radius, step, steps, "maximise"
            )

    def _choose_attack(
        self, model: nn.Module, images: Tensor, targets: Tensor, rng: torch.Generator
    ) -> tuple[Loss, Images]:
        """Return the loss that the attack maximises, and its start."""
        if self.attack == "tpgd":
            with torch.no_grad():
                prediction = model(images).softmax(1)

            def divergence(moved: Tensor) -> Tensor:
                return functional.kl_div(model(moved).log_softmax(1), prediction, reduction="sum")

            start = TINY * torch.randn(images.shape, generator=rng)
            return divergence, project(start, images, self.radius)

        def loss(moved: Tensor) -> Tensor:
            return _losses(model, targets, moved).sum()

        if self.attack == "fgsm":
            return loss, torch.zeros_like(images)
        return loss, sample_uniform(images, self.radius, rng)


def _losses(model: nn.Module, targets: Float[Tensor, "n y"], moved: Images) -> Float[Tensor, " n"]:
    return functional.cross_entropy(model(moved), targets, reduction="none")
