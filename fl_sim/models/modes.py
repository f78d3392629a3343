"""Networks in evaluation mode: frozen, with batch normalisations folded into convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put the network in evaluation mode and freeze it; restore both on exit.

    Yields a copy with folded batch normalisations, to be used in its place within the block.
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
    """Return a copy without the batch normalisations that follow a convolution.

    In evaluation mode a normalisation is a factor and a shift per map, which the convolution can
    have in its weights: the same function up to rounding, and twice as fast for large maps. All
    other weights are shared with the network, whose later steps the copy does not follow.

    Args:
        network: Network in evaluation mode; pairs are found in `nn.Sequential`s at any depth.
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
