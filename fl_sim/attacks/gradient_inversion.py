"""Gradient inversion: images from the gradient that a client sends.

Attacker's view: the server, which sees single updates. It knows the model that it sent, in
evaluation mode, and how many images the gradient is the mean of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator

ROUNDING = 1e-5  # of a gradient in 32-bit floats, against its largest singular value
DROPS = (3 / 8, 5 / 8, 7 / 8)  # of the way, at which the rate falls to a tenth


def compute_gradient(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    targets: Int64[Tensor, " n"] | Float[Tensor, "n y"],
    create_graph: bool = False,
) -> Float[Tensor, " p"]:
    """Return the gradient of the mean cross-entropy, flat, in the order of the parameters.

    Args:
        model: in the mode in which it is to be seen.
        inputs: images in [0, 1], or features of a head.
        targets: labels, or a distribution over classes.
        create_graph: keep what it takes to differentiate the gradient again.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = functional.cross_entropy(model(inputs), targets)
    gradients = torch.autograd.grad(loss, parameters, create_graph=create_graph)
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def infer_gradient(
    delta: Float[Tensor, " p"], learning_rate: float, num_steps: int = 1
) -> Float[Tensor, " p"]:
    """Return the mean gradient that a change of the parameters is made of.

    Exact after one step without momentum; after more, the model has moved, and it is a guess.
    """
    return -delta / (learning_rate * num_steps)


def recover_head_record(
    weight_gradient: Float[Tensor, "y d"], bias_gradient: Float[Tensor, " y"]
) -> tuple[Float[Tensor, " d"], int]:
    """Return the one record behind the gradient of a linear head: its input, and its label.

    Exact for one record: every row of the weight's gradient is the input times the bias's. Of a
    head over frozen features this gives the features, not the image.

    Source: Phong et al. (2018), section 3, https://doi.org/10.1109/TIFS.2017.2787987; the label
    is the class whose gradient is negative, Zhao et al. (2020), iDLG, section 3,
    https://arxiv.org/abs/2001.02610.
    """
    label = int(bias_gradient.argmin())
    return weight_gradient[label] / bias_gradient[label], label


def gradient_rank(weight_gradient: Float[Tensor, "y d"]) -> int:
    """Return the rank of a head's gradient: min(records, classes - 1) after one step.

    Below classes - 1 it gives away the number of records, and its row space holds their inputs.

    Source: the usual definition.
    """
    return int(torch.linalg.matrix_rank(weight_gradient.double(), rtol=ROUNDING))


