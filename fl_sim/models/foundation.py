"""Foundation models: networks of other packages with their inputs, as sequences of stages."""

import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.atomic_io import DamagedFileError, hash_file
from fl_sim.core.errors import FieldError, RequestError, RequestWarning, require, suggest
from fl_sim.core.serialization import field_values
from fl_sim.core.user_modules import hash_modules
from fl_sim.model import Model
from fl_sim.models.adapters import name_modules
from fl_sim.models.architectures import Normalise
from fl_sim.models.backbones import (
    BackboneSource,
    MissingWeightsError,
    Request,
    Scaling,
    State,
    UnfitError,
    discover_backbones,
    find_source,
    read_state,
    start_from,
)
from fl_sim.models.backbones.efficientnet_lite import LITE0
from fl_sim.models.networks import NETWORKS
from fl_sim.models.stages import Row, find_head, name_tensors, split


class Rescale(nn.Module):
    """Scales images to the side that a model expects, and grey images to three channels."""

    def __init__(self, pixels: int, scaling: Scaling = "bilinear") -> None:
        super().__init__()
        self.pixels, self.scaling = pixels, scaling

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 s s"]:
        """Return colour images of `pixels` x `pixels`, with values in [0, 1]."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        side = (self.pixels, self.pixels)
        scaled = functional.interpolate(images, side, mode=self.scaling, antialias=False)
        if self.scaling == "bicubic":  # overshoots at edges
            scaled = scaled.clamp(0, 1)
        return scaled.contiguous(memory_format=torch.channels_last)


def is_foundation(backbone: str) -> bool:
    """Return whether `backbone` names a network of another package."""
    return find_source(backbone) is not None


def build_row(model: Model, num_classes: int) -> Row:
    """Return a network of another package as a row of stages with a new head.

    Raises:
        FieldError: If there is no such network, or it does not fit the inputs or its weights.
        MissingWeightsError: If weights are wanted and missing.
    """
    source, name = _find_known(model.backbone)
    state = None
    if model.init == "pretrained":
        state = source.read_weights(name)
    elif model.init == "checkpoint":
        state = read_checkpoint(model)
    request = Request(name, num_classes, model.pixels, state)
    try:
        backbone = source.build(request)
        _check_finite(backbone.network, model)
        origin = backbone.origin or backbone.network
        name_modules(origin)
        tensors = name_tensors(origin)
        side = (3, backbone.side, backbone.side)
        stages, obstacle = split(backbone.network, backbone.head, side)
    except UnfitError as error:
        raise _explain_misfit(model, error, source, name) from None
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        if isinstance(error, RequestError):
            raise
        cause = " ".join(str(error).split())[:200]
        allowed = f"a side that {model.backbone} takes ({cause})"
        raise FieldError("model.pixels", allowed, model.pixels) from None
    if model.init == "checkpoint" and backbone.has_new_head:
        warn_of_new_head(model, num_classes)
    front = [Rescale(backbone.side, backbone.scaling), Normalise(backbone.mean, backbone.std)]
    has_head = stages[-1] is not backbone.network
    return Row(nn.Sequential(*front, *stages), obstacle, has_head, tensors)


def load_own(network: nn.Sequential, model: Model, num_classes: int) -> None:
    """Load a checkpoint into a network of this project, in place.

    Raises:
        FieldError: If its tensors do not fit; the message names some.
    """
    try:
        is_new = start_from(network, find_head(network), num_classes, read_checkpoint(model))
    except UnfitError as error:
        raise FieldError(
            "model.checkpoint", f"a file for {model.backbone} ({error})", model.checkpoint
        ) from None
    _check_finite(network, model)
    if is_new:
        warn_of_new_head(model, num_classes)


def read_checkpoint(model: Model) -> State:
    """Return the tensors of the checkpoint that a model starts from.

    Raises:
        FieldError: If the file is missing or damaged, or a tensor is not dense and real.
    """
    path = model.checkpoint_path
    try:
        state = read_state(path)
    except DamagedFileError as error:
        allowed = f"a safetensors file or a state dict ({path} {error.cause})"
        raise FieldError("model.checkpoint", allowed, model.checkpoint) from None
    allowed = (
        "a file of tensors by name; this one is of a run, which "
        f"fl-sim export model {path.parent} OUT.safetensors turns into one"
    )
    require("parameters" not in state, "model.checkpoint", allowed, model.checkpoint)
    for name, value in state.items():
        is_dense = value.layout == torch.strided and value.device.type == "cpu"
        is_real = not (value.is_complex() or value.is_quantized)
        allowed = f"a file of dense, real tensors ({name} is not)"
        require(is_dense and is_real, "model.checkpoint", allowed, model.checkpoint)
    return state


def _check_finite(network: nn.Module, model: Model) -> None:
    """Refuse a network that starts with a weight of NaN or infinity, or a statistic of NaN."""
    fields = {"checkpoint": ("checkpoint", model.checkpoint), "pretrained": ("init", model.init)}
    field, got = fields.get(model.init, ("backbone", model.backbone))
    infinite = [name for name, value in network.named_parameters() if not value.isfinite().all()]
    infinite += [name for name, value in network.named_buffers() if value.isnan().any()]
    allowed = f"a start of finite numbers ({', '.join(infinite[:3])} is not)"
    require(not infinite, f"model.{field}", allowed, got)


def warn_of_new_head(model: Model, num_classes: int) -> None:
    """Warn that a checkpoint has no head for these classes."""
    warnings.warn(
        f"model.checkpoint: {model.checkpoint} has no head for {num_classes} classes, "
        "so that the head starts at random",
        RequestWarning,
        stacklevel=2,
    )


def find_weights(backbone: str) -> Path:
    """Return the path of the weights of `backbone`, whether or not the file exists."""
    source, name = _find_known(backbone)
    return source.find_weights(name)


def hash_weights(backbone: str) -> str:
    """Return the SHA-256 of the file of weights."""
    return hash_file(find_weights(backbone))


def hash_code(model: Model) -> str:
    """Return a hash of the user's code that builds a network; empty for networks of packages."""
    found = find_source(model.backbone)
    if found is None:
        return ""
    source, name = found
    hashes = [source.hash_code(name), hash_modules([type(source).__module__])]
    return " ".join(filter(None, hashes))


