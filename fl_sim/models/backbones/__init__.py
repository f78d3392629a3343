"""Backbones by name: networks of other packages; each file of this package adds a source of them.

A name such as `timm:vit_tiny_patch16_224` has the name of its source before the colon. Networks
that `fl-sim list models` shows need none, and `my_package.nets:tiny_vit` is a function.
"""

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.errors import RequestError
from fl_sim.core.plugins import discover, index_by_name
from fl_sim.core.tensor_files import read_unsealed
from fl_sim.core.user_modules import cache_by_modules
from fl_sim.models.stages import make_head

PIXELS = 64  # side of the inputs of networks that take any
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Scaling = Literal["bilinear", "bicubic"]
State = dict[str, Tensor]
WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # types of tensors


class MissingWeightsError(RequestError):
    """Pretrained weights are not on this machine; the message names the place for them."""


class UnfitError(ValueError):
    """Tensors do not fit a network; the message names some."""


@dataclass(frozen=True)
class Request:
    """The wishes of a run for a network.

    Attributes:
        name: Name of the network in its source.
        num_classes: Number of classes.
        pixels: Side of the inputs, or None for the default.
        state: Tensors of the pretrained network or of a checkpoint, or None for a random start.
    """

    name: str
    num_classes: int
    pixels: int | None = None
    state: State | None = None


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network with the weights that it starts from, and the inputs that it expects.

    Attributes:
        network: The network.
        head: Name of its last layer, which has as many outputs as there are classes.
        has_new_head: Whether the head is drawn anew, as in a random start.
        side: Side of its inputs, in pixels.
        mean: Mean per channel of the pixels that it was pretrained on.
        std: Standard deviation per channel of those pixels.
        scaling: Interpolation that scales images to `side`.
        origin: Network of the package whose parts `network` is made of, if it is another one; files
            have its names.
    """

    network: nn.Module
    head: str
    has_new_head: bool
    side: int = PIXELS
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    scaling: Scaling = "bilinear"
    origin: nn.Module | None = None


class BackboneSource(ABC):
    """A source of networks.

    Attributes:
        name: Name before the colon in the name of a backbone.
        text: One sentence on the networks.
        example: Name of one of them.
        pattern: Form of the names, in a list, of a source that cannot list them all.
    """

    name: ClassVar[str]
    text: ClassVar[str]
    example: ClassVar[str]
    pattern: ClassVar[str] = ""

    @abstractmethod
    def list_networks(self) -> list[str]:
        """Return the names of its networks, which may be asked for without the source's name."""

    @abstractmethod
    def build(self, request: Request) -> Backbone:
        """Return a network with the weights of `request.state`, or drawn from torch's generator.

        Raises:
            FieldError: If the source has no such network, or it takes no inputs of that side.
            UnfitError: If the weights do not fit; the message names some tensors.
        """

    @abstractmethod
    def find_weights(self, network: str) -> Path:
        """Return the path of the weights of a network, whether or not the file exists."""

    def describe_origin(self, network: str) -> str:
        """Return the place of the weights of a network, for a list."""
        return str(self.find_weights(network))

    def describe_command(self, network: str) -> str:
        """Return the rest of a sentence on missing weights: the way to get them."""
        return f"put them at {self.find_weights(network)}"

    def check_weights(self, network: str) -> None:
        """Check that the weights of a network are on this machine.

        Raises:
            MissingWeightsError: If the file is missing or damaged; the message names it.
        """
        if not self.find_weights(network).is_file():
            raise MissingWeightsError(
                f"model.init: the weights of {network} are not on this machine; "
                f"{self.describe_command(network)}"
            )

    def hash_code(self, network: str) -> str:
        """Return a hash of the user's code of a network; empty for networks of packages."""
        return ""

    def read_weights(self, network: str) -> State:
        """Return the tensors of the pretrained network.

        Raises:
            MissingWeightsError: If the file is missing or damaged; the message names it.
        """
        self.check_weights(network)
        path = self.find_weights(network)
        try:
            return read_state(path)
        except DamagedFileError as error:
            raise MissingWeightsError(
                f"model.init: the weights at {path} are damaged; get them anew ({error.cause})"
            ) from None


@cache_by_modules
def discover_backbones() -> dict[str, BackboneSource]:
    """Return every source by its name."""
    return index_by_name(discover(__name__, BackboneSource))  # type: ignore[type-abstract]


def find_source(backbone: str) -> tuple[BackboneSource, str] | None:
    """Return the source of a backbone and the network's name in it, or None if it is unknown."""
    sources = discover_backbones()
    first, colon, name = backbone.partition(":")
    if colon and first in sources:
        return sources[first], name
    if colon:
        return sources["python"], backbone
    for source in sources.values():
        if backbone in source.list_networks():
            return source, backbone
    return None


def read_state(path: Path) -> State:
    """Return the tensors of a safetensors file or of a state dict; nothing else is unpickled.

    Raises:
        DamagedFileError: If the file is missing, damaged, or holds anything else.
    """
    if path.suffix == ".safetensors":
        return read_unsealed(path)[0]
    if not path.is_file():
        raise DamagedFileError(path, "is missing")
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle, which is refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes unpickling raise nearly anything
        raise DamagedFileError(path, type(error).__name__) from None
    for key in ("state_dict", "model"):  # as training scripts store it
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DamagedFileError(path, "holds no state dict, which is a dict of tensors by name")
    state = {str(name).removeprefix("module."): value for name, value in content.items()}
    if len(state) < len(content):
        raise DamagedFileError(path, "has tensors of one name with and without 'module.'")
    return state


def import_extra(package: str, extra: str) -> Any:
    """Return an optional package.

    Raises:
        RequestError: If it is not installed; the message has the command that installs it.
    """
    importlib.import_module("fl_sim.core.vision")  # declares what timm needs of torchvision
    try:
        return importlib.import_module(package)
    except ImportError:
        command = f"pip install 'fl-sim[{extra}]'"
        raise RequestError(f"model.backbone: {package} is not installed: {command}") from None


def start_from(network: nn.Module, head: str, num_classes: int, state: State | None) -> bool:
    """Give a network a new head and the weights of `state`; return whether the head stayed new.

    Args:
        network: Network, which is changed.
        head: Name of its head.
        num_classes: Number of outputs of the new head.
        state: Tensors of the network, or None. Those of a head of another size are left out.

    Raises:
        UnfitError: If other tensors do not fit; the message names some.
    """
    network.set_submodule(head, make_head(network.get_submodule(head), num_classes))
    if state is None:
        return True
    own = network.state_dict()
    of_head = {name for name in own if name.rpartition(".")[0] == head}
    is_new = any(name not in state or state[name].shape != own[name].shape for name in of_head)
    if is_new:
        state = {n: value for n, value in state.items() if n.rpartition(".")[0] != head}
        own = {n: value for n, value in own.items() if n not in of_head}
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    both = own.keys() & state.keys()
    differing = [name for name in own if name in both and own[name].shape != state[name].shape]
    kinds = {
        "missing": [name for name in own if name not in both | optional],
        "unknown": [name for name in state if name not in both],
        "of another shape": differing,
        "no floating-point numbers": [
            name
            for name in own
            if name in both and own[name].is_floating_point() and state[name].dtype not in WEIGHTS
        ],
    }
    causes = [f"{kind}: {_join_some(names)}" for kind, names in kinds.items() if names]
    if causes:
        raise UnfitError("; ".join(causes))
    network.load_state_dict(state, strict=False)
    return is_new


def _join_some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
