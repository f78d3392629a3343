"""Low-rank adaptation (LoRA): frozen layers, each plus a trained product of two thin matrices."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class LowRank(nn.Module):
    """A linear layer or convolution with a frozen weight plus a product of two thin matrices.

    It starts equal to the layer that it wraps, since the second factor starts at zero.

    Source: Hu et al. (2022), LoRA, section 4.1, https://arxiv.org/abs/2106.09685.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        """Wrap `layer`; the first factor is drawn from torch's global generator."""
        super().__init__()
        self.layer = layer.requires_grad_(False)
        outputs, inputs = layer.weight.shape[0], layer.weight[0].numel()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        """Return the output of the layer with the adapted weight."""
        layer = self.layer
        weight = layer.weight + (self.up @ self.down).view_as(layer.weight)
        if isinstance(layer, nn.Linear):
            return functional.linear(inputs, weight, layer.bias)
        output: Tensor = layer._conv_forward(inputs, weight, layer.bias)
        return output


def add_low_rank(module: nn.Module, rank: int) -> None:
    """Freeze a module, and adapt its linear layers and ungrouped convolutions, in place."""
    module.requires_grad_(False)
    for owner in list(module.modules()):
        for name, child in list(owner.named_children()):
            ungrouped = isinstance(child, nn.Conv2d) and child.groups == 1
            if ungrouped or isinstance(child, nn.Linear):
                setattr(owner, name, LowRank(child, rank))  # type: ignore[arg-type]
