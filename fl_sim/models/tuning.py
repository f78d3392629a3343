"""Which part of a network is trained: the cut between the frozen front and what travels."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from fl_sim.core.errors import FieldError, suggest
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import seed_torch
from fl_sim.experiment import Model
from fl_sim.models import foundation
from fl_sim.models.low_rank import add_low_rank
from fl_sim.models.networks import NETWORKS

NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
CALIBRATION_IMAGES = 1024  # images, at least, where there are as many


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of pretraining, whatever the mode.

    A few local steps would ruin them: a batch of one client's images is not ImageNet.
    """

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d) -> "FrozenBatchNorm":
        """Return a frozen twin of `norm`, with the same tensors under the same names."""
        frozen = cls(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        frozen.weight, frozen.bias = norm.weight, norm.bias
        frozen.running_mean, frozen.running_var = norm.running_mean, norm.running_var
        frozen.num_batches_tracked = norm.num_batches_tracked
        return frozen.train(norm.training)

    def train(self, mode: bool = True) -> "FrozenBatchNorm":
        """Stay in evaluation mode."""
        super().train(False)
        return self


class TrainedPart(nn.Sequential):
    """The stages whose parameters travel, and how fast each of them learns.

    Attributes:
        rates: learning rate of a parameter as a share of the client's, by its name; 1 for those
            that are not in here.
    """

    def __init__(self, *stages: Any) -> None:
        super().__init__(*stages)
        self.rates: dict[str, float] = {}


@dataclass(frozen=True, eq=False)
class Network:
    """A network cut in two.

    Attributes:
        frozen: the front that nobody trains; empty where everything is trained.
        trained: the rest, whose parameters travel.
    """

    frozen: nn.Sequential
    trained: TrainedPart


def build_network(
    model: Model, image_shape: tuple[int, int, int], num_classes: int, seed: int
) -> Network:
    """Return the network that `model` asks for, freshly initialised by `seed`.

    Raises:
        FieldError: for an unknown backbone, or a cut that it does not allow.
        MissingWeightsError: where pretrained weights are not on this machine.
    """
    with seed_torch(seed, "model", model.backbone):
        stages = _build_stages(model, image_shape, num_classes)
    if model.norm != "batch" and not _is_own_network(model):
        raise FieldError("model.norm", f"'batch' for {model.backbone}", model.norm)
    if model.init == "pretrained":
        _freeze_batch_norms(stages)
    rates: dict[str, float] = {}
    cut, (*row, head) = _count_frozen(model, stages), stages
    frozen, body = nn.Sequential(*row[:cut]), nn.Sequential(*row[cut:])
    frozen.requires_grad_(False).eval()
    if model.tune in SPARSE:
        with seed_torch(seed, "model", model.backbone, model.tune):
            SPARSE[model.tune](body, model.rank)
        if not any(parameter.requires_grad for parameter in body.parameters()):
            allowed = f"'full' or 'head' for {model.backbone}, which has nothing of the kind"
            raise FieldError("model.tune", allowed, model.tune)
    elif model.init == "pretrained":
        rates = {name: model.backbone_rate for name, _ in body.named_parameters()}
    trained = TrainedPart(*body, head)
    trained.rates = rates
    return Network(frozen, trained)


def list_trained_parameters(model: nn.Module) -> list[tuple[nn.Parameter, float]]:
    """Return the parameters that are trained, in the model's order, each with its learning rate.

    The rate is a share of the client's: below 1 for layers that come pretrained.
    """
    rates = model.rates if isinstance(model, TrainedPart) else {}
    named = model.named_parameters()
    return [(p, rates.get(name, 1.0)) for name, p in named if p.requires_grad]


def _is_own_network(model: Model) -> bool:
    """Return whether the network is one of ours; torchvision has pretrained ones of that name."""
    theirs = model.init == "pretrained" and foundation.is_foundation(model.backbone)
    return model.backbone in NETWORKS and not theirs


def _build_stages(
    model: Model, image_shape: tuple[int, int, int], num_classes: int
) -> nn.Sequential:
    if _is_own_network(model):
        if model.init == "pretrained":
            foundation.check_weights(model.backbone)
        return NETWORKS[model.backbone](image_shape, num_classes, model.norm)
    if not foundation.is_foundation(model.backbone):
        ours = (*NETWORKS, foundation.LITE0)
        theirs = foundation.list_torchvision_models()
        advice = suggest(model.backbone, ours) or suggest(model.backbone, theirs)
        allowed = f"one of {', '.join(ours)}, or a network of torchvision{advice}"
        raise FieldError("model.backbone", allowed, model.backbone)
    pretrained = model.init == "pretrained"
    return foundation.build_foundation_stages(model.backbone, pretrained, num_classes, model.pixels)


def _count_frozen(model: Model, stages: nn.Sequential) -> int:
    """Return how many stages are frozen."""
    if model.tune in ("full", "norm", "bias"):
        return 0
    with_weights = [i for i, stage in enumerate(stages) if any(True for _ in stage.parameters())]
    # What normalises goes with the layer before it.
    blocks = [i for i in with_weights if not isinstance(stages[i], NORMALISATIONS)]
    if model.tune == "head":
        return blocks[-1]
    if len(blocks) < 3:
        raise FieldError("model.tune", f"'full' or 'head' for {model.backbone}", model.tune)
    # The last stage before the head; with EfficientNet-Lite also the block before its 1 x 1
    # head convolution, which alone would be no more than a wider head.
    return blocks[-3] if model.backbone == foundation.LITE0 else blocks[-2]


def _freeze_batch_norms(module: nn.Module) -> None:
    """Put a frozen twin in the place of each batch normalisation in `module`, at any depth."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm.from_batch_norm(child))
        else:
            _freeze_batch_norms(child)


def _train_only_norms(body: nn.Module, rank: int) -> None:
    """Freeze all but the scales and shifts of normalisation."""
    body.requires_grad_(False)
    for module in body.modules():
        if isinstance(module, NORMALISATIONS):
            module.requires_grad_(True)


def _train_only_biases(body: nn.Module, rank: int) -> None:
    """Freeze all but the biases. Ben Zaken et al. (2022), BitFit, arXiv 2106.10199."""
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))


SPARSE = {"norm": _train_only_norms, "bias": _train_only_biases, "lora": add_low_rank}


@torch.no_grad()
def calibrate(frozen: nn.Sequential, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "m c h w"]:
    """Set the batch statistics of a randomly initialised front from a pass over some images.

    Without it the features of an untrained, frozen network vanish, and a random start would
    be a straw man. A convolution averages over positions, so that some images do; a pixel by
    itself may be blank on all of those, and then be scaled up without bound.

    Returns:
        the images that were used.
    """
    norms = [module for module in frozen.modules() if isinstance(module, nn.BatchNorm2d)]
    if any(isinstance(module, nn.Conv2d) for module in frozen.modules()):
        images = images[:: max(1, len(images) // CALIBRATION_IMAGES)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # cumulative: the mean over all batches
        norm.reset_running_stats()
    for batch in images.split(256):
        frozen(as_pixels(batch))
    frozen.eval()
    return images
