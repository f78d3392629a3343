"""Splits networks into a frozen front and a trained part, whose parameters clients send."""

from copy import copy
from dataclasses import dataclass
from functools import cache
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fl_sim.core.device import CPU, move, new_tensors_device, on_device
from fl_sim.core.errors import FieldError, require
from fl_sim.core.literals import Precision
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import seed_torch
from fl_sim.model import CLOSED_FORM, Model
from fl_sim.models import foundation
from fl_sim.models.adapters import load_adapter, name_modules
from fl_sim.models.bfloat16 import call_in_bfloat16
from fl_sim.models.closed_form import (
    SECOND_MOMENTS,
    CosineHead,
    StatisticsHead,
    find_linear_head,
    read_class_embeddings,
)
from fl_sim.models.low_rank import add_low_rank
from fl_sim.models.networks import NETWORKS
from fl_sim.models.prompts import add_prompts
from fl_sim.models.stages import Row, is_norm, name_tensors

CALIBRATION_IMAGES = 1024  # or all images, if there are fewer


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of pretraining in both modes.

    Batches of one client's images differ from those of ImageNet, so that a few local steps would
    spoil the statistics.
    """

    @staticmethod
    def from_batch_norm(norm: _BatchNorm) -> "FrozenBatchNorm":
        """Return a frozen version of `norm` with the same tensors under the same names."""
        frozen = _make_frozen(type(norm))
        frozen.__dict__ = copy(norm.__dict__)
        return frozen.train(norm.training)

    def train(self, mode: bool = True) -> "FrozenBatchNorm":
        """Stay in evaluation mode."""
        super().train(False)
        return self


def _make_frozen(cls: type[_BatchNorm]) -> FrozenBatchNorm:
    frozen_class = _freeze_class(cls)  # type: ignore[arg-type]  # classes can be hashed
    return frozen_class.__new__(frozen_class)


@cache
def _freeze_class(cls: type[_BatchNorm]) -> type[FrozenBatchNorm]:
    """Return a frozen version of a class, such as of timm's normalisation with an activation."""
    if cls is nn.BatchNorm2d:
        return FrozenBatchNorm
    members = {
        "_check_input_dim": cls._check_input_dim,
        "__reduce_ex__": lambda self, protocol: (_make_frozen, (cls,), self.__dict__),
    }
    return type(f"Frozen{cls.__name__}", (FrozenBatchNorm, cls), members)


