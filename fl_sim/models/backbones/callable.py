"""Networks of the user's own, made by a function in a package that can be imported."""

import contextlib
import importlib
import inspect
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fl_sim.core.atomic_io import hash_file
from fl_sim.core.errors import FieldError, RequestError, require
from fl_sim.models.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PIXELS,
    Backbone,
    BackboneSource,
    MissingWeightsError,
    Request,
    UnfitError,
    start_from,
)
from fl_sim.models.stages import UnsplittableError, WithHead, find_called_head, make_images


class UserFunction(BackboneSource):
    """A function or class `my_package.nets:tiny_vit` that returns an `nn.Module`.

    It is called with `num_classes` if it has such a parameter, and the last linear layer that
    is called is then the head. Any other is called without arguments and returns features of shape
    (n, d), on which a linear head is put. Attributes `mean`, `std` and `side` of the function set
    the inputs; without them they are ImageNet's, of 64 pixels.
    """

    name = "python"
    text = "A network of your own: a function that returns an nn.Module."
    example = "my_package.nets:tiny_vit"
    pattern = "MODULE:FUNCTION"

    def list_networks(self) -> list[str]:
        """Return no names: any function can be asked for."""
        return []

    def build(self, request: Request) -> Backbone:
        """Return the network that the function returns."""
        function, name = _import(request.name), request.name
        with _refuse_failures(name, "a function that returns an nn.Module"):
            side = request.pixels or int(getattr(function, "side", PIXELS))
            mean = tuple(map(float, getattr(function, "mean", IMAGENET_MEAN)))
            std = tuple(map(float, getattr(function, "std", IMAGENET_STD)))
            takes_classes = "num_classes" in inspect.signature(function).parameters
            network = function(**({"num_classes": request.num_classes} if takes_classes else {}))
        kind = type(network).__name__
        allowed = f"a function that returns an nn.Module, not a {kind}"
        require(isinstance(network, nn.Module), "model.backbone", allowed, name)
        fits = all(map(math.isfinite, (*mean, *std))) and min(std, default=0) > 0
        allowed = "a function whose mean and std are finite, and std above 0"
        require(fits and {len(mean), len(std)} <= {1, 3}, "model.backbone", allowed, name)
        tensors = [*network.parameters(), *network.buffers()]
        is_here = all(each.device.type == "cpu" for each in tensors)
        require(is_here, "model.backbone", "a function whose network is on the CPU", name)
        network, head = self._find_head(network, request, side, takes_classes)
        is_new = request.state is None
        if request.state is not None:
            state = request.state
            state = network.rename_state(state) if isinstance(network, WithHead) else state
            is_new = start_from(network, head, request.num_classes, state)
        _check_outputs(network, request, side)
        return Backbone(network, head, is_new, side, mean, std)

    def _find_head(
        self, network: nn.Module, request: Request, side: int, takes_classes: bool
    ) -> tuple[nn.Module, str]:
        """Return the network and the name of its head, or one with a head on its features."""
        images, name = make_images(3, side, side), request.name
        with _run_apart(network, name, side):
            if takes_classes:
                try:
                    return network, find_called_head(network, images)
                except UnsplittableError as error:
                    allowed = f"a function whose network has a head ({error})"
                    raise FieldError("model.backbone", allowed, name) from None
            features = network(images)
        if not isinstance(features, torch.Tensor) or features.dim() != 2:
            allowed = "a function with a parameter num_classes, or a network of features (n, d)"
            raise FieldError("model.backbone", allowed, name)
        return WithHead(network, features.shape[1], request.num_classes), "head"

    def find_weights(self, network: str) -> Path:
        """Refuse: weights of the user's own network are a checkpoint."""
        raise MissingWeightsError(
            f"model.init: {network} has no pretrained weights; use init='checkpoint' with a file"
        )

    def describe_origin(self, network: str) -> str:
        """Return the places of modules."""
        return "a module on Python's path, beside the experiment, or named by --plugins"

    def hash_code(self, network: str) -> str:
        """Return the SHA-256 of the file of the function's module, or of the one that is named."""
        function, named = _import(network), network.partition(":")[0]
        is_defined = hasattr(function, "__qualname__")  # a partial function or an object is not
        module = sys.modules.get(function.__module__ if is_defined else named)
        path = getattr(module, "__file__", None)  # built-in modules have none
        return "" if path is None else hash_file(Path(path))


def _import(path: str) -> Any:
    """Return the function at `package.module:function`.

    Raises:
        FieldError: If it cannot be imported.
    """
    module_name, _, name = path.partition(":")
    with _refuse_failures(path, "a function of a module on Python's path"):
        module = importlib.import_module(module_name)
        function = getattr(module, name, None)
    place = getattr(module, "__file__", module_name)
    require(callable(function), "model.backbone", f"a function in {place}", path)
    return function


@contextlib.contextmanager
def _refuse_failures(backbone: str, allowed: str) -> Iterator[None]:
    """Raise a `FieldError` for anything that the user's code raises, or if it exits."""
    try:
        yield
    except (RequestError, UnfitError):
        raise
    except (Exception, SystemExit) as error:
        cause = " ".join(f"raised {type(error).__name__}: {error}".split())[:200]
        raise FieldError("model.backbone", f"{allowed} ({cause})", backbone) from None


@contextlib.contextmanager
def _run_apart(network: nn.Module, backbone: str, side: int) -> Iterator[None]:
    """Let a network run in evaluation mode, without an effect on its start or on later draws.

    Raises:
        FieldError: If it raises anything.
    """
    modes = {module: module.training for module in network.modules()}
    allowed = f"a network for images of (3, {side}, {side}); another side is model.pixels"
    with _refuse_failures(backbone, allowed), torch.no_grad(), torch.random.fork_rng([]):
        buffers = [buffer.clone() for buffer in network.buffers()]
        network.eval()
        yield
        for buffer, start in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(start)
    for module, mode in modes.items():
        module.training = mode


def _check_outputs(network: nn.Module, request: Request, side: int) -> None:
    """Refuse a network whose outputs for two images are no logits, or differ between calls."""
    images, name = make_images(3, side, side), request.name
    with _run_apart(network, name, side):
        outputs, again = network(images), network(images)
    found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    allowed = f"a network of logits (n, {request.num_classes}); its output for 2 images is {found}"
    require(found == (2, request.num_classes), "model.backbone", allowed, name)
    allowed = "a network whose outputs in evaluation mode do not change from call to call"
    same = torch.allclose(outputs, again, equal_nan=True)
    require(same, "model.backbone", allowed, name)
