"""What a frozen front makes of an image, computed once and kept on disk."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fl_sim.cache import cached, digest
from fl_sim.perturbation import as_pixels

BATCH = 64


def features(
    frozen: nn.Sequential, weights: str, images: UInt8[Tensor, "n c h w"]
) -> Float[Tensor, "n ..."]:
    """Return the output of the frozen front, kept as 16-bit floats on disk.

    Args:
        frozen: the front.
        weights: names its weights and settings; the cache is keyed by it and the images.
        images: what to see.
    """

    def compute() -> Tensor:
        return torch.cat([_half(frozen, batch) for batch in images.split(BATCH)])

    return cached("features", digest(weights, images), compute).float()


@torch.no_grad()
def _half(frozen: nn.Sequential, batch: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n ..."]:
    output: Tensor = frozen(as_pixels(batch))
    return output.half()
