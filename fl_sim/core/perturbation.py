"""Bounded noise on images: sampling, projection, projected sign steps and rounding to 8 bits.

Error-minimising and error-maximising noise share one loop, with opposite signs.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from fl_sim.core.errors import require

Loss = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, ""]]


def as_pixels(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return images as floats in [0, 1]."""
    return images.float() / 255


def as_floats(stored: Shaped[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Return stored inputs as a network takes them: pixels of 8 bits, or features of 16."""
    return as_pixels(stored) if stored.dtype == torch.uint8 else stored.float()


def check_radius(radius: float) -> None:
    """Raise a `FieldError` for a radius that is not in (0, 1]."""
    require(0 < radius <= 1, "radius", "in pixels of [0, 1], such as 16/255", radius)


def sample_uniform(
    images: Float[Tensor, "n c h w"], radius: float, rng: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """Return noise drawn uniformly within the radius, clipped so that pixels stay in [0, 1]."""
    drawn = torch.rand(images.shape, generator=rng) * 2 - 1
    return project(radius * drawn, images, radius)


def project(
    noise: Float[Tensor, "n c h w"], images: Float[Tensor, "n c h w"], radius: float
) -> Float[Tensor, "n c h w"]:
    """Return the nearest noise with |noise| <= radius and 0 <= images + noise <= 1.

    Args:
        noise: Change of each pixel, in pixels of [0, 1].
        images: Clean images, in [0, 1].
        radius: Largest change of a pixel, in [0, 1], such as 8/255.
    """
    return (images + noise.clamp(-radius, radius)).clamp(0, 1) - images


def take_sign_steps(
    loss: Loss,
    images: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    radius: float,
    step_size: float,
    num_steps: int,
    direction: Literal["minimise", "maximise"],
) -> Float[Tensor, "n c h w"]:
    """Return noise after projected sign steps (projected gradient descent in L-infinity).

    Source: Madry et al. (2018), https://arxiv.org/abs/1706.06083; with `minimise`, the inner
    loop of Huang et al. (2021), https://arxiv.org/abs/2101.04898, equation 3.

    Args:
        loss: Function from a batch of images in [0, 1] to its loss; the parameters of the network
            should not require gradients.
        images: Clean images, in [0, 1].
        noise: Noise to start from.
        radius: Largest change of a pixel, in [0, 1], such as 8/255.
        step_size: Change of a pixel per step, in [0, 1].
        num_steps: Number of steps.
        direction: Whether the loss is minimised or maximised.
    """
    sign = -1.0 if direction == "minimise" else 1.0
    for _ in range(num_steps):
        moved = (images + noise).requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(moved), moved)
        noise = project(noise + sign * step_size * gradient.sign(), images, radius)
    return noise


def quantise(
    images: UInt8[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    radius: float,
    norm: Literal["linf", "l2"],
) -> UInt8[Tensor, "n c h w"]:
    """Return images with noise, rounded to 8 bits without leaving the radius.

    With `linf`, no pixel changes by more than the radius. With `l2`, the root mean square of an
    image's change is at most the radius plus the half level that rounding adds.

    Args:
        images: Clean images.
        noise: Change of each pixel, in pixels of [0, 1].
        radius: Bound in pixels of [0, 1]: on each pixel for `linf`, on the root mean square over
            an image's pixels for `l2`.
        norm: Norm of the bound.
    """
    rounded = ((images.float() + noise * 255).clamp(0, 255)).round().int()
    if norm == "linf":
        # A small margin, since 8 / 255 * 255 may come out just below 8.
        levels = int(radius * 255 + 1e-6)
        rounded = images.int() + (rounded - images.int()).clamp(-levels, levels)
    return rounded.to(torch.uint8)
