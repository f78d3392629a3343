"""Can a server that chooses the pretrained model read images off the gradients of adapters?

Run:    fl-sim study experiments/adapter_imprint.py

A network of frozen blocks, each followed by a trained adapter, and a trained head. The server sends
it out and receives the gradient of one batch. A transparent front passes images on unchanged; an
ordinary one is a random network. An image counts as recovered from a PSNR of 30 dB. The control is
the PSNR of the public image that is most alike.
"""

import torch
from torch import Tensor, nn

from fl_sim.attacks.adapter_imprint import Adapter, imprint, recover_from_adapters
from fl_sim.attacks.gradient_inversion import compute_gradient
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.sources import load_subset

AXES = {
    "front": ["transparent", "ordinary"],
    "adapters": ["imprint", "honest"],
    "images": [8, 32, 128],
    "noise": [0.0, 0.001],
}
SEEDS = (0, 1, 2, 3, 4)

BLOCKS, RANK, PUBLIC, RECOVERED = 8, 33, 1000, 30.0  # 256 bins


def measure(seed: int, front: str, adapters: str, images: int, noise: float) -> dict[str, float]:
    """Take the gradient of a batch, and compare what is found in it with the batch."""
    data = load_subset("fashion_mnist", None, 10_000, 10)
    rows = torch.randperm(len(data.train_images), generator=generator(seed, "batch"))
    pixels = as_pixels(data.train_images).flatten(1)
    batch, public = rows[:images], pixels[rows[-PUBLIC:]]
    model = build_network(pixels.shape[1], front, seed)
    if adapters == "imprint":
        blocks = [m for m in model if isinstance(m, Adapter)]
        imprint(blocks, compute_adapter_inputs(model, public), generator(seed, "imprint"))
    gradient = compute_gradient(model, pixels[batch], data.train_labels[batch])
    deviation = noise * gradient.std()
    gradient += deviation * torch.randn(gradient.shape, generator=generator(seed, "noise"))
    found = match_images(pixels[batch], recover_from_adapters(model, gradient))
    return {
        "recovered": float((found >= RECOVERED).double().mean()),
        "psnr": float(found.clamp(max=100).mean()),
        "psnr_of_public": float(match_images(pixels[batch], public).mean()),
    }


def build_network(width: int, front: str, seed: int) -> nn.Sequential:
    """Return blocks with adapters and a head; the blocks are frozen."""
    stages: list[nn.Module] = []
    with seed_torch(seed, "network"):
        for _ in range(BLOCKS):
            block = nn.Sequential(nn.Linear(width, width), nn.ReLU())
            nn.init.kaiming_normal_(block[0].weight)
            stages += [nn.Identity() if front == "transparent" else block.requires_grad_(False)]
            stages += [Adapter(width, RANK)]
        stages += [nn.Linear(width, 10)]
    return nn.Sequential(*stages)


@torch.no_grad()
def compute_adapter_inputs(model: nn.Sequential, images: Tensor) -> list[Tensor]:
    """Return the inputs of each adapter."""
    inputs = []
    for stage in model:
        if isinstance(stage, Adapter):
            inputs.append(images)
        images = stage(images)
    return inputs


def match_images(images: Tensor, candidates: Tensor) -> Tensor:
    """Return the PSNR of the most alike candidate for each image, in decibels; 0 without any."""
    if not len(candidates):
        return torch.zeros(len(images))
    error = torch.cdist(images, candidates.clamp(0, 1)).square() / images.shape[1]
    return (-10 * error.min(1).values.log10()).double()
