"""Perceptual quality of changed images: PSNR and SSIM."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5  # side and standard deviation of the Gaussian window, in pixels
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(
    images: UInt8[Tensor, "n c h w"], changed: UInt8[Tensor, "n c h w"]
) -> Float[Tensor, " n"]:
    """Return the peak signal-to-noise ratio of each image, in dB; infinite without a change.

    10 log10(255^2 / MSE); a change of 8 levels in every pixel gives 30.1 dB. No chance level.

    Source: the usual definition.

    >>> grey = torch.full((1, 1, 4, 4), 100, dtype=torch.uint8)
    >>> round(float(psnr(grey, grey + 8)[0]), 1)
    30.1
    """
    error = (changed.double() - images.double()).square().mean((1, 2, 3))
    return (10 * (255**2 / error).log10()).float()


def ssim(
    images: UInt8[Tensor, "n c h w"], changed: UInt8[Tensor, "n c h w"]
) -> Float[Tensor, " n"]:
    """Return the structural similarity of each image; 1 without a change, about 0 for noise.

    Means, variances and covariances are taken in a Gaussian window (11 pixels, sigma 1.5) at each
    position where it fits, and the index is averaged over positions and channels. Smaller images
    get the largest odd window that fits.

    Source: Wang et al. (2004), equation 13, https://doi.org/10.1109/TIP.2003.819861.

    >>> grey = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
    >>> round(float(ssim(grey, grey)[0]), 6)
    1.0
    """
    side = min(WINDOW, *images.shape[2:])
    window = _gaussian(side - 1 + side % 2)
    x, y = images.double(), changed.double()
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x = _blur(x * x, window) - mean_x**2
    var_y = _blur(y * y, window) - mean_y**2
    cov = _blur(x * y, window) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C1) * (2 * cov + C2)
    denominator = (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    return (numerator / denominator).mean((1, 2, 3)).float()


def _gaussian(side: int) -> Float[Tensor, " s"]:
    offsets = torch.arange(side, dtype=torch.float64) - side // 2
    weights = (-offsets.square() / (2 * SIGMA**2)).exp()
    return weights / weights.sum()


def _blur(
    maps: Float[Tensor, "n c h w"], window: Float[Tensor, " s"]
) -> Float[Tensor, "n c h2 w2"]:
    channels = maps.shape[1]
    down = window.view(1, 1, -1, 1).expand(channels, -1, -1, -1)
    across = window.view(1, 1, 1, -1).expand(channels, -1, -1, -1)
    return functional.conv2d(
        functional.conv2d(maps, down, groups=channels), across, groups=channels
    )
