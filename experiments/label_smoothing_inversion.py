"""Does label smoothing make a model easier to invert, and negative smoothing harder?

Run:    fl-sim study experiments/label_smoothing_inversion.py

The private images, the public ones and those of the evaluator are disjoint. The generator learns
from the public ones. For photographs of your own, replace "cifar10" below by "npz" and a path.
"""

import torch
from torch import Tensor, nn

from clients.sgd import smoothed_cross_entropy
from fl_sim.attacks.model_inversion import PriorGuidedInversion, train_generator
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.sources import load_subset
from fl_sim.metrics.extraction import attack_accuracy, feature_distance, knowledge_extraction

AXES = {
    "images": {"grey": ("fashion_mnist", None), "colour": ("cifar10", None)},
    "smoothing": [0.1, 0.0, -0.05],
}
SEEDS = (0, 1, 2)

PART, EPOCHS, BATCH, RATE, CLASSES = 2000, 40, 64, 1e-3, 10
ATTACK = PriorGuidedInversion(samples=2000, candidates=50, kept=25, steps=50, crops=20)


def measure(
    seed: int, images: tuple[str, str | None], smoothing: float
) -> dict[str, float | Tensor]:
    """Train a target, invert it, and score the reconstructions by an independent network."""
    data = load_subset(*images, 3 * PART, 1000)
    pixels, labels = as_pixels(data.train_images), data.train_labels
    order = torch.randperm(len(labels), generator=generator(seed, "parts"))
    private, public, judged = order.split(PART)
    target = train_network(pixels[private], labels[private], smoothing, seed)
    evaluator = train_network(pixels[judged], labels[judged], 0.0, seed + 1000)
    prior = train_generator(pixels[public], seed)
    reconstructed, classes = ATTACK.reconstruct(target, prior, CLASSES, seed)
    features, test = evaluator[:-1], (as_pixels(data.test_images), data.test_labels)
    with torch.no_grad():
        judgement = evaluator(reconstructed)
        apart = feature_distance(
            features(reconstructed), classes, features(pixels[private]), labels[private]
        )
    student = build_network(pixels.shape[1:], seed + 2000)
    return {
        "test_accuracy": compute_accuracy(target, *test),
        "attack_accuracy": attack_accuracy(judgement, classes),
        "attack_accuracy_top_5": attack_accuracy(judgement, classes, top=5),
        "feature_distance": apart,
        "knowledge_extraction": knowledge_extraction(
            student, reconstructed, classes, lambda own: compute_accuracy(own, *test), seed
        ),
        "found": reconstructed[:: ATTACK.kept],
    }


def build_network(shape: torch.Size, seed: int) -> nn.Sequential:
    """Return a network of two convolutions and a hidden layer of 64 units."""
    channels, side, _ = shape
    with seed_torch(seed, "network"):
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (side // 4) ** 2, 64),
            nn.ReLU(),
            nn.Linear(64, CLASSES),
        )


def train_network(images: Tensor, labels: Tensor, smoothing: float, seed: int) -> nn.Sequential:
    """Return a network trained with smoothed labels."""
    model, rng = build_network(images.shape[1:], seed), generator(seed, "order")
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    for epoch in range(EPOCHS):
        now = smoothing * ramp(epoch / EPOCHS) if smoothing < 0 else smoothing
        for rows in torch.randperm(len(images), generator=rng).split(BATCH):
            optimiser.zero_grad()
            smoothed_cross_entropy(model(images[rows]), labels[rows], now).backward()
            optimiser.step()
    return model.eval()


def ramp(done: float) -> float:
    """Return the factor of negative smoothing: 0 for half of the training, 1 after 3/4 of it."""
    return min(1.0, max(0.0, 4 * done - 2))


@torch.no_grad()
def compute_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images classified correctly."""
    return float((model(images).argmax(1) == labels).double().mean())
