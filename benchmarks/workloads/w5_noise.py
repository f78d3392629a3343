"""W5: generation of noise for a thousand images. A turn is one pass over them."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.pacer import Pacer
from benchmarks.race import Job
from fl_sim.contracts import Protection
from fl_sim.core.perturbation import as_pixels
from fl_sim.data.sources import load_subset
from fl_sim.models.architectures import PooledRelu, small_cnn
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing

NUM_IMAGES = 1000
NOISE_STEPS = 10
RADIUS = 8 / 255


def list_cases(full: bool) -> list[Case]:
    """Return one case per method."""
    here = "benchmarks.workloads.w5_noise"
    em = {"floor": Job(f"{here}:run_plain"), "local": Job(f"{here}:run_ours", {"method": "em"})}
    sem = {"local": Job(f"{here}:run_ours", {"method": "sem"})}
    return [
        Case("W5", f"EM, {NUM_IMAGES} images x {NOISE_STEPS} steps", em),
        Case("W5", f"SEM, {NUM_IMAGES} images x {NOISE_STEPS} steps", sem),
    ]


def run_ours(pacer: Pacer, method: str) -> None:
    """Protect the images by the project's own method."""
    torch.set_num_threads(1)
    dataset = load_subset("fashion_mnist", None, NUM_IMAGES, 10)
    protection, ids = _make_protection(method), torch.arange(NUM_IMAGES)
    while True:
        pacer.wait()
        protection.protect(dataset.train_images, dataset.train_labels, ids, seed=0)


def _make_protection(method: str) -> Protection:
    if method == "em":
        return ErrorMinimizing(RADIUS, noise_steps=NOISE_STEPS, stop_error=0.0, max_passes=1)
    return StableErrorMinimizing(RADIUS, noise_steps=NOISE_STEPS, surrogate_steps=1, transforms=1)


def run_plain(pacer: Pacer) -> None:
    """Make error-minimising noise as usually written: small batches, all gradients."""
    torch.set_num_threads(1)
    dataset = load_subset("fashion_mnist", None, NUM_IMAGES, 10)
    images, labels = as_pixels(dataset.train_images), dataset.train_labels
    stages: list[Any] = [
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)) if isinstance(s, PooledRelu) else s
        for s in small_cnn((1, 28, 28), 10, "batch")
    ]
    model = nn.Sequential(*stages)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    while True:
        pacer.wait()
        noise = torch.zeros_like(images)
        _train(model, optimizer, images, labels)
        model.eval()
        for rows in torch.arange(NUM_IMAGES).split(32):
            noise[rows] = _descend(model, images[rows], labels[rows])


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """Take ten steps of the surrogate, as the project's method does before each pass."""
    model.train()
    for rows in torch.randperm(len(images)).split(128)[:10]:
        optimizer.zero_grad()
        functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()


def _descend(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    noise = torch.zeros_like(images)
    for _ in range(NOISE_STEPS):
        noisy = (images + noise).clamp(0, 1).requires_grad_(True)
        model.zero_grad()
        functional.cross_entropy(model(noisy), labels).backward()
        assert noisy.grad is not None
        noise = (noise - RADIUS / 10 * noisy.grad.sign()).clamp(-RADIUS, RADIUS)
    return noise