@dataclass(frozen=True)
class GradientInversion:
    """Look for images whose gradient is the one that was sent.

    `dlg` matches gradients in squared distance, by L-BFGS, and looks for soft labels too. `idlg`
    reads the label off the head's bias first. `cosine` matches the direction of the gradient by
    signed steps of Adam and prefers smooth images. All need a model that can be differentiated
    twice.

    Source: Zhu et al. (2019), algorithm 1, https://arxiv.org/abs/1906.08935; Zhao et al. (2020),
    https://arxiv.org/abs/2001.02610; Geiping et al. (2020), equation 4,
    https://arxiv.org/abs/2003.14053.

    Attributes:
        method: which of the three.
        steps: of the optimiser.
        learning_rate: 1 for L-BFGS, 0.1 for `cosine`, say their authors.
        total_variation: weight of the mean difference of neighbouring pixels, `cosine` only.
        restarts: how often to begin anew; the closest gradient wins.
    """

    method: Literal["dlg", "idlg", "cosine"] = "idlg"
    steps: int = 300
    learning_rate: float = 1.0
    total_variation: float = 0.0
    restarts: int = 3

    def __post_init__(self) -> None:
        serialization.check_types(self)
        for name in ("steps", "restarts"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        weight = self.total_variation
        require(weight >= 0, "total_variation", "at least 0", weight)

    def reconstruct(
        self,
        model: nn.Module,
        gradient: Float[Tensor, " p"],
        shape: tuple[int, int, int, int],
        num_classes: int,
        seed: int,
    ) -> Float[Tensor, "n c h w"]:
        """Return images in [0, 1], as many as `shape` says, in the order of their labels.

        Args:
            model: as it was sent out; its last parameter is the head's bias.
            gradient: what came back, as `compute_gradient` or `infer_gradient` returns it.
            shape: images, channels, height, width.
            num_classes: outputs of the model.
            seed: of the images that the search begins with.
        """
        model.eval()
        labels = infer_labels(gradient[-num_classes:], shape[0])
        found: list[tuple[float, Tensor]] = []
        for restart in range(self.restarts):
            rng = generator(seed, "inversion", restart)
            images = torch.rand(shape, generator=rng, dtype=gradient.dtype)
            search = _Search(model, gradient, labels, num_classes, self)
            found.append(
                (search.match_cosine if self.method == "cosine" else search.match_distance)(images)
            )
        return min(found, key=lambda pair: pair[0])[1]


def infer_labels(bias_gradient: Float[Tensor, " y"], count: int) -> Int64[Tensor, " n"]:
    """Return the labels of a batch of different classes: the most negative gradients.

    A class that occurs twice counts once; what is left over repeats the most negative one.
    """
    order = bias_gradient.argsort()
    negative = order[: max(1, min(count, int((bias_gradient < 0).sum())))]
    rest = negative[:1].expand(count - len(negative))
    return torch.cat([negative, rest]).sort().values


class _Search:
    """One search for images, from where it begins to where it ends."""

    def __init__(
        self,
        model: nn.Module,
        gradient: Float[Tensor, " p"],
        labels: Int64[Tensor, " n"],
        num_classes: int,
        settings: GradientInversion,
    ) -> None:
        self.model, self.gradient, self.settings = model, gradient, settings
        self.labels, self.num_classes = labels, num_classes

    def match_distance(self, images: Float[Tensor, "n c h w"]) -> tuple[float, Tensor]:
        """Match in squared distance; return how close it came, and the images."""
        images.requires_grad_(True)
        sought = [images]
        guess = torch.zeros(len(images), self.num_classes, dtype=images.dtype)
        if self.settings.method == "dlg":
            sought.append(guess.requires_grad_(True))

        def distance() -> Tensor:
            targets = guess.softmax(1) if self.settings.method == "dlg" else self.labels
            sent = compute_gradient(self.model, images, targets, create_graph=True)
            return (sent - self.gradient).square().sum()

        optimiser = torch.optim.LBFGS(
            sought,
            self.settings.learning_rate,
            self.settings.steps,
            history_size=100,
            tolerance_grad=1e-14,
            tolerance_change=1e-18,
            line_search_fn="strong_wolfe",
        )
        optimiser.step(_make_closure(optimiser, distance))
        order = guess.argmax(1).argsort() if self.settings.method == "dlg" else slice(None)
        return self._evaluate(distance, images[order])

    def match_cosine(self, images: Float[Tensor, "n c h w"]) -> tuple[float, Tensor]:
        """Match in direction; return how close it came, and the images."""
        images.requires_grad_(True)
        steps = self.settings.steps
        optimiser = torch.optim.Adam([images], self.settings.learning_rate)
        milestones = [int(share * steps) for share in DROPS]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones)

        def angle() -> Tensor:
            sent = compute_gradient(self.model, images, self.labels, create_graph=True)
            apart = 1 - functional.cosine_similarity(sent, self.gradient, dim=0)
            return apart + self.settings.total_variation * _total_variation(images)

        for _ in range(steps):
            optimiser.zero_grad()
            angle().backward()
            assert images.grad is not None
            images.grad.sign_()
            optimiser.step()
            schedule.step()
            images.data.clamp_(0, 1)
        return self._evaluate(angle, images)

    def _evaluate(
        self, distance: Callable[[], Tensor], images: Float[Tensor, "n c h w"]
    ) -> tuple[float, Tensor]:
        reached = float(distance().detach())
        usable = reached if reached == reached else float("inf")
        return usable, images.detach().nan_to_num(0.5).clamp(0, 1)


def _make_closure(
    optimiser: torch.optim.Optimizer, distance: Callable[[], Tensor]
) -> Callable[[], float]:
    def closure() -> float:
        optimiser.zero_grad()
        value = distance()
        value.backward()
        return float(value.detach())

    return closure


def _total_variation(images: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    return images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()
