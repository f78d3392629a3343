"""Features of images from a frozen front, computed once and cached on disk."""

import torch
from jaxtyping import Float16, Shaped, UInt8
from torch import Tensor, nn

from fl_sim.core.cache import digest, load_or_compute
from fl_sim.core.device import CPU, device_key, device_of, on_device
from fl_sim.core.perturbation import as_pixels

BATCH = 16  # the fastest on a CPU: larger batches leave its cache
ACCELERATOR_BATCH = 256


def extract_features(
    frozen: nn.Sequential, weights: str, images: UInt8[Tensor, "n c h w"]
) -> Float16[Tensor, "n ..."]:
    """Return the output of the frozen front as 16-bit floats, from the cache if it is there.

    Args:
        frozen: The front.
        weights: Identifier of its weights and settings; the cache key is made of it and the images.
        images: Images to pass through it.
    """
    device = device_of(frozen)
    size = BATCH if device == CPU else ACCELERATOR_BATCH

    def compute() -> Tensor:
        with on_device(device):
            batches = (batch.to(device) for batch in images.split(size))
            return torch.cat([_extract_half(frozen, batch) for batch in batches]).cpu()

    return load_or_compute("features", digest(weights, images, *device_key()), compute)


def to_trainable(inputs: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "n ..."]:
    """Return features in single precision; images are returned unchanged."""
    return inputs.float() if inputs.is_floating_point() else inputs


@torch.no_grad()
def _extract_half(
    frozen: nn.Sequential, batch: UInt8[Tensor, "n c h w"]
) -> Float16[Tensor, "n ..."]:
    output: Tensor = frozen(as_pixels(batch))
    return output.half()
