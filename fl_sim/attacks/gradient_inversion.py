"""Gradient inversion: reconstruction of images from the gradient that a client sends.

Threat model: the server, which sees each client's update. It knows the model that it sent, in
evaluation mode, and the number of images over which the gradient is averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Images, Labels
from fl_sim.core import serialization
from fl_sim.core.device import computes_on_device
from fl_sim.core.errors import require_above, require_at_least
from fl_sim.core.seeding import generator

ROUNDING = 1e-5  # relative to the largest singular value of a gradient in 32-bit floats
DROPS = (3 / 8, 5 / 8, 7 / 8)  # shares of the steps after which the rate falls to a tenth


@computes_on_device
def compute_gradient(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    targets: Int64[Tensor, " n"] | Float[Tensor, "n y"],
    create_graph: bool = False,
) -> Float[Tensor, " p"]:
    """Return the flat gradient of the mean cross-entropy, in the order of the parameters.

    Args:
        model: Network, in the mode in which it is attacked.
        inputs: Images in [0, 1], or features if the model is a head.
        targets: Labels, or a distribution over classes for each input.
        create_graph: Whether the gradient will itself be differentiated.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = functional.cross_entropy(model(inputs), targets)
    gradients = torch.autograd.grad(loss, parameters, create_graph=create_graph)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def infer_gradient(
    delta: Float[Tensor, " p"], learning_rate: float, num_steps: int = 1
) -> Float[Tensor, " p"]:
    """Return the mean gradient implied by a change of the parameters.

    Exact after one step without momentum; an approximation after several.
    """
    return -delta / (learning_rate * num_steps)


def recover_head_record(
    weight_gradient: Float[Tensor, "y d"], bias_gradient: Float[Tensor, " y"]
) -> tuple[Float[Tensor, " d"], int]:
    """Return the input and the label of the single record behind a linear head's gradient.

    Exact for one record: every row of the weight's gradient is the input times the bias's. For a
    head over frozen features this gives the features, not the image.

    Source: Phong et al. (2018), section 3, https://doi.org/10.1109/TIFS.2017.2787987; the label
    is the class whose gradient is negative, Zhao et al. (2020), iDLG, section 3,
    https://arxiv.org/abs/2001.02610.
    """
    label = int(bias_gradient.argmin())
    return weight_gradient[label] / bias_gradient[label], label


def gradient_rank(weight_gradient: Float[Tensor, "y d"]) -> int:
    """Return the rank of a head's gradient: min(records, classes - 1) after one step.

    Below classes - 1 it reveals the number of records, and its row space contains their inputs.

    Source: the usual definition.
    """
    return int(torch.linalg.matrix_rank(weight_gradient.double(), rtol=ROUNDING))


@dataclass(frozen=True)
class GradientInversion:
    """Search for images whose gradient matches the one that was sent.

    `dlg` minimises the squared distance of the gradients by L-BFGS, over images and soft labels.
    `idlg` first reads the labels off the head's bias. `cosine` matches the direction of the
    gradient by signed steps of Adam, with a penalty on total variation. All need a model that can
    be differentiated twice.

    Source: Zhu et al. (2019), algorithm 1, https://arxiv.org/abs/1906.08935; Zhao et al. (2020),
    https://arxiv.org/abs/2001.02610; Geiping et al. (2020), equation 4,
    https://arxiv.org/abs/2003.14053.

    Attributes:
        method: One of the three attacks.
        steps: Number of steps of the optimiser.
        learning_rate: Step size; the authors use 1 for L-BFGS and 0.1 for `cosine`.
        total_variation: Weight of the mean difference of neighbouring pixels; `cosine` only.
        restarts: Number of random starts; the images with the closest gradient are returned.
    """

    method: Literal["dlg", "idlg", "cosine"] = "idlg"
    steps: int = 300
    learning_rate: float = 1.0
    total_variation: float = 0.0
    restarts: int = 3

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require_at_least(self, 1, "steps", "restarts")
        require_above(self, 0, "learning_rate")
        require_at_least(self, 0, "total_variation")

    @computes_on_device
    def reconstruct(
        self,
        model: nn.Module,
        gradient: Float[Tensor, " p"],
        shape: tuple[int, int, int, int],
        num_classes: int,
        seed: int,
    ) -> Images:
        """Return reconstructed images in [0, 1], in the order of their labels.

        Args:
            model: Network as it was sent out; its last parameter is the head's bias.
            gradient: Flat gradient of the client, from `compute_gradient` or `infer_gradient`.
            shape: Number of images, channels, height and width.
            num_classes: Number of outputs of the model.
            seed: Seed of the random start images.
        """
        model.eval()
        labels = infer_labels(gradient[-num_classes:], shape[0])
        candidates: list[tuple[float, Tensor]] = []
        for restart in range(self.restarts):
            rng = generator(seed, "inversion", restart)
            images = torch.rand(shape, generator=rng, dtype=gradient.dtype)
            search = _Search(model, gradient, labels, num_classes, self)
            match = search.match_cosine if self.method == "cosine" else search.match_distance
            candidates.append(match(images))
        return min(candidates, key=lambda pair: pair[0])[1]


