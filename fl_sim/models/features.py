"""What a frozen front makes of an image, computed once and kept on disk."""

import torch
from jaxtyping import Float16, Shaped, UInt8
from torch import Tensor, nn

from fl_sim.core.cache import digest, load_or_compute
from fl_sim.core.perturbation import as_pixels

BATCH = 64


def extract_features(
    frozen: nn.Sequential, weights: str, images: UInt8[Tensor, "n c h w"]
) -> Float16[Tensor, "n ..."]:
    """Return the output of the frozen front as 16-bit floats, on disk as in memory.

    Args:
        frozen: the front.
        weights: names its weights and settings; the cache is keyed by it and the images.
        images: what to see.
    """

    def compute() -> Tensor:
        return torch.cat([_extract_half(frozen, batch) for batch in images.split(BATCH)])

    return load_or_compute("features", digest(weights, images), compute)


def to_trainable(inputs: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
    """Return features in single precision; images as they are."""
    return inputs.float() if inputs.is_floating_point() else inputs


@torch.no_grad()
def _extract_half(
    frozen: nn.Sequential, batch: UInt8[Tensor, "n c h w"]
) -> Float16[Tensor, "n ..."]:
    output: Tensor = frozen(as_pixels(batch))
    return output.half()
