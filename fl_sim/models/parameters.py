"""Model parameters as one flat vector, and the tensors that are sent with it.

These are statistics, which clients send back, and the frozen weights below low-rank changes, if the
server adds to them. Both are named buffers here.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import LowRankPlace
from fl_sim.models.low_rank import find_low_rank
from fl_sim.models.tuning import FrozenBatchNorm


def flatten(model: nn.Module) -> Float[Tensor, " p"]:
    """Return a copy of the trainable parameters, in the order of the module."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in _list_trainable(model)])


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each trainable parameter by name, in the order of `flatten`."""
    named = model.named_parameters()
    return {name: tuple(p.shape) for name, p in named if p.requires_grad}


@torch.no_grad()
def load_flat(model: nn.Module, vector: Float[Tensor, " p"]) -> None:
    """Copy a flat vector into the trainable parameters, in place."""
    parameters = _list_trainable(model)
    pieces = vector.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.copy_(piece.view_as(parameter))


def copy_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the statistics that change in training, by name.

    Frozen statistics and constants are not among them: they never change.
    """
    return {name: buffer.clone() for name, buffer in _find_statistics(model).items()}


def copy_base(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the frozen weights that the server adds to, by name."""
    return {name: weight.clone() for name, weight in _find_base(model).items()}


def select_statistics(buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the buffers that clients send back: all but frozen weights."""
    return {name: buffer for name, buffer in buffers.items() if not name.endswith("weight")}


@torch.no_grad()
def load_buffers(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy the given buffers into the model, in place; frozen weights may be left out."""
    for name, buffer in _find_statistics(model).items():
        buffer.copy_(values[name])
    for name, weight in _find_base(model).items():
        if name in values:
            weight.copy_(values[name])


def list_low_rank_places(model: nn.Module) -> tuple[LowRankPlace, ...]:
    """Return the places of low-rank changes in the flat vector whose frozen weight is sent."""
    places, start, slices = [], 0, {}
    for name, shape in parameter_shapes(model).items():
        slices[name] = slice(start, start := start + torch.Size(shape).numel())
    for name, layer in find_low_rank(model).items():
        if layer.sends_base:
            base, shape = f"{name}.layer.{layer.weight_name}", tuple(layer.base_weight.shape)
            down, up = slices[f"{name}.down"], slices[f"{name}.up"]
            places.append(LowRankPlace(base, shape, down, up, len(layer.down), layer.scaling))
    return tuple(places)


class ModelTensors:
    """The trainable parameters and statistics of a model, looked up once for repeated loading.

    The set of trainable parameters must not change meanwhile.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look up the tensors of `model`."""
        self._parameters = _list_trainable(model)
        self._sizes = [parameter.numel() for parameter in self._parameters]
        self._statistics = _find_statistics(model)
        self._base = _find_base(model)

    @torch.no_grad()
    def load(self, vector: Float[Tensor, " p"], buffers: dict[str, Tensor]) -> None:
        """Copy parameters and buffers into the model, in place."""
        for parameter, piece in zip(self._parameters, vector.split(self._sizes), strict=True):
            parameter.copy_(piece.view_as(parameter))
        for name, buffer in (*self._statistics.items(), *self._base.items()):
            buffer.copy_(buffers[name])

    @torch.no_grad()
    def subtract(
        self, start: Float[Tensor, " p"], out: Float[Tensor, " p"] | None = None
    ) -> Float[Tensor, " p"]:
        """Return the parameters minus `start`, written into `out` if that is given."""
        change = torch.empty_like(start) if out is None else out
        pieces = zip(start.split(self._sizes), change.split(self._sizes), strict=True)
        for parameter, (before, piece) in zip(self._parameters, pieces, strict=True):
            torch.sub(parameter.reshape(-1), before, out=piece)
        return change

    def copy_buffers(self) -> dict[str, Tensor]:
        """Return copies of the statistics, by name."""
        return {name: buffer.clone() for name, buffer in self._statistics.items()}


def _list_trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _find_base(model: nn.Module) -> dict[str, Tensor]:
    """Return the frozen weights that the server adds to, by name."""
    return {
        f"{name}.layer.{layer.weight_name}": layer.base_weight
        for name, layer in find_low_rank(model).items()
        if layer.sends_base
    }


def _find_statistics(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{owner}.{name}": buffer
        for owner, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, FrozenBatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }
