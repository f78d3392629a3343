"""Splits examples into training batches, none of which is too small to train on."""

from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fl_sim.core.perturbation import as_floats
from fl_sim.models.tuning import FrozenBatchNorm

_min_batch_sizes: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()


def split_batches(
    rows: Int64[Tensor, " n"], batch_size: int, min_size: int = 1
) -> tuple[Int64[Tensor, " _"], ...]:
    """Return the rows in batches, in their order.

    Args:
        rows: Rows of the examples.
        batch_size: Size of all batches but the last.
        min_size: Smallest size of the last of several batches; a smaller remainder is added to
            the batch before it.
    """
    parts = rows.split(batch_size)
    if len(parts) > 1 and len(parts[-1]) < min_size:
        return (*parts[:-2], torch.cat(parts[-2:]))
    return tuple(parts)


def min_batch_size(
    model: nn.Module, inputs: Shaped[Tensor, "n ..."], trained: nn.Module | None = None
) -> int:
    """Return the smallest batch that a network can be trained on: 1 or 2.

    Batch normalisation needs more than one value per channel, and one image gives a single value
    if its map is a single pixel. The result is cached per network and shape; the network is not
    changed.

    Args:
        model: The network.
        inputs: Examples of the shape that it will be trained on.
        trained: Part that is in training mode during training. If None, all of it.
    """
    sizes = _min_batch_sizes.setdefault(model, {})
    shape = inputs.shape[1:]
    if shape not in sizes:
        sizes[shape] = _measure_min_batch_size(model, inputs, model if trained is None else trained)
    return sizes[shape]


def count_samples(num_examples: int, min_size: int) -> int:
    """Return the number of examples that gives as many batches if remainders are not merged.

    With remainders below `min_size` merged, n examples give as many batches as n - min_size + 1.
    """
    return num_examples if num_examples < min_size else num_examples - min_size + 1


def find_batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return the layers that normalise by batch statistics in training mode."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, FrozenBatchNorm)
    ]


@torch.no_grad()
def _measure_min_batch_size(
    model: nn.Module, inputs: Shaped[Tensor, "n ..."], trained: nn.Module
) -> int:
    layers = find_batch_norms(trained)
    if not layers or len(inputs) == 0:
        return 1
    values_per_channel: list[int] = []

    def record(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        values_per_channel.append(arguments[0].numel() // arguments[0].shape[1])

    modes = {module: module.training for module in model.modules()}
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        model.eval()(as_floats(inputs[:1]))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return 2 if min(values_per_channel, default=2) < 2 else 1
