"""What the images that a model inversion found are worth."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.seeding import generator


def attack_accuracy(
    logits: Float[Tensor, "m y"], labels: Int64[Tensor, " m"], top: int = 1
) -> float:
    """Return the share of found images that an independent evaluator takes for their class.

    Among the evaluator's `top` classes. Guessing gives top / classes.

    Source: Struppek et al. (2022), section 4.1, https://arxiv.org/abs/2201.12179.
    """
    best = logits.topk(top, dim=1).indices
    return float((best == labels[:, None]).any(1).double().mean())


def feature_distance(
    found: Float[Tensor, "m d"],
    labels: Int64[Tensor, " m"],
    real: Float[Tensor, "n d"],
    real_labels: Int64[Tensor, " n"],
) -> float:
    """Return the mean squared distance to the nearest training image of the class, in features.

    Smaller is worse for privacy. It has no chance level: compare models.

    Source: Struppek et al. (2022), section 4.1, https://arxiv.org/abs/2201.12179.
    """
    nearest = []
    for label in labels.unique():
        own = torch.cdist(found[labels == label].double(), real[real_labels == label].double())
        nearest.append(own.square().amin(1))
    return float(torch.cat(nearest).mean())


def knowledge_extraction(
    student: nn.Module,
    found: Float[Tensor, "m c h w"],
    labels: Int64[Tensor, " m"],
    accuracy: Callable[[nn.Module], float],
    seed: int,
    epochs: int = 40,
) -> float:
    """Return the accuracy on real images of a student that saw nothing but the found ones.

    Guessing gives 1 / classes.

    Source: Struppek et al. (2024), section 4.1, https://arxiv.org/abs/2310.06549.

    Args:
        student: freshly initialised; trained in place.
        found, labels: the images of a model inversion, and their classes.
        accuracy: measures a model on real images.
        seed: of the order of the images.
        epochs: of the student's training.
    """
    optimiser = torch.optim.Adam(student.parameters(), 1e-3)
    rng = generator(seed, "student")
    student.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(found), generator=rng).split(32):
            optimiser.zero_grad()
            functional.cross_entropy(student(found[rows]), labels[rows]).backward()
            optimiser.step()
    student.eval()
    return accuracy(student)
