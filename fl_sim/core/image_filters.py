"""Deterministic changes of whole batches of images: blurs, warps and JPEG compression."""

import io
from collections.abc import Iterable
from math import ceil

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "n c h w"]


def gaussian_blur(images: Images, sigma: float) -> Images:
    """Return images blurred by a Gaussian, reflected at the border.

    Args:
        images: Images, or any other maps.
        sigma: Standard deviation in pixels, above 0. The kernel reaches to three of them, and at
            most to the opposite border.
    """
    reach = min(ceil(3 * sigma), min(images.shape[2:]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    return filter_images(filter_images(images, kernel[:, None]), kernel[None])


def filter_images(images: Images, kernel: Float[Tensor, "a b"]) -> Images:
    """Return every channel filtered by one kernel with odd sides, reflected at the border."""
    down, across = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = functional.pad(images, (across, across, down, down), mode="reflect")
    planes = functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None])
    return planes.view_as(images)


def warp_affine(images: Images, matrices: Float[Tensor, "n 2 3"]) -> Images:
    """Return images seen through affine maps, by bilinear interpolation.

    A matrix maps output positions to input positions, both in [-1, 1] from border to border.
    Pixels beyond the border repeat those at it.
    """
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return warp(images, grid)


def warp(images: Images, grid: Float[Tensor, "n h w 2"]) -> Images:
    """Return images sampled at the positions of `grid`, as columns and rows in [-1, 1]."""
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def average_views(images: Images, views: Iterable[Float[Tensor, "n 2 3"]]) -> Images:
    """Return the mean of the images seen through several affine maps, as during an exposure."""
    warped = [warp_affine(images, matrices) for matrices in views]
    return torch.stack(warped).mean(0)


def compress_jpeg(images: UInt8[Tensor, "n c h w"], quality: int) -> UInt8[Tensor, "n c h w"]:
    """Return images of one or three channels after compression as JPEG files.

    Args:
        images: The images.
        quality: Quality of the compression, from 1 to 100.
    """
    if len(images) == 0:
        return images
    compressed = [_compress_image(image, quality) for image in images.cpu()]
    return torch.stack(compressed).to(images.device)


def _compress_image(image: UInt8[Tensor, "c h w"], quality: int) -> UInt8[Tensor, "c h w"]:
    file = io.BytesIO()
    planes = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(planes[:, :, 0] if len(image) == 1 else planes)
    picture.save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    return decoded[None] if len(image) == 1 else decoded.permute(2, 0, 1)
