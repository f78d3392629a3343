"""SSC: noise that gives the first layers of a pretrained network the channels of another class."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core import pass_counter
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import Loss, sample_uniform, take_sign_steps
from fl_sim.core.seeding import generator
from fl_sim.model import Model
from fl_sim.models.modes import fold_batch_norms
from fl_sim.models.tuning import build_network
from fl_sim.protections._shared.alternating_optimization import (
    count_outputs,
    get_image_shape,
    make_in_batches,
)

LEAST_DEVIATION = 1e-6  # of a channel, so that one that never changes does not count


@final
@dataclass(frozen=True)
class SemanticCamouflage(Protection):
    """Noise after which the shallow layers of a pretrained network see another class.

    Frozen layers keep what an image shows and filter out noise that shows nothing. So the noise is
    restricted to what these layers can express: at several depths, sign steps from a random start
    bring the channels of an image (the mean of each feature map) towards the mean channels of the
    images of another class. No surrogate is trained.

    Source: Wang et al. (2026), Channel-Level Semantic Perturbations,
    https://arxiv.org/abs/2605.05224. Its abstract states the filtering by frozen shallow layers,
    the shallow semantic camouflage at the level of channels, and the hierarchy. These are choices
    of this project: class y + `shift` as the camouflage; its mean channels as the semantically
    valid target; the squared distance in standard deviations of each channel; the depths.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        surrogate: Network whose layers are used; its head is not.
        depth: Share of the stages before the head that count as shallow, in (0, 1].
        levels: Number of depths, evenly spaced up to `depth`.
        shift: Distance from a class to its camouflage among the classes, modulo their number.
        noise_steps: Number of sign steps per image.
        step_size: Size of a sign step, in [0, 1]; None for a tenth of the radius.
        batch_size: Number of images at once.
    """

    radius: float = 8 / 255
    surrogate: Model = field(default_factory=lambda: Model("efficientnet_lite0", "pretrained"))
    depth: float = 1.0
    levels: int = 3
    shift: int = 1
    noise_steps: int = 30
    step_size: float | None = None
    batch_size: int = 64
    short: ClassVar[str] = "ssc"
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.depth <= 1, "depth", "in (0, 1]", self.depth)
        require_at_least(self, 1, "levels", "shift", "noise_steps", "batch_size")
        require_above(self, 0, "step_size", or_none=True)

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Raise a `FieldError` if the camouflage of a class would be the class itself."""
        outputs = max(2, num_classes)
        require(self.shift % outputs != 0, "shift", f"no multiple of {outputs}", self.shift)

    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of sign steps times that of images."""
        return self.noise_steps * num_images

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return noise that minimises the distance of each image to the channels of its target."""
        num_classes = count_outputs(labels)
        whole = replace(self.surrogate, tune="head")
        front = build_network(whole, get_image_shape(images), num_classes, seed).frozen
        parts = self._split(front)
        with torch.no_grad():
            channels = torch.cat(
                [measure_channels(parts, b) for b in images.split(self.batch_size)]
            )
        targets = find_targets(channels, labels, (labels + self.shift) % num_classes)
        deviation = channels.std(0, correction=0).clamp(min=LEAST_DEVIATION)

        def make_noise(number: int, rows: Tensor) -> Tensor:
            step, radius = self.step_size or self.radius / 10, self.radius
            loss = make_channel_loss(parts, targets[rows], deviation)
            start = sample_uniform(images[rows], radius, generator(seed, "ssc", "start", number))
            return take_sign_steps(
                loss, images[rows], start, radius, step, self.noise_steps, "minimise"
            )

        return make_in_batches(make_noise, len(images), self.batch_size)

    def _split(self, front: nn.Sequential) -> list[nn.Module]:
        """Return the shallow stages in one part per level, normalisations folded."""
        last = max(self.levels, round(self.depth * len(front)))
        edges = [round(i * last / self.levels) for i in range(self.levels + 1)]
        return [fold_batch_norms(front[a:b]) for a, b in pairwise(edges)]


def measure_channels(
    parts: list[nn.Module], images: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n k"]:
    """Return the mean of each feature map after each part, side by side."""
    levels = []
    for part in parts:
        images = part(images)
        levels.append(images.flatten(2).mean(2) if images.ndim > 2 else images)
    return torch.cat(levels, 1)


def find_targets(
    channels: Float[Tensor, "n k"], labels: Labels, wanted: Labels
) -> Float[Tensor, "n k"]:
    """Return the mean channels of each image's wanted class, or of all others if it is empty."""
    counts = labels.bincount(minlength=int(wanted.max()) + 1)
    sums = channels.new_zeros(len(counts), channels.shape[1]).index_add_(0, labels, channels)
    means = sums / counts[:, None].clamp(min=1)
    others = (sums.sum(0) - sums) / (counts.sum() - counts).clamp(min=1)[:, None]
    return torch.where((counts[wanted] > 0)[:, None], means[wanted], others[labels])


def make_channel_loss(
    parts: list[nn.Module], targets: Float[Tensor, "n k"], deviation: Float[Tensor, " k"]
) -> Loss:
    """Return the summed squared distance to the targets, as a function of images."""

    def summed_distance(images: Tensor) -> Tensor:
        pass_counter.count(len(images))
        distance: Tensor = ((measure_channels(parts, images) - targets) / deviation).square().sum()
        return distance

    return summed_distance