class TrainedPart(nn.Sequential):
    """The stages whose parameters are trained and sent.

    Attributes:
        rates: Learning rates of parameters relative to the client's, by name; 1 if not listed.
        precision: Precision of the forward pass; its inputs and outputs are in single precision.
        is_compiled: Whether trainers compile it.
    """

    precision: Precision = "float32"
    is_compiled = False

    def __init__(self, *stages: Any) -> None:
        super().__init__(*stages)
        self.rates: dict[str, float] = {}

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Return the outputs of the stages."""
        if self.precision == "bf16":
            return call_in_bfloat16(super().forward, inputs)
        outputs: Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


@dataclass(frozen=True, eq=False)
class Network:
    """A network cut in two.

    Attributes:
        frozen: The front, which is not trained; empty if everything is trained.
        trained: The rest, whose parameters are trained and sent.
        tensors: Weights and buffers of both, but for what `tune` added, under the names of the
            network of its package, not copied.
    """

    frozen: nn.Sequential
    trained: TrainedPart
    tensors: dict[str, Tensor]


def build_network(
    model: Model,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    state: Float[Tensor, " s"] | None = None,
) -> Network:
    """Return the network that `model` describes, freshly initialised by `seed`.

    It is built on the CPU, which gives the same weights everywhere, and moved to where new tensors
    are made.

    Args:
        model: The model; the start of a planted one is that of its base, without `state`.
        image_shape: Channels, height and width.
        num_classes: Number of classes.
        seed: Seed of random weights.
        state: Weights and buffers of the whole network, as by `flatten_state`, to start from. A
            head with another number of classes is left out.

    Raises:
        FieldError: If the backbone is unknown, or cannot be cut as `model.tune` demands.
        MissingWeightsError: If pretrained weights are not on this machine.
    """
    with on_device(CPU):
        network = _build_network(model.base, image_shape, num_classes, seed, state)
    place = new_tensors_device()
    if place == CPU:
        return network
    tensors = move(network.tensors, place)
    return Network(network.frozen.to(place), network.trained.to(place), tensors)


def _build_network(
    model: Model,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    state: Float[Tensor, " s"] | None,
) -> Network:
    """Return the network on the CPU; see `build_network`."""
    with seed_torch(seed, "model", model.backbone):
        row = _build_row(model, image_shape, num_classes)
    stages = row.stages
    is_own = _is_own_network(model)
    require(
        is_own or model.norm == "batch", "model.norm", f"'batch' for {model.backbone}", model.norm
    )
    allowed = f"None for {model.backbone}, which takes images as they are"
    require(not is_own or model.pixels is None, "model.pixels", allowed, model.pixels)
    if model.init != "random":
        _freeze_batch_norms(stages)
    if state is not None:
        _load_state(stages, state)
    rates: dict[str, float] = {}
    cut, (*body_stages, _) = _count_frozen(model, row), stages
    frozen, body = nn.Sequential(*body_stages[:cut]), nn.Sequential(*body_stages[cut:])
    frozen.requires_grad_(False).eval()
    if model.tune in SPARSE:
        with seed_torch(seed, "model", model.backbone, model.tune):
            SPARSE[model.tune](body, model)
            _guard_group_norms(body)
        if not any(parameter.requires_grad for parameter in body.parameters()):
            allowed = f"'full' or 'head' for {model.backbone}, which has nothing of the kind"
            raise FieldError("model.tune", allowed, model.tune)
    elif model.tune == "prompt":
        with seed_torch(seed, "model", model.backbone, model.tune):
            body = _add_prompts(model, row, frozen, image_shape)
    elif model.init != "random":
        allowed = f"1 for {model.backbone}, whose head cannot be told from the rest: {row.obstacle}"
        known = row.has_head or model.backbone_rate == 1
        require(known, "model.backbone_rate", allowed, model.backbone_rate)
        rates = {name: model.backbone_rate for name, _ in body.named_parameters()}
    head = _choose_head(model, stages)
    trained = TrainedPart(*body, head)
    trained.rates = rates
    allowed = "a network with a parameter to train"
    has_parameters = any(parameter.requires_grad for parameter in trained.parameters())
    require(has_parameters, "model.backbone", allowed, model.backbone)
    if model.adapter:
        load_adapter(trained, model)
    return Network(frozen, trained, _replace_head(row.tensors, stages[-1], head))


def _choose_head(model: Model, stages: nn.Sequential) -> nn.Module:
    """Return the network's own head, or the one that a closed form or embeddings replace it by.

    Raises:
        FieldError: If the own one is not linear, or there are no such embeddings.
    """
    if not (model.tune in (*CLOSED_FORM, "zero_shot") or model.warm_start):
        return stages[-1]
    layer = find_linear_head(stages)
    if model.tune == "zero_shot":
        shape = layer.out_features, layer.in_features
        return CosineHead(read_class_embeddings(model.class_embeddings or "", shape))
    if model.tune in CLOSED_FORM:
        second = model.tune in SECOND_MOMENTS
        return StatisticsHead(layer.in_features, layer.out_features, second)
    return layer


def _replace_head(tensors: dict[str, Tensor], own: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """Return tensors by name with those of another head in the places of the network's own."""
    places = {id(parameter): end for end, parameter in own.named_parameters()}
    new = dict(head.named_parameters()) if head is not own else {}
    return {n: new.get(places.get(id(tensor), ""), tensor) for n, tensor in tensors.items()}


@torch.no_grad()
def flatten_state(network: nn.Sequential) -> Float[Tensor, " s"]:
    """Return all weights and buffers of a network in one vector, those of the head last."""
    return torch.cat([value.reshape(-1).float() for value in network.state_dict().values()])


@torch.no_grad()
def _load_state(network: nn.Sequential, state: Float[Tensor, " s"]) -> None:
    """Copy weights and buffers into a network, but for a head of another size."""
    values = network.state_dict()
    if sum(value.numel() for value in values.values()) != len(state):
        head = f"{len(network) - 1}."
        values = {name: value for name, value in values.items() if not name.startswith(head)}
    start = 0
    for value in values.values():
        part = state[start : start + value.numel()]
        value.copy_(part.view_as(value))
        start += value.numel()


def list_trained_parameters(model: nn.Module) -> list[tuple[nn.Parameter, float]]:
    """Return the trained parameters in the model's order, each with its learning rate.

    The rate is relative to the client's; it is below 1 for pretrained layers.
    """
    rates = model.rates if isinstance(model, TrainedPart) else {}
    named = model.named_parameters()
    return [(p, rates.get(name, 1.0)) for name, p in named if p.requires_grad]


def find_precision(model: nn.Module) -> Precision:
    """Return the precision of a model's forward pass."""
    return model.precision if isinstance(model, TrainedPart) else "float32"


def _is_own_network(model: Model) -> bool:
    """Return whether the network is one of this project, rather than torchvision's of that name."""
    pretrained = model.init == "pretrained" and foundation.is_foundation(model.backbone)
    return model.backbone in NETWORKS and not pretrained


