"""Parameters as one flat vector, and the buffers that travel beside it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.models.tuning import FrozenBatchNorm


def flat(model: nn.Module) -> Float[Tensor, " p"]:
    """Return a copy of the trainable parameters, in the order of the module."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in _trainable(model)])


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each trainable parameter by name, in the order of `flat`."""
    named = model.named_parameters()
    return {name: tuple(p.shape) for name, p in named if p.requires_grad}


@torch.no_grad()
def load_flat(model: nn.Module, vector: Float[Tensor, " p"]) -> None:
    """Copy a flat vector into the trainable parameters, in place."""
    parameters = _trainable(model)
    pieces = vector.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.copy_(piece.view_as(parameter))


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the statistics that change in training, by name.

    Frozen statistics stay where they are, and constants are no part of a model's state.
    """
    return {name: buffer.clone() for name, buffer in _travelling(model).items()}


@torch.no_grad()
def load_buffers(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy statistics into the model, in place."""
    for name, buffer in _travelling(model).items():
        buffer.copy_(values[name])


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _travelling(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{owner}.{name}": buffer
        for owner, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, FrozenBatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }
