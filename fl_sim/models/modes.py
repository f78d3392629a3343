"""A network at rest: evaluated and attacked without being changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put the network in evaluation mode and freeze it; afterwards all is as it was.

    Yields it `folded`, to be asked instead of it as long as the block lasts.
    """
    modes = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield fold_batch_norms(model)
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter in trained:
            parameter.requires_grad_(True)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a network at rest without the batch normalisations that follow a convolution.

    There a normalisation is a factor and a shift for each map, and the convolution can have them
    in its weights: the same function up to rounding, and twice as fast where maps are large. All
    other weights are shared with the network, whose later steps the result does not follow.

    Args:
        network: in evaluation mode; pairs are found in rows of stages, at any depth.
    """
    twin = copy(network)
    stages = {name: fold_batch_norms(stage) for name, stage in network.named_children()}
    if isinstance(network, nn.Sequential):
        for before, after in pairwise(list(stages)):
            first, second = stages[before], stages[after]
            if type(first) is nn.Conv2d and type(second) is nn.BatchNorm2d:
                stages[before] = fuse_conv_bn_eval(first, second)
                stages[after] = nn.Identity()
    twin._modules = dict(stages)
    return twin