def _build_row(model: Model, image_shape: tuple[int, int, int], num_classes: int) -> Row:
    if not _is_own_network(model):
        _refuse_width(model, False)
        return foundation.build_row(model, num_classes)
    if model.init == "pretrained":
        foundation.check_weights(model.backbone)
    build, own = NETWORKS[model.backbone], {} if model.width is None else {"width": model.width}
    _refuse_width(model, "width" in signature(build).parameters)
    network = build(image_shape, num_classes, model.norm, **own)
    name_modules(network)
    if model.init == "checkpoint":
        foundation.load_own(network, model, num_classes)
    return Row(network, tensors=name_tensors(network))


def _refuse_width(model: Model, has_width: bool) -> None:
    allowed = f"None for {model.backbone}, whose width is fixed"
    require(has_width or model.width is None, "model.width", allowed, model.width)


def _count_frozen(model: Model, row: Row) -> int:
    """Return the number of frozen stages."""
    if model.tune == "full":
        return 0
    reason = f": {row.obstacle}" if row.obstacle else ""
    allowed = f"'full' for {model.backbone}{reason}"
    require(row.has_head and len(row.stages) > 1, "model.tune", allowed, model.tune)
    if model.tune in ("norm", "bias"):
        return 0
    if model.tune in ("head", *CLOSED_FORM, "zero_shot"):
        return len(row.stages) - 1
    blocks = row.list_blocks()
    allowed = f"'full' or 'head' for {model.backbone}{reason}"
    require(len(blocks) > 1, "model.tune", allowed, model.tune)
    if model.blocks == "all":
        return blocks[0]
    allowed = f"at most {len(blocks)}, or 'all', for {model.backbone}"
    require(model.blocks <= len(blocks), "model.blocks", allowed, model.blocks)
    return blocks[-model.blocks]


def _freeze_batch_norms(module: nn.Module) -> None:
    """Replace each batch normalisation in `module`, at any depth, by a frozen one."""
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            setattr(module, name, FrozenBatchNorm.from_batch_norm(child))
        else:
            _freeze_batch_norms(child)


def _guard_group_norms(body: nn.Module) -> None:
    for module in body.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_pre_hook(_ask_for_gradient)


def _ask_for_gradient(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs with a gradient: torch 2.13 crashes in a group norm whose inputs have none.

    Inside of `torch.func` it does not, and no input can be given a gradient.
    """
    (maps,) = inputs
    needed = torch.is_grad_enabled() and not maps.requires_grad
    needed &= not torch._C._functorch.is_functorch_wrapped_tensor(maps)
    return (maps.detach().requires_grad_() if needed else maps,)


def _train_only_norms(body: nn.Module, model: Model) -> None:
    """Freeze all but the scales and shifts of normalisation."""
    body.requires_grad_(False)
    for module in body.modules():
        if is_norm(module):
            module.requires_grad_(True)


def _train_only_biases(body: nn.Module, model: Model) -> None:
    """Freeze all but the biases. Ben Zaken et al. (2022), BitFit, arXiv 2106.10199."""
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))


def _add_low_rank(body: nn.Module, model: Model) -> None:
    """Freeze the body, and add low-rank changes to its layers."""
    both = model.lora_train == "both"
    add_low_rank(body, model.rank, model.lora_scaling, both, model.lora_layers)


def _add_prompts(
    model: Model, row: Row, frozen: nn.Sequential, image_shape: tuple[int, int, int]
) -> nn.Sequential:
    """Return the body, frozen but for prompts in front of its blocks."""
    stages, start = list(row.stages)[:-1], len(frozen)
    starts = [place for place in row.list_blocks() if place >= start]
    end = starts[-1] + 1
    blocks = [nn.Sequential(*stages[i:j]) for i, j in pairwise([*starts, end])]
    with torch.no_grad():
        tokens = frozen(torch.zeros(2, *image_shape))
    rest = nn.Sequential(*stages[end:]).requires_grad_(False)
    return nn.Sequential(*add_prompts(blocks, tokens, model.prompts, model.deep_prompts), *rest)


SPARSE = {"norm": _train_only_norms, "bias": _train_only_biases, "lora": _add_low_rank}


@torch.no_grad()
def calibrate(frozen: nn.Sequential, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "m c h w"]:
    """Set the batch statistics of a randomly initialised front, and return the images used.

    Otherwise the features of an untrained, frozen network vanish, and a random start would be an
    unfair baseline. A convolution averages over positions, so that some images are enough. A single
    pixel may be blank on all of those, and would be scaled up without bound: without a convolution,
    all images are used.
    """
    norms = [module for module in frozen.modules() if isinstance(module, _BatchNorm)]
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
