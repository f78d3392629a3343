"""How examples are cut into the batches of training, everywhere in one way."""

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
        rows: of the examples.
        batch_size: of all batches but the last.
        least: fewest rows of the last batch, where there is another one: a smaller rest joins
            the batch before it.
    """
    parts = rows.split(batch_size)
    if len(parts) > 1 and len(parts[-1]) < min_size:
        return (*parts[:-2], torch.cat(parts[-2:]))
    return tuple(parts)


def min_batch_size(
    model: nn.Module, inputs: Shaped[Tensor, "n ..."], trained: nn.Module | None = None
) -> int:
    """Return the fewest examples on which a network can be trained: 1, or 2.

    Batch normalisation needs more than one value a channel. Where a map is a single place, one
    image gives a single value. The network is asked once, in evaluation mode; nothing of it
    changes.

    Args:
        model: the network.
        inputs: examples such as it will be trained on.
        trained: the part that is in training mode then; None: all of it.
    """
    known = _min_batch_sizes.setdefault(model, {})
    shape = inputs.shape[1:]
    if shape not in known:
        known[shape] = _measure_min_batch_size(model, inputs, model if trained is None else trained)
    return known[shape]


def count_samples(num_examples: int, min_size: int) -> int:
    """Return a number of examples that gives as many batches where no rest joins another one.

    With rests of fewer than `least` joined, n examples give as many batches as n - least + 1 do.
    """
    return num_examples if num_examples < min_size else num_examples - min_size + 1


def find_batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return the layers that normalise by the statistics of a batch while they are trained."""
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
    fewest: list[int] = []

    def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        fewest.append(arguments[0].numel() // arguments[0].shape[1])

    modes = {module: module.training for module in model.modules()}
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        model.eval()(as_floats(inputs[:1]))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return 2 if min(fewest, default=2) < 2 else 1
