"""How alike two images are."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5  # of the Gaussian window of SSIM, in pixels
STABILITY = (0.01**2, 0.03**2)


def psnr(images: Float[Tensor, "n c h w"], others: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Return the peak signal-to-noise ratio in decibels, for pixels in [0, 1].

    Infinite for equal images; 20 dB is a root mean square error of 0.1. Two unrelated images
    of a dataset give its chance level, which is not 0: measure it.

    Source: the usual definition, -10 log10 of the mean squared error.
    """
    error = (images.double() - others.double()).square().flatten(1).mean(1)
    return -10 * error.log10()


def ssim(images: Float[Tensor, "n c h w"], others: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    """Return the mean structural similarity, from -1 to 1, for pixels in [0, 1].

    Over all windows that lie within the image; smaller images have a smaller window.

    Source: Wang et al. (2004), equation 13, https://doi.org/10.1109/TIP.2003.819861.
    """
    first, second = images.double(), others.double()
    kernel = _window(min(WINDOW, *images.shape[2:]), images.shape[1])

    def smooth(values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
        return functional.conv2d(values, kernel, groups=values.shape[1])

    mean, other_mean = smooth(first), smooth(second)
    variance = smooth(first.square()) - mean.square()
    other_variance = smooth(second.square()) - other_mean.square()
    covariance = smooth(first * second) - mean * other_mean
    light, contrast = STABILITY
    alike = (2 * mean * other_mean + light) * (2 * covariance + contrast)
    spread = variance + other_variance + contrast
    size = (mean.square() + other_mean.square() + light) * spread
    return (alike / size).flatten(1).mean(1)


def _window(size: int, channels: int) -> Float[Tensor, "c 1 s s"]:
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = (-places.square() / (2 * SIGMA**2)).exp()
    line = line / line.sum()
    return (line[:, None] * line).expand(channels, 1, size, size)
