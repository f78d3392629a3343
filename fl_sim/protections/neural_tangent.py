"""Neural tangent generalisation attack: noise against a closed-form network."""

import math
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core import pass_counter, serialization
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import take_sign_steps
from fl_sim.core.resumable import Checkpoint
from fl_sim.core.seeding import generator
from fl_sim.model import Model
from fl_sim.models.tuning import build_network
from fl_sim.protections._shared.alternating_optimization import get_image_shape

RIDGE = 1e-4  # added to a kernel with a mean diagonal of 1, so that it can be inverted


@final
@dataclass(frozen=True)
class NeuralTangent(Protection):
    """Noise that spoils a network's generalisation, by its neural tangent kernel (NTGA).

    The prediction of a wide network trained for a time t has a closed form. For one block of
    training images after another, sign steps raise the loss of that prediction on clean images.
    The kernel is that of one finite network at its initialisation, with one output.

    Source: Yuan and Wu (2021), Neural Tangent Generalization Attacks, section 3,
    https://proceedings.mlr.press/v139/yuan21b.html, with an empirical kernel instead of that
    of infinite width. The default of the authors' function is the squared error, as here; their
    scripts use cross-entropy (`loss="cross_entropy"`). They spoil predictions on held-out images;
    the clean images here are drawn from the attacked ones, since an owner has no others. On grey
    images the paper needs a radius of 77/255.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        surrogate: Network whose kernel is used; without batch statistics by default.
        block_size: Number of images that are attacked together; cost grows with its square.
        num_targets: Number of clean images per block whose prediction is spoilt; all if there are
            fewer.
        noise_steps: Number of sign steps per block, each of 1.1 times the radius over this number.
        train_time: Time t, in steps of gradient descent with rate 1 on the block's mean error,
            with the kernel scaled to a mean diagonal of 1.
        loss: Loss of the prediction that is raised.
    """

    radius: float = 8 / 255
    surrogate: Model = field(default_factory=lambda: Model(norm="off"))
    block_size: int = 100
    num_targets: int = 100
    noise_steps: int = 10
    train_time: float = 64.0
    loss: Literal["squared_error", "cross_entropy"] = serialization.omit_if_default("squared_error")
    short: ClassVar[str] = "ntga"
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "block_size", "num_targets", "noise_steps")
        require_above(self, 0, "train_time")

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Refuse a surrogate whose gradients cannot be differentiated image by image."""
        cause = _explain_refusal(self.surrogate, image_shape)
        allowed = f"a network for images of {image_shape} that torch.func differentiates twice"
        name = self.surrogate.backbone
        require(not cause, "surrogate.backbone", f"{allowed} ({cause})", name)

    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of sign steps times that of images, and the targets of each block."""
        blocks = math.ceil(num_images / self.block_size)
        return self.noise_steps * num_images + blocks * min(self.num_targets, num_images)

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return noise that is made for one random block of images after another."""
        network = build_network(self.surrogate, get_image_shape(images), 1, seed)
        model = nn.Sequential(*network.frozen, *network.trained).eval().requires_grad_(False)
        one_hot = functional.one_hot(labels).double()
        loss = squared_error if self.loss == "squared_error" else cross_entropy
        rng, checkpoint = generator(seed, "neural_tangent"), Checkpoint("blocks")
        saved = checkpoint.load() or {"noise": torch.zeros_like(images), "done": torch.tensor(0)}
        noise, done = saved["noise"], int(saved["done"])
        blocks = torch.randperm(len(images), generator=rng).split(self.block_size)
        for number, rows in enumerate(blocks):
            targets = torch.randperm(len(images), generator=rng)[: self.num_targets]
            if number < done:
                continue
            features = compute_tangents(model, images[targets])

            def error(
                moved: Tensor,
                features: Tensor = features,
                truth: Tensor = one_hot[targets],
                block_labels: Tensor = one_hot[rows],
            ) -> Tensor:
                tangents = compute_tangents(model, moved)
                return loss(predict(tangents, features, block_labels, self.train_time), truth)

            step, steps = 1.1 * self.radius / self.noise_steps, self.noise_steps
            start = noise[rows]
            noise[rows] = take_sign_steps(
                error, images[rows], start, self.radius, step, steps, "maximise"
            )
            if checkpoint.is_due():
                checkpoint.save({"noise": noise, "done": torch.tensor(number + 1)})
        return noise


def squared_error(guess: Float[Tensor, "t y"], truth: Float[Tensor, "t y"]) -> Float[Tensor, ""]:
    """Return the sum of the squared differences."""
    return (guess - truth).square().sum()


def cross_entropy(guess: Float[Tensor, "t y"], truth: Float[Tensor, "t y"]) -> Float[Tensor, ""]:
    """Return the summed cross-entropy of predictions, taken as logits."""
    return functional.cross_entropy(guess, truth, reduction="sum")


@lru_cache(maxsize=4)
def _explain_refusal(surrogate: Model, image_shape: tuple[int, int, int]) -> str:
    """Return the reason why a network's tangents cannot be differentiated, or an empty string."""
    network = build_network(surrogate, image_shape, 1, 0)
    model = nn.Sequential(*network.frozen, *network.trained).eval().requires_grad_(False)
    images = torch.full((1, *image_shape), 0.5, requires_grad=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # slow paths through torch.func
            torch.autograd.grad(compute_tangents(model, images).square().sum(), images)
    except (RuntimeError, ValueError, AssertionError) as error:
        return str(error).splitlines()[0]
    return ""


def compute_tangents(model: nn.Module, images: Images) -> Float[Tensor, "n p"]:
    """Return the gradient of the network's single output by all parameters, one row per image.

    The neural tangent kernel of two sets of images is the product of their tangents. The first
    stages without parameters, such as scaling to a foundation model's size, process all images at
    once, since their handling of the memory layout does not work for single images.
    """
    pass_counter.count(len(images))
    front, model = _split_front(model)
    images = front(images)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def output(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        logit: Tensor = functional_call(model, parameters, (image[None],))
        return logit.squeeze()

    by_name = vmap(grad(output), (None, 0))(parameters, images)
    return torch.cat([part.flatten(1) for part in by_name.values()], 1)


def _split_front(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the stages before the first one with parameters, and the others."""
    if not isinstance(model, nn.Sequential):
        return nn.Identity(), model
    number = next((i for i, stage in enumerate(model) if any(True for _ in stage.parameters())), 0)
    return model[:number], model[number:]


def predict(
    train: Float[Tensor, "n p"],
    test: Float[Tensor, "t p"],
    labels: Float[Tensor, "n y"],
    time: float,
) -> Float[Tensor, "t y"]:
    """Return the predictions of a wide network after gradient descent for `time`.

    K_test K^-1 (I - exp(-time K / n)) labels, in float64, with the kernel scaled to a mean
    diagonal of 1; the initial prediction is zero.
    """
    train, test = train.double(), test.double()
    kernel = train @ train.T
    scale = kernel.diagonal().mean()
    kernel, across = kernel / scale, test @ train.T / scale
    identity = torch.eye(len(train), dtype=torch.float64)
    progress = identity - torch.linalg.matrix_exp(-time * kernel / len(train))
    weights: Tensor = torch.linalg.solve(kernel + RIDGE * identity, progress @ labels)
    return across @ weights
