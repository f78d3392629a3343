"""Which defence keeps an image from being read off the update that a client sends?

Run:    fl-sim study experiments/gradient_inversion.py

The server knows the model that it sent, and the number of images behind the update.
"""

import torch
from torch import Tensor, nn

from fl_sim.attacks.gradient_inversion import GradientInversion, compute_gradient, infer_gradient
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.sources import load_subset
from fl_sim.metrics.quality import psnr, ssim

AXES = {
    "attack": {
        "DLG": GradientInversion("dlg", 200, restarts=1),
        "iDLG": GradientInversion("idlg", 200, restarts=1),
        "cosine": GradientInversion("cosine", 400, 0.1, 1e-3, restarts=1),
    },
    "update": [
        "one image",
        "clipped",
        "noise of 1 %",
        "noise of 100 %",
        "5 local steps",
        "4 images",
        "head only",
    ],
}
SEEDS = (0, 1, 2)

CLASSES, RATE, STEPS, CLIP = 10, 0.05, 5, 0.1
NOISE = {
    "noise of 1 %": 0.01,
    "noise of 100 %": 1.0,
}  # relative to the gradient's standard deviation


def measure(seed: int, attack: GradientInversion, update: str) -> dict[str, float | Tensor]:
    """Invert one update, and compare the reconstruction with the client's images."""
    images, labels = select_images(seed, 4 if update == "4 images" else 1)
    model = build_lenet(seed)
    if update == "head only":
        model[:-1].requires_grad_(False)
    gradient = compute_sent_gradient(model, images, labels, update, seed)
    reconstructed = attack.reconstruct(model, gradient, tuple(images.shape), CLASSES, seed)
    real, guess = to_bytes(images), to_bytes(reconstructed)
    blank = to_bytes(images.mean((2, 3), keepdim=True).expand_as(images))
    return {
        "psnr": float(psnr(real, guess).clamp(max=100).mean()),
        "psnr_of_blank": float(psnr(real, blank).mean()),
        "ssim": float(ssim(real, guess).mean()),
        "original": images,
        "found": reconstructed,
    }


def select_images(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return images of different classes, in the order of their labels."""
    data = load_subset("fashion_mnist", None, 1000, 10)
    classes = torch.randperm(CLASSES, generator=generator(seed, "classes"))[:count].sort().values
    rows = [int((data.train_labels == c).nonzero()[seed]) for c in classes]
    return as_pixels(data.train_images[rows]), data.train_labels[rows]


def compute_sent_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, update: str, seed: int
) -> Tensor:
    """Return the gradient that the server receives or infers."""
    if update == "5 local steps":
        return infer_gradient(train_steps(model, images, labels), RATE, STEPS)
    gradient = compute_gradient(model, images, labels)
    if update == "clipped":
        return gradient * min(1.0, CLIP / float(gradient.norm()))
    deviation = NOISE.get(update, 0.0) * gradient.std()
    return gradient + deviation * torch.randn(gradient.shape, generator=generator(seed, "noise"))


def train_steps(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the change after some steps, and restore the model."""
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    for _ in range(STEPS):
        step = -RATE * compute_gradient(model, images, labels)
        now = torch.cat([p.detach().flatten() for p in model.parameters()])
        nn.utils.vector_to_parameters(now + step, model.parameters())
    change = torch.cat([p.detach().flatten() for p in model.parameters()]) - start
    nn.utils.vector_to_parameters(start, model.parameters())
    return change


def build_lenet(seed: int) -> nn.Sequential:
    """Return the network of Zhu et al. (2019): smooth activations, wide initial weights."""
    with seed_torch(seed, "lenet"):
        model = nn.Sequential(
            nn.Conv2d(1, 12, 5, padding=2, stride=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, padding=2, stride=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, padding=2),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(588, CLASSES),
        )
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def to_bytes(images: Tensor) -> Tensor:
    """Return images as bytes."""
    return (255 * images).round().to(torch.uint8)
