"""W5: generation of noise. On a CPU, a turn is one pass over a thousand images.

On a GPU, a turn is a part of the noise for 50,000 random images of 3 x 32 x 32 with a ResNet-18,
with the settings of the papers; the whole takes as many times as long as it has more passes.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.device import find_device
from benchmarks.pacer import Pacer
from benchmarks.race import Job
from fl_sim.contracts import Protection
from fl_sim.core.device import call_on_device, use_device
from fl_sim.core.perturbation import as_pixels
from fl_sim.data.sources import load_subset
from fl_sim.experiment import Model
from fl_sim.models.architectures import PooledRelu, resnet18, small_cnn
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing

NUM_IMAGES = 1000
NUM_CLASSES = 10
NOISE_STEPS = 10
RADIUS = 8 / 255
BATCH, SURROGATE_STEPS = 128, 10
WHOLE = 50_000  # images on a GPU
GPU_IMAGES, GPU_NOISE_STEPS, EM_PASSES = 1280, 20, 10
ROBUST_STEPS = 3  # of a turn; the noise of one batch follows


def list_cases(full: bool) -> list[Case]:
    """Return one case per method."""
    here = "benchmarks.workloads.w5_noise"
    em = {"floor": Job(f"{here}:run_plain"), "local": Job(f"{here}:run_ours", {"method": "em"})}
    sem = {"local": Job(f"{here}:run_ours", {"method": "sem"})}
    return [
        Case("W5", f"EM, {NUM_IMAGES} images x {NOISE_STEPS} steps", em),
        Case("W5", f"SEM, {NUM_IMAGES} images x {NOISE_STEPS} steps", sem),
    ]


def list_gpu_cases() -> list[Case]:
    """Return one case per method."""
    here = "benchmarks.workloads.w5_noise"
    trained = SURROGATE_STEPS * BATCH
    passes = trained + GPU_NOISE_STEPS * GPU_IMAGES
    em = EM_PASSES * (trained + GPU_NOISE_STEPS * WHOLE) / passes
    steps = StableErrorMinimizing().surrogate_steps
    robust = (steps + WHOLE / BATCH) / (ROBUST_STEPS + 1)
    both = {
        "floor": Job(f"{here}:run_plain_gpu"),
        "local": Job(f"{here}:run_ours_gpu", {"method": "em"}),
    }
    return [
        Case("W5", "EM, ResNet-18", both, whole=em),
        *(
            Case(
                "W5",
                f"{method.upper()}, ResNet-18",
                {"local": Job(f"{here}:run_ours_gpu", {"method": method})},
                whole=robust,
            )
            for method in ("sem", "rem")
        ),
    ]


def run_ours_gpu(pacer: Pacer, method: str) -> None:
    """Make a part of the noise by the project's own method."""
    resnet, steps = Model("resnet18"), ROBUST_STEPS
    methods: dict[str, Protection] = {
        "em": ErrorMinimizing(
            RADIUS, surrogate=resnet, noise_steps=GPU_NOISE_STEPS, stop_error=0.0, max_passes=1
        ),
        "sem": StableErrorMinimizing(RADIUS, surrogate=resnet, surrogate_steps=steps),
        "rem": RobustErrorMinimizing(RADIUS, surrogate=resnet, surrogate_steps=steps),
    }
    count = GPU_IMAGES if method == "em" else BATCH
    images, labels = _draw_images(count)
    with use_device(find_device()):
        while True:
            pacer.wait()
            call_on_device(methods[method].protect, images, labels, torch.arange(count), 0)


def run_plain_gpu(pacer: Pacer) -> None:
    """Make a part of error-minimising noise as usually written."""
    device = find_device()
    images, labels = _draw_images(GPU_IMAGES)
    model = nn.Sequential(*resnet18((3, 32, 32), NUM_CLASSES, "batch")).to(device)
    make_plain_noise(pacer, model, as_pixels(images).to(device), labels.to(device))


def _draw_images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=rng)
    return images, torch.arange(count) % NUM_CLASSES


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
    make_plain_noise(pacer, nn.Sequential(*stages), images, labels, 32, NOISE_STEPS)


def make_plain_noise(
    pacer: Pacer,
    model: nn.Sequential,
    images: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int = BATCH,
    steps: int = GPU_NOISE_STEPS,
) -> None:
    """Make noise in one pass after another."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    while True:
        pacer.wait()
        noise = torch.zeros_like(images)
        _train(model, optimizer, images, labels)
        model.eval()
        for rows in torch.arange(len(images)).split(batch_size):
            noise[rows] = _descend(model, images[rows], labels[rows], steps)


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> None:
    """Take ten steps of the surrogate, as the project's method does before each pass."""
    model.train()
    for rows in torch.randperm(len(images)).split(BATCH)[:SURROGATE_STEPS]:
        optimizer.zero_grad()
        functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()


def _descend(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int
) -> torch.Tensor:
    noise = torch.zeros_like(images)
    for _ in range(steps):
        noisy = (images + noise).clamp(0, 1).requires_grad_(True)
        model.zero_grad()
        functional.cross_entropy(model(noisy), labels).backward()
        assert noisy.grad is not None
        noise = (noise - RADIUS / 10 * noisy.grad.sign()).clamp(-RADIUS, RADIUS)
    return noise