def infer_labels(bias_gradient: Float[Tensor, " y"], count: int) -> Int64[Tensor, " n"]:
    """Return the likely labels of a batch: the classes with the most negative gradients.

    A class that occurs twice is found once; remaining places repeat the most negative class.
    """
    order = bias_gradient.argsort()
    negative = order[: max(1, min(count, int((bias_gradient < 0).sum())))]
    rest = negative[:1].expand(count - len(negative))
    return torch.cat([negative, rest]).sort().values


class _Search:
    """Gradient matching from one random start."""

    def __init__(
        self,
        model: nn.Module,
        gradient: Float[Tensor, " p"],
        labels: Labels,
        num_classes: int,
        settings: GradientInversion,
    ) -> None:
        self.model, self.gradient, self.settings = model, gradient, settings
        self.labels, self.num_classes = labels, num_classes

    def match_distance(self, images: Images) -> tuple[float, Tensor]:
        """Minimise the squared distance of the gradients; return it and the images."""
        images.requires_grad_(True)
        variables = [images]
        label_logits = torch.zeros(len(images), self.num_classes, dtype=images.dtype)
        if self.settings.method == "dlg":
            variables.append(label_logits.requires_grad_(True))

        def distance() -> Tensor:
            targets = label_logits.softmax(1) if self.settings.method == "dlg" else self.labels
            gradient = compute_gradient(self.model, images, targets, create_graph=True)
            return (gradient - self.gradient).square().sum()

        optimiser = torch.optim.LBFGS(
            variables,
            self.settings.learning_rate,
            self.settings.steps,
            history_size=100,
            tolerance_grad=1e-14,
            tolerance_change=1e-18,
            line_search_fn="strong_wolfe",
        )
        optimiser.step(_make_closure(optimiser, distance))
        is_dlg = self.settings.method == "dlg"
        order = label_logits.argmax(1).argsort() if is_dlg else slice(None)
        return self._evaluate(distance, images[order])

    def match_cosine(self, images: Images) -> tuple[float, Tensor]:
        """Minimise the angle between the gradients; return the objective and the images."""
        images.requires_grad_(True)
        steps = self.settings.steps
        optimiser = torch.optim.Adam([images], self.settings.learning_rate)
        milestones = [int(share * steps) for share in DROPS]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones)

        def angle() -> Tensor:
            gradient = compute_gradient(self.model, images, self.labels, create_graph=True)
            distance = 1 - functional.cosine_similarity(gradient, self.gradient, dim=0)
            return distance + self.settings.total_variation * _total_variation(images)

        for _ in range(steps):
            optimiser.zero_grad()
            angle().backward()
            assert images.grad is not None
            images.grad.sign_()
            optimiser.step()
            schedule.step()
            images.data.clamp_(0, 1)
        return self._evaluate(angle, images)

    def _evaluate(self, distance: Callable[[], Tensor], images: Images) -> tuple[float, Tensor]:
        value = float(distance().detach())
        # A search that diverged loses against any other.
        value = value if value == value else float("inf")
        return value, images.detach().nan_to_num(0.5).clamp(0, 1)


def _make_closure(
    optimiser: torch.optim.Optimizer, distance: Callable[[], Tensor]
) -> Callable[[], float]:
    def closure() -> float:
        optimiser.zero_grad()
        value = distance()
        value.backward()
        return float(value.detach())

    return closure


def _total_variation(images: Images) -> Float[Tensor, ""]:
    return images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()
