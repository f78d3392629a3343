"""Trained networks as state dicts that the package of the network loads."""

import torch
from torch import Tensor

from fl_sim.core.errors import RequestError
from fl_sim.models.architectures import Normalise
from fl_sim.models.closed_form import CosineHead, find_statistics_head
from fl_sim.models.foundation import Rescale
from fl_sim.models.low_rank import find_low_rank
from fl_sim.models.prompts import Prompted
from fl_sim.models.tuning import Network


@torch.no_grad()
def collect_state(network: Network) -> dict[str, Tensor]:
    """Return copies of a network's weights and buffers under the names of its package.

    Low-rank changes are added to the weights that they change, and a solved head is in single
    precision.

    Raises:
        RequestError: If the network computes what that of its package cannot.
    """
    obstacle = _find_obstacle(network)
    if obstacle:
        raise RequestError(f"the network cannot be exported: {obstacle}")
    layers = find_low_rank(network.trained).values()
    adapted = {id(layer.base_weight): layer.weight for layer in layers}
    solved = find_statistics_head(network.trained)
    if solved is not None:
        adapted |= {id(p): p.float() for p in (solved.weight, solved.bias)}
    return {n: adapted.get(id(t), t).detach().clone() for n, t in network.tensors.items()}


def _find_obstacle(network: Network) -> str:
    """Return the reason why the network of the package cannot compute the same, or nothing."""
    modules = list(network.trained.modules())
    if any(isinstance(module, Prompted) for module in modules):
        return "the network of its package has no place for prompts (model.tune='prompt')"
    if any(isinstance(module, CosineHead) for module in modules):
        return (
            "a zero-shot head compares directions, and a linear head cannot (nothing was trained)"
        )
    solved = find_statistics_head(network.trained)
    if solved is not None and all(tensor is not solved.bias for tensor in network.tensors.values()):
        return "its solved head has a bias, and that of its package has none"
    return ""


def describe_inputs(network: Network) -> dict[str, str]:
    """Return the side, interpolation, mean and standard deviation of a network's inputs.

    It is empty for a network of this project, which takes pixels in [0, 1] of the data's size.
    """
    described = dict[str, str]()
    for stage in (*network.frozen, *network.trained)[:2]:
        if isinstance(stage, Rescale):
            described |= {"pixels": str(stage.pixels), "interpolation": stage.scaling}
        elif isinstance(stage, Normalise) and described:
            described |= {"mean": _join(stage.mean), "std": _join(stage.std)}
    return described


def _join(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
