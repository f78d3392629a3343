"""Networks of the user's own, made by a function in a package that can be imported."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fl_sim.core.atomic_io import hash_file
from fl_sim.core.errors import FieldError
from fl_sim.models.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PIXELS,
    Backbone,
    BackboneSource,
    MissingWeightsError,
    Request,
    start_from,
)
from fl_sim.models.stages import UnsplittableError, WithHead, find_head


class UserFunction(BackboneSource):
    """A function or class `my_package.nets:tiny_vit` that returns an `nn.Module`.

    It is called with `num_classes` if it has such a parameter, and the last linear layer of the
    network is then the head. Any other is called without arguments and returns features of shape
    (n, d), on which a linear head is put. Attributes `mean`, `std` and `side` of the function set
    the inputs; without them they are ImageNet's, of 64 pixels.
    """

    name = "python"
    text = "A function of a package of yours that returns an nn.Module."
    example = "my_package.nets:tiny_vit"

    def list_networks(self) -> list[str]:
        """Return no names: any function can be asked for."""
        return []

    def build(self, request: Request) -> Backbone:
        """Return the network that the function returns."""
        function = _import(request.name)
        side = request.pixels or int(getattr(function, "side", PIXELS))
        takes_classes = "num_classes" in inspect.signature(function).parameters
        given = {"num_classes": request.num_classes} if takes_classes else {}
        network = function(**given)
        if not isinstance(network, nn.Module):
            allowed = f"a function that returns an nn.Module, not a {type(network).__name__}"
            raise FieldError("model.backbone", allowed, request.name)
        if takes_classes:
            try:
                head = find_head(network)
            except UnsplittableError as error:
                allowed = f"a function whose network has a head ({error})"
                raise FieldError("model.backbone", allowed, request.name) from None
        else:
            with torch.no_grad():
                features = network.eval()(torch.zeros(2, 3, side, side))
            if not isinstance(features, torch.Tensor) or features.dim() != 2:
                allowed = "a function with a parameter num_classes, or a network of features (n, d)"
                raise FieldError("model.backbone", allowed, request.name)
            network, head = (
                WithHead(network.train(), features.shape[1], request.num_classes),
                "head",
            )
        is_new = request.state is None
        if request.state is not None:
            is_new = start_from(network, head, request.num_classes, request.state)
        mean = tuple(getattr(function, "mean", IMAGENET_MEAN))
        std = tuple(getattr(function, "std", IMAGENET_STD))
        return Backbone(network, head, is_new, side, mean, std)

    def find_weights(self, network: str) -> Path:
        """Refuse: weights of the user's own network are a checkpoint."""
        raise MissingWeightsError(
            f"model.init: {network} has no pretrained weights; use init='checkpoint' with a file"
        )

    def describe_origin(self, network: str) -> str:
        """Return the kind of packages."""
        return "a package that Python can import, on all machines of a run"

    def hash_code(self, network: str) -> str:
        """Return the SHA-256 of the file of the function's module."""
        path = sys.modules[_import(network).__module__].__file__
        return "" if path is None else hash_file(Path(path))


def _import(path: str) -> Any:
    """Return the function at `package.module:function`.

    Raises:
        FieldError: If it cannot be imported.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's, and may raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        allowed = f"a function of a module on Python's path ({cause})"
        raise FieldError("model.backbone", allowed, path) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise FieldError("model.backbone", f"a function in {module.__file__}", path)
    return function
