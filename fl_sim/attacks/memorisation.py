"""Unique-feature memorisation: does a model know a mark that one training image carried?

A mark, the letter A of 5 x 5 pixels, is written into one training image. Afterwards the model
sees images of another distribution, each with the mark and with a random patch in the same place:
a model that remembers reacts to the mark alone.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.seeding import generator

LETTER_A = torch.tensor(
    [[0, 1, 1, 1, 0], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]],
    dtype=torch.float32,
)
OFFSET = 1  # pixels from the upper and the left edge


class Memorisation(NamedTuple):
    """How much more a model reacts to the mark than to a random patch, in nats.

    Attributes:
        known: by the log-probability of the marked image's label.
        unknown: by the divergence from the answer to the unmarked image; needs no label.
    """

    known: float
    unknown: float


def mark_images(
    images: Float[Tensor, "n c h w"], patch: Float[Tensor, "... p q"] = LETTER_A
) -> Float[Tensor, "n c h w"]:
    """Return the images with the mark, or a patch for each, written into their corner."""
    height, width = patch.shape[-2:]
    copy = images.clone()
    rows, columns = slice(OFFSET, OFFSET + height), slice(OFFSET, OFFSET + width)
    copy[:, :, rows, columns] = patch
    return copy


def mark_bytes(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c h w"]:
    """Return a stored image with the mark written into its corner."""
    pixels = mark_images(image[None].float() / 255)
    return (pixels[0] * 255).round().to(torch.uint8)


@torch.no_grad()
def measure_memorisation(
    model: nn.Module, images: Float[Tensor, "n c h w"], label: int, seed: int
) -> Memorisation:
    """Return the memorisation scores of a model, which is put into evaluation mode.

    A score alone says little: a model may like the letter's shape, and over thousands of images
    any such taste is significant. Subtract the score of a control that was trained alike, from
    the same seed, without the mark; 0 without memorisation.

    Source: Hartley and Tsaftaris (2022), https://arxiv.org/abs/2202.08099, in the form with a
    known label of Hartley et al. (2023), https://doi.org/10.1038/s41598-023-48034-3.

    Args:
        model: takes images in [0, 1].
        images: of another distribution than the training images.
        label: of the marked training image.
        seed: of the random patches, one an image.
    """
    model.eval()
    rng = generator(seed, "random patches")
    patches = torch.randint(0, 2, (len(images), 1, *LETTER_A.shape), generator=rng).float()
    plain, mark, other = (
        functional.log_softmax(model(own).double(), 1)
        for own in (images, mark_images(images), mark_images(images, patches))
    )
    divergence = [
        functional.kl_div(q, plain, reduction="batchmean", log_target=True) for q in (mark, other)
    ]
    return Memorisation(
        known=float((mark[:, label] - other[:, label]).mean()),
        unknown=float(divergence[0] - divergence[1]),
    )
