"""Adapter imprint: images read off the gradient of adapters, through a transparent front.

Threat model: a server that chooses the pretrained front, which clients keep frozen, and the first
adapters, which they train and whose gradients it receives. It has some public images of the kind.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.attacks.gradient_inversion import ROUNDING

SCALE = 1e-4  # of the adapters' outputs, small enough to leave what later blocks receive unchanged


class Adapter(nn.Module):
    """A residual bottleneck: the input plus `up(relu(down(input)))`.

    Source: Houlsby et al. (2019), section 2.1, https://arxiv.org/abs/1902.00751.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the input plus the adapter's change, which is zero at first."""
        change: Tensor = self.up(self.down(inputs).relu())
        return inputs + change


@torch.no_grad()
def imprint(
    adapters: Sequence[Adapter], public: Sequence[Float[Tensor, "m d"]], rng: torch.Generator
) -> None:
    """Write bins of brightness into the adapters, in place.

    Every row of `down` measures the mean of the input, and its bias is the lower edge of a bin.
    Edges are quantiles of the public inputs, shared out over the adapters, so that a bin holds one
    image of a batch in the best case. All rows of an adapter have the same column in `up`, so that
    an image adds the same multiple of itself to the gradient of each row whose edge it exceeds.

    Source: Sami et al. (2025), PEFTLeak, https://arxiv.org/abs/2506.04453, whose frozen layers are
    the identity and whose adapters hold such rows, after the imprint module of Fowl et al. (2022),
    Robbing the Fed, section 3, https://arxiv.org/abs/2110.13057. Theirs does so for each patch of
    an image, and clusters the patches to images; here an image is one input.

    Args:
        adapters: Adapters, in the order of the network.
        public: Inputs of each adapter for public images, which the server computes itself.
        rng: Generator of the direction in which adapters change their input.
    """
    bins = [len(adapter.down.weight) - 1 for adapter in adapters]
    first = 0
    for adapter, inputs, count in zip(adapters, public, bins, strict=True):
        width = inputs.shape[1]
        places = (torch.arange(count + 1) + first + 0.5) / (sum(bins) + 1)
        first += count
        adapter.down.weight.fill_(1 / width)
        adapter.down.bias.copy_(-inputs.mean(1).quantile(places.to(inputs)))
        column = torch.randn(width, 1, generator=rng)
        adapter.up.weight.copy_((SCALE * column).expand(width, count + 1))


def recover_inputs(
    weight_gradient: Float[Tensor, "r d"], bias_gradient: Float[Tensor, " r"]
) -> Float[Tensor, "k d"]:
    """Return one candidate for each bin of an adapter in which there are images.

    The gradients of two neighbouring rows differ by the images of the bin between them: with one
    image this is a multiple of it, and the bias's gradient is the factor. With several images the
    candidate is a mixture of them.

    Source: Fowl et al. (2022), equation 5, https://arxiv.org/abs/2110.13057.
    """
    weights, factors = -weight_gradient.diff(dim=0), -bias_gradient.diff()
    filled = factors.abs() > ROUNDING * bias_gradient.abs().max()
    return weights[filled] / factors[filled, None]


def recover_from_adapters(model: nn.Module, gradient: Float[Tensor, " p"]) -> Float[Tensor, "k d"]:
    """Return the candidates of all adapters of a network.

    Args:
        model: Network as it was sent out; all its adapters have inputs of one width.
        gradient: Flat gradient of its trained parameters, from `compute_gradient`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = gradient.split([p.numel() for p in trained])
    by_parameter = {id(p): part.view_as(p) for p, part in zip(trained, parts, strict=True)}
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    return torch.cat(
        [
            recover_inputs(by_parameter[id(a.down.weight)], by_parameter[id(a.down.bias)])
            for a in adapters
        ]
    )