def hash_networks(part: object) -> str:
    """Return the hashes of the files of a part's networks, its fields of type `Model`."""
    models = [value for value in field_values(part).values() if isinstance(value, Model)]
    return " ".join(filter(None, map(hash_model, models)))


def hash_model(model: Model) -> str:
    """Return a hash of the files that a network and its start are read from, or an empty string.

    Raises:
        RequestError: If one of them is missing.
    """
    hashes = [hash_code(model)]
    if model.base.init == "checkpoint":
        hashes.append(model.hash_checkpoint())
    elif model.base.init == "pretrained":
        check_weights(model.backbone)
        hashes.append(hash_weights(model.backbone))
    if model.class_embeddings is not None:
        hashes.append(model.hash_embeddings())
    return " ".join(filter(None, hashes))


def check_weights(backbone: str) -> None:
    """Check that the weights of `backbone` are on this machine.

    Raises:
        FieldError: If the network has no pretrained weights.
        MissingWeightsError: If the file is missing or damaged; the message names it.
    """
    if not is_foundation(backbone):
        allowed = f"'random' for {backbone}, which has no pretrained weights"
        raise FieldError("model.init", allowed, "pretrained")
    source, name = _find_known(backbone)
    source.check_weights(name)


def _find_known(backbone: str) -> tuple[BackboneSource, str]:
    found = find_source(backbone)
    if found is not None:
        return found
    sources = discover_backbones().values()
    others = [name for source in sources for name in source.list_networks()]
    advice = suggest(backbone, (*NETWORKS, LITE0)) or suggest(backbone, others)
    examples = ", ".join(source.example for source in sources)
    allowed = f"one of {', '.join((*NETWORKS, LITE0))}, or a network such as {examples}{advice}"
    raise FieldError("model.backbone", allowed, backbone)


def _explain_misfit(
    model: Model, error: UnfitError, source: BackboneSource, name: str
) -> RequestError:
    """Return the error for weights that are not those of the network."""
    if model.init == "checkpoint":
        allowed = f"a file for {model.backbone} ({error})"
        return FieldError("model.checkpoint", allowed, model.checkpoint)
    return MissingWeightsError(
        f"model.init: the file at {source.find_weights(name)} does not hold the weights of "
        f"{model.backbone} ({error})"
    )
