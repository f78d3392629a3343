"""Surrogate networks, which protections train to make their noise."""

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Protection
from fl_sim.core import pass_counter
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.core.perturbation import Loss
from fl_sim.core.resumable import Checkpoint
from fl_sim.core.serialization import field_values
from fl_sim.core.transforms import draw_crop_flip
from fl_sim.model import Model
from fl_sim.models.architectures import to_channels_last
from fl_sim.models.batches import min_batch_size, split_batches
from fl_sim.models.modes import fold_batch_norms
from fl_sim.models.tuning import build_network, list_trained_parameters

BatchLoss = Callable[[nn.Sequential, Tensor, Tensor], Tensor]  # of a network, images and labels

CLIP_GRADIENT = 5.0
BATCH = 256  # of an evaluation


def compute_loss(
    network: nn.Sequential, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy."""
    return functional.cross_entropy(network(images), labels)


class Surrogate:
    """A network under training (SGD, momentum 0.9, weight decay 5e-4).

    Gradients are clipped to a norm of `clip_gradient`, 5 as in the code of error-minimising noise;
    that of REM, SEM and TAP does not clip (None).

    Between two steps the network is frozen and in evaluation mode, so that gradients with respect
    to images use the running statistics and none is computed for the parameters.
    """

    def __init__(
        self,
        model: Model,
        image_shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
        learning_rate: float,
        clip_gradient: float | None = CLIP_GRADIENT,
    ) -> None:
        network = build_network(model, image_shape, num_classes, seed)
        self.model = to_channels_last(nn.Sequential(*network.frozen, *network.trained))
        self.trained = network.trained
        self.start_rate, self.clip_gradient = learning_rate, clip_gradient
        self.parameters: list[nn.Parameter] = []
        rates: dict[float, list[nn.Parameter]] = {}
        for parameter, rate in list_trained_parameters(network.trained):
            self.parameters.append(parameter)
            rates.setdefault(rate, []).append(parameter)
        groups = [{"params": p, "lr": r * learning_rate, "rate": r} for r, p in rates.items()]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
        self._freeze()

    def step(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
        loss: BatchLoss = compute_loss,
    ) -> None:
        """Take one step on a batch."""
        pass_counter.count(len(images))
        self.trained.train()
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer.zero_grad()
        loss(self.model, images, labels).backward()
        if self.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_gradient)
        self.optimizer.step()
        self._freeze()

    def min_batch_size(self, images: Float[Tensor, "n c h w"]) -> int:
        """Return the smallest batch that a step can be taken on: 1 or 2."""
        return min_batch_size(self.model, images, self.trained)

    def state_dict(self, num_steps: int, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return all that the next step depends on, with the number of steps taken so far."""
        momenta = {
            f"momentum.{index}": state["momentum_buffer"]
            for index, state in self.optimizer.state_dict()["state"].items()
        }
        weights = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        drawn = {} if rng is None else {"rng": rng.get_state()}
        return {**weights, **momenta, **drawn, "num_steps": torch.tensor(num_steps)}

    def load_state_dict(self, state: dict[str, Tensor], rng: torch.Generator | None = None) -> int:
        """Load a state of `state_dict`, and return the number of steps taken so far."""
        weights = {n.removeprefix("model."): v for n, v in state.items() if n.startswith("model.")}
        self.model.load_state_dict(weights)
        momenta = {
            int(name.removeprefix("momentum.")): {"momentum_buffer": value}
            for name, value in state.items()
            if name.startswith("momentum.")
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": momenta, "param_groups": groups})
        if rng is not None:
            rng.set_state(state["rng"])
        return int(state["num_steps"])

    def scale_rates(self, factor: float) -> None:
        """Set the learning rates to `factor` times the initial ones."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * self.start_rate * factor

    def fit(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
        num_epochs: int,
        batch_size: int,
        padding: int,
        rng: torch.Generator,
        loss: BatchLoss = compute_loss,
    ) -> None:
        """Train on the images as given, with random crops and flips if `padding` is above 0.

        The learning rate falls to a tenth at half of the epochs, and again at three quarters. An
        interrupted call is resumed from its checkpoint.
        """
        checkpoint = Checkpoint("surrogate")
        saved = checkpoint.load()
        for epoch in range(0 if saved is None else self.load_state_dict(saved, rng), num_epochs):
            self.scale_rates(0.1 ** ((2 * epoch >= num_epochs) + (4 * epoch >= 3 * num_epochs)))
            order = torch.randperm(len(images), generator=rng)
            for rows in split_batches(order, batch_size, self.min_batch_size(images)):
                batch = images[rows]
                if padding:
                    batch = draw_crop_flip(len(rows), padding, True, rng)(batch)
                self.step(batch, labels[rows], loss)
            if checkpoint.is_due() or epoch + 1 == num_epochs:
                checkpoint.save(self.state_dict(epoch + 1, rng))

    def make_loss(self, labels: Int64[Tensor, " n"]) -> Loss:
        """Return the summed loss as a function of images with these labels.

        The function uses the current weights and is valid until the next step.
        """
        network = fold_batch_norms(self.model)

        def summed_loss(images: Tensor) -> Tensor:
            pass_counter.count(len(images))
            return functional.cross_entropy(network(images), labels, reduction="sum")

        return summed_loss

    @torch.no_grad()
    def compute_error(self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]) -> float:
        """Return the error rate of the network on these images, in [0, 1]."""
        network = fold_batch_norms(self.model)
        right = [
            (network(batch).argmax(1) == targets).sum()
            for batch, targets in zip(images.split(BATCH), labels.split(BATCH), strict=True)
        ]
        return 1 - int(torch.stack(right).sum()) / len(images)

    def _freeze(self) -> None:
        self.model.eval().requires_grad_(False)


class BatchCycle:
    """Endless batches in one fixed random order.

    A remainder of fewer than `min_size` images is added to the batch before it.
    """

    def __init__(
        self, num_images: int, batch_size: int, rng: torch.Generator, min_size: int = 1
    ) -> None:
        self.order = torch.randperm(num_images, generator=rng)
        self.batch_size, self.position, self.min_size = batch_size, 0, min_size

    def next(self) -> Int64[Tensor, " m"]:
        """Return the rows of the next batch; the last of a pass may differ in size."""
        end = self.position + self.batch_size
        if len(self.order) - end < self.min_size:  # the remainder is empty or too small
            end = len(self.order)
        rows = self.order[self.position : end]
        self.position += len(rows)
        if self.position >= len(self.order):
            self.position = 0
        return rows


def count_cycled(num_images: int, batch_size: int, num_steps: int) -> int:
    """Return the number of images in so many batches of a `BatchCycle`.

    >>> count_cycled(100, 40, 4)  # 40, 40, 20 and 40
    140
    """
    rounds, rest = divmod(num_steps, math.ceil(num_images / batch_size))
    return rounds * num_images + rest * batch_size


def find_obstacle(
    protection: Protection, image_shape: tuple[int, int, int], num_classes: int
) -> str:
    """Return the reason why a protection cannot be made for such images, or an empty string.

    Its networks are tried on one image, since some need images of a minimum size.

    Args:
        protection: The protection; its networks are its fields of type `Model`.
        image_shape: Channels, height and width.
        num_classes: Number of classes.

    Raises:
        FieldError: If a network cannot be built, or `Protection.check` refuses a field.
    """
    if num_classes < protection.min_classes:
        return "at least two classes are needed, to have something to tell apart"
    if min(image_shape[1:]) < protection.min_side:
        return f"images have to be {protection.min_side} pixels wide and high at least"
    if protection.norm == "linf" and protection.radius * 255 + 1e-6 < 1:
        return "no pixel would change: a radius below 1/255 is less than one of 256 levels"
    causes = [
        _find_misfit(name, model, image_shape, num_classes)
        for name, model in field_values(protection).items()
        if isinstance(model, Model)
    ]
    cause = next(filter(None, causes), "")
    if not cause:
        protection.check(image_shape, num_classes)
    return cause


def _find_misfit(
    name: str, model: Model, image_shape: tuple[int, int, int], num_classes: int
) -> str:
    if model.init == "planted":
        raise FieldError(f"{name}.init", "'random' or 'pretrained' for a protection", model.init)
    try:
        with warnings.catch_warnings(action="ignore"):  # about layers without weights
            network = build_network(model, image_shape, num_classes, seed=0)
        whole = nn.Sequential(*network.frozen, *network.trained).eval()
        whole(torch.zeros(1, *image_shape))
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        if isinstance(error, FieldError):
            field = error.field.replace("model", name, 1)
            raise FieldError(field, error.allowed, error.got) from None
        if isinstance(error, RequestError):
            raise
        _, height, width = image_shape
        cause = str(error).splitlines()[0]
        return f"images of {height} x {width} do not fit its network {model.backbone} ({cause})"
    return ""
