"""The network that a protection trains to make its noise: one way to train it for all of them."""

import warnings

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
from fl_sim.experiment import Model
from fl_sim.models.architectures import to_channels_last
from fl_sim.models.batches import min_batch_size, split_batches
from fl_sim.models.modes import fold_batch_norms
from fl_sim.models.tuning import build_network, list_trained_parameters

CLIP_GRADIENT = 5.0
BATCH = 256  # of an evaluation


class Surrogate:
    """A network under training (SGD, momentum 0.9, weight decay 5e-4).

    Gradients are clipped to a norm of 5 unless `clip_gradient` says otherwise, as in the code of
    error-minimising noise; that of REM, SEM and TAP does not clip.

    Between two steps it is frozen and in evaluation mode, so that gradients with respect to
    images see the running statistics and cost nothing for the parameters.
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
        groups = [{"params": own, "lr": r * learning_rate, "rate": r} for r, own in rates.items()]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)
        self._freeze()

    def step(self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]) -> None:
        """Take one step on a batch."""
        pass_counter.count(len(images))
        self.trained.train()
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(images), labels).backward()
        if self.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_gradient)
        self.optimizer.step()
        self._freeze()

    def min_batch_size(self, images: Float[Tensor, "n c h w"]) -> int:
        """Return the fewest images on which a step can be taken."""
        return min_batch_size(self.model, images, self.trained)

    def state_dict(self, num_steps: int, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return all that the next step depends on, and how many were taken."""
        momenta = {
            f"momentum.{index}": own["momentum_buffer"]
            for index, own in self.optimizer.state_dict()["state"].items()
        }
        weights = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        drawn = {} if rng is None else {"rng": rng.get_state()}
        return {**weights, **momenta, **drawn, "num_steps": torch.tensor(num_steps)}

    def load_state_dict(self, state: dict[str, Tensor], rng: torch.Generator | None = None) -> int:
        """Take up a state again, and return how many steps were taken."""
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
        """Set the learning rate to `factor` times that of the start."""
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
    ) -> None:
        """Train on images as they are, with random crops and flips where `padding` is above 0.

        The learning rate falls to a tenth at half of the epochs, and again at three quarters. What
        an interrupted call has kept is taken up again.
        """
        checkpoint = Checkpoint("surrogate")
        kept = checkpoint.load()
        for epoch in range(0 if kept is None else self.load_state_dict(kept, rng), num_epochs):
            self.scale_rates(0.1 ** ((2 * epoch >= num_epochs) + (4 * epoch >= 3 * num_epochs)))
            order = torch.randperm(len(images), generator=rng)
            for rows in split_batches(order, batch_size, self.min_batch_size(images)):
                batch = images[rows]
                if padding:
                    batch = draw_crop_flip(len(rows), padding, True, rng)(batch)
                self.step(batch, labels[rows])
            if checkpoint.is_due() or epoch + 1 == num_epochs:
                checkpoint.save(self.state_dict(epoch + 1, rng))

    def make_loss(self, labels: Int64[Tensor, " n"]) -> Loss:
        """Return the loss, summed, as a function of the images that have these labels.

        It is that of the network as it is now, until the next step.
        """
        network = fold_batch_norms(self.model)

        def of(images: Tensor) -> Tensor:
            pass_counter.count(len(images))
            return functional.cross_entropy(network(images), labels, reduction="sum")

        return of

    @torch.no_grad()
    def compute_error(self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]) -> float:
        """Return the share of images that the network gets wrong."""
        network = fold_batch_norms(self.model)
        right = [
            (network(batch).argmax(1) == own).sum()
            for batch, own in zip(images.split(BATCH), labels.split(BATCH), strict=True)
        ]
        return 1 - int(torch.stack(right).sum()) / len(images)

    def _freeze(self) -> None:
        self.model.eval().requires_grad_(False)


class BatchCycle:
    """Batches in one order that never changes, each call going on where the last one stopped.

    A rest of fewer than `least` joins the batch before it.
    """

    def __init__(
        self, num_images: int, batch_size: int, rng: torch.Generator, min_size: int = 1
    ) -> None:
        self.order = torch.randperm(num_images, generator=rng)
        self.batch_size, self.position, self.min_size = batch_size, 0, min_size

    def next(self) -> Int64[Tensor, " m"]:
        """Return the rows of the next batch; the last one of a pass may be smaller."""
        end = self.position + self.batch_size
        if len(self.order) - end < self.min_size:  # nothing, or a rest that is too small, is left
            end = len(self.order)
        rows = self.order[self.position : end]
        self.position += len(rows)
        if self.position >= len(self.order):
            self.position = 0
        return rows


def find_obstacle(
    protection: Protection, image_shape: tuple[int, int, int], num_classes: int
) -> str:
    """Return why a protection cannot be made for such images; "" where it can.

    Its networks are shown one image: some take only images from a certain size on.

    Args:
        protection: whatever has `Model` fields.
        image_shape: channels, height and width.
        num_classes: how many classes there are.

    Raises:
        FieldError: for a network that cannot be built, and what `Protection.check` refuses, by
            the field of the protection.
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
    try:
        with warnings.catch_warnings(action="ignore"):  # of layers without a single weight
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
