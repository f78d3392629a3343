"""What correlates with protection: robust surrogates, robust noise, delusion, or stability?

Run:    fl-sim study experiments/correlation.py

The measures of the SEM paper are correlated, over protections, with F, the error of a model trained
on the protected images. That model is also the network whose robustness is measured.
"""

import torch
from torch import Tensor, nn

from clients.sgd import SgdClient
from fl_sim.contracts import Dataset, Protection, Shard
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.sources import load_subset
from fl_sim.experiment import Model
from fl_sim.metrics import stability
from fl_sim.models.scoring import compute_logits
from fl_sim.models.tuning import build_network
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.one_pixel import OnePixel
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from fl_sim.protections.targeted_adversarial import TargetedAdversarial

RADIUS = 16 / 255
AXES = {"adversary": {"4/255": RADIUS / 4}}
SEEDS = (0, 1, 2)

IMAGES, TESTS, PROBED, EPOCHS, STEPS = 1500, 1000, 500, 6, 3
PROTECTIONS: tuple[Protection, ...] = (
    RandomNoise(radius=RADIUS),
    ErrorMinimizing(radius=RADIUS, form="class"),
    ErrorMinimizing(radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5),
    StableErrorMinimizing(radius=RADIUS, surrogate_steps=150, transforms=1),
    TargetedAdversarial(radius=RADIUS),
    LinearSeparable(radius=12 / 255),
    Linearization(radius=RADIUS),
    OnePixel(),
)
MEASURES = ("surrogate_robustness", "noise_robustness", "delusiveness", "stability")


def measure(seed: int, adversary: float) -> dict[str, float]:
    """Measure every protection, and correlate the measures with F."""
    data = load_subset("fashion_mnist", None, IMAGES, TESTS)
    results = [measure_protection(result, data, adversary, seed) for result in PROTECTIONS]
    performance = [result["performance"] for result in results]
    numbers = {}
    for name in MEASURES:
        related = stability.correlations([result[name] for result in results], performance)
        numbers |= {f"{name}_{kind}": value for kind, value in related._asdict().items()}
    return numbers


def measure_protection(
    protection: Protection, data: Dataset, adversary: float, seed: int
) -> dict[str, float]:
    """Return F and the four measures of one protection."""
    clean, labels = data.train_images, data.train_labels
    tests, truth = as_pixels(data.test_images), data.test_labels
    noisy = as_pixels(protection.protect(clean, labels, torch.arange(IMAGES), seed))
    images, rng = as_pixels(clean), generator(seed, "measures")

    def train(pixels: Tensor) -> nn.Module:
        return train_network(pixels, labels, adversary, seed)

    model = train(noisy)
    accuracy = float((compute_logits(model, tests).argmax(1) == truth).double().mean())
    return {
        "performance": stability.protection_performance(accuracy),
        "surrogate_robustness": stability.surrogate_robustness(
            model, images[:PROBED], labels[:PROBED], RADIUS, adversary, rng
        ),
        "noise_robustness": stability.noise_robustness(
            train, images, noisy - images, labels, adversary, rng, steps=5, cycles=1
        ),
        "delusiveness": stability.delusiveness(model, tests, truth),
        "stability": stability.stability(train, noisy, tests, truth, adversary, rng, draws=2),
    }


def train_network(images: Tensor, labels: Tensor, adversary: float, seed: int) -> nn.Sequential:
    """Return a small network, adversarially trained on images in [0, 1]."""
    network = build_network(Model(), (1, 28, 28), 10, seed).trained
    attack = AdversarialTraining(adversary, steps=STEPS, step_size=2.5 / STEPS * adversary)
    client = SgdClient(0.05, batch_size=64, local_epochs=EPOCHS, countermeasures=(attack,))
    stored = (255 * images).round().clamp(0, 255).byte()
    shard = Shard(0, stored, labels, torch.arange(len(labels)), 10)
    client.train(network, shard, generator(seed, "training"))
    return network
