"""Unique-feature memorisation: the reaction of a model to a mark in one training image.

A mark, the letter A in 5 x 5 pixels, is written into one training image. The trained model is
then evaluated on images of another distribution, with the mark and with a random patch in the
same place: a model that has memorised the image reacts to the mark alone.

Threat model: any client, who queries the global model and knows the mark.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Images
from fl_sim.core.device import computes_on_device
from fl_sim.core.seeding import generator

LETTER_A = torch.tensor(
    [[0, 1, 1, 1, 0], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]],
    dtype=torch.float32,
)
OFFSET = 1  # pixels from the upper and the left edge


class Memorisation(NamedTuple):
    """Reaction of a model to the mark minus that to a random patch, in nats.

    Attributes:
        known: Difference of the log-probability of the marked image's label.
        unknown: Difference of the divergence from the prediction for the unmarked image, which
            needs no label.
    """

    known: float
    unknown: float


def mark_images(images: Images, patch: Float[Tensor, "... p q"] = LETTER_A) -> Images:
    """Return the images with the mark, or with one patch per image, in the upper left corner."""
    height, width = patch.shape[-2:]
    copy = images.clone()
    rows, columns = slice(OFFSET, OFFSET + height), slice(OFFSET, OFFSET + width)
    copy[:, :, rows, columns] = patch
    return copy


def mark_bytes(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c h w"]:
    """Return a stored image with the mark in the upper left corner."""
    pixels = mark_images(image[None].float() / 255)
    return (pixels[0] * 255).round().to(torch.uint8)


@computes_on_device
@torch.no_grad()
def measure_memorisation(model: nn.Module, images: Images, label: int, seed: int) -> Memorisation:
    """Return the memorisation scores of a model, which is put into evaluation mode.

    A single score means little: a model may react to the letter's shape, and over thousands of
    images any such preference is significant. Subtract the score of a control that was trained in
    the same way, from the same seed, without the mark; the difference is 0 without memorisation.

    Source: Hartley and Tsaftaris (2022), https://arxiv.org/abs/2202.08099, in the form with a
    known label of Hartley et al. (2023), https://doi.org/10.1038/s41598-023-48034-3.

    Args:
        model: Network that takes images in [0, 1].
        images: Images of another distribution than the training images.
        label: Label of the marked training image.
        seed: Seed of the random patches, one per image.
    """
    model.eval()
    rng = generator(seed, "random patches")
    patches = torch.randint(0, 2, (len(images), 1, *LETTER_A.shape), generator=rng).float()
    plain, marked, patched = (
        functional.log_softmax(model(inputs).double(), 1)
        for inputs in (images, mark_images(images), mark_images(images, patches))
    )
    divergence = [
        functional.kl_div(q, plain, reduction="batchmean", log_target=True)
        for q in (marked, patched)
    ]
    return Memorisation(
        known=float((marked[:, label] - patched[:, label]).mean()),
        unknown=float(divergence[0] - divergence[1]),
    )
