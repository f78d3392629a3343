"""Quality of the images that a model inversion reconstructs."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.core.seeding import generator
from fl_sim.metrics._shared.defined import mean
from fl_sim.models.batches import min_batch_size, split_batches


def attack_accuracy(
    logits: Float[Tensor, "m y"], labels: Int64[Tensor, " m"], top: int = 1
) -> float:
    """Return the share of images that an independent evaluator assigns to their class.

    A reconstruction counts if its class is among the evaluator's `top` predictions. Guessing gives
    top / classes. NaN if the logits are not all finite, and without any image.

    Source: Struppek et al. (2022), section 4.1, https://arxiv.org/abs/2201.12179.
    """
    if not bool(torch.isfinite(logits).all()):
        return float("nan")
    best = logits.topk(top, dim=1).indices
    return float((best == labels[:, None]).any(1).double().mean())


def feature_distance(
    reconstructed: Float[Tensor, "m d"],
    labels: Int64[Tensor, " m"],
    real: Float[Tensor, "n d"],
    real_labels: Int64[Tensor, " n"],
) -> float:
    """Return the mean squared feature distance to the nearest training image of the class.

    Smaller is worse for privacy. It has no chance level: compare models. Reconstructions of a
    class without a training image, or with NaN features, are left out; NaN if none remains.

    Source: Struppek et al. (2022), section 4.1, https://arxiv.org/abs/2201.12179.
    """
    nearest = [torch.empty(0, dtype=torch.float64)]
    for label in labels.unique():
        same = real[real_labels == label].double()
        if len(same):
            distances = torch.cdist(reconstructed[labels == label].double(), same)
            nearest.append(distances.square().amin(1))
    return mean(torch.cat(nearest))


def knowledge_extraction(
    student: nn.Module,
    reconstructed: Float[Tensor, "m c h w"],
    labels: Int64[Tensor, " m"],
    accuracy: Callable[[nn.Module], float],
    seed: int,
    epochs: int = 40,
) -> float:
    """Return the accuracy on real images of a student trained on reconstructed images alone.

    Guessing gives 1 / classes.

    Source: Struppek et al. (2024), section 4.1, https://arxiv.org/abs/2310.06549.

    Args:
        student: Freshly initialised network, which is trained in place.
        reconstructed: Images of a model inversion, in [0, 1].
        labels: Their classes.
        accuracy: Function that evaluates a model on real images.
        seed: Seed of the order of the images.
        epochs: Number of epochs of the student's training.
    """
    optimiser = torch.optim.Adam(student.parameters(), 1e-3)
    rng = generator(seed, "student")
    least = min_batch_size(student, reconstructed)
    student.train()
    for _ in range(epochs):
        for rows in split_batches(torch.randperm(len(reconstructed), generator=rng), 32, least):
            optimiser.zero_grad()
            functional.cross_entropy(student(reconstructed[rows]), labels[rows]).backward()
            optimiser.step()
    student.eval()
    return accuracy(student)
