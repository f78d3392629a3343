"""Can the owners of a few classes protect them with noise made on classes the trainer never sees?

Run:    fl-sim study experiments/class_owners.py

The papers consider a few people in a collection of faces. Here three of six classes of
Fashion-MNIST have class-wise noise, made together with the four remaining classes, of which the
owners hold images of their own. For a folder of faces, one subfolder per person, set FOLDER.
"""

import torch
from torch import Tensor

from clients.sgd import SgdClient
from fl_sim.contracts import Countermeasure, Shard
from fl_sim.core.seeding import generator
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.sources import load_subset
from fl_sim.experiment import Model
from fl_sim.models.scoring import compute_logits
from fl_sim.models.tuning import build_network
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable

RADIUS = 16 / 255
AXES = {
    "protection": {
        "none": None,
        "EM class-wise": ErrorMinimizing(radius=RADIUS, form="class"),
        "LSP": LinearSeparable(radius=RADIUS),
    },
    "training": {
        "standard": (),
        "adversarial": (
            AdversarialTraining(radius=RADIUS / 2, steps=3, step_size=2.5 / 3 * RADIUS / 2),
        ),
    },
}
SEEDS = (0, 1, 2)

FOLDER = None  # folder of images, one subfolder per class, in place of Fashion-MNIST
SEEN, PROTECTED = 6, 3  # number of visible classes, and of protected ones among them
SAMPLES, TESTS = 5000, 5000


def measure(
    seed: int, protection: ErrorMinimizing | None, training: tuple[Countermeasure, ...]
) -> dict[str, float]:
    """Train on the visible classes, and score protected and other classes separately."""
    data = load_subset(*(("folder", FOLDER) if FOLDER else ("fashion_mnist", None)), SAMPLES, TESTS)
    order = torch.randperm(data.num_classes, generator=generator(seed, "classes")).tolist()
    seen, owned = order[:SEEN], order[:PROTECTED]
    images, labels = data.train_images, data.train_labels
    if protection is not None:
        images = protect_owned(protection, images, labels, owned, order[SEEN:], seed)
    visible = torch.isin(labels, torch.tensor(seen))
    shard = Shard(
        0, images[visible], renumber(labels[visible], seen), visible.nonzero().squeeze(1), SEEN
    )
    network = build_network(Model(), tuple(images.shape[1:]), SEEN, seed)
    client = SgdClient(0.05, batch_size=64, local_epochs=8, countermeasures=training)
    client.train(network.trained, shard, generator(seed, "training"))
    tested = torch.isin(data.test_labels, torch.tensor(seen))
    truth = renumber(data.test_labels[tested], seen)
    right = compute_logits(network.trained, data.test_images[tested]).argmax(1) == truth
    return {
        "protected_classes": float(right[truth < PROTECTED].double().mean()),
        "other_classes": float(right[truth >= PROTECTED].double().mean()),
    }


def protect_owned(
    protection: ErrorMinimizing,
    images: Tensor,
    labels: Tensor,
    owned: list[int],
    further: list[int],
    seed: int,
) -> Tensor:
    """Return the images with the owned classes protected, by noise made with further classes."""
    rows = torch.isin(labels, torch.tensor([*owned, *further])).nonzero().squeeze(1)
    class_labels = renumber(labels[rows], [*owned, *further])
    noisy = images.clone()
    noisy[rows] = protection.protect(images[rows], class_labels, rows, seed)
    shown = torch.isin(labels, torch.tensor(owned))
    return torch.where(shown[:, None, None, None], noisy, images)


def renumber(labels: Tensor, order: list[int]) -> Tensor:
    """Return labels as positions in the order of their classes."""
    place = torch.full((max(order) + 1,), -1)
    place[torch.tensor(order)] = torch.arange(len(order))
    return place[labels]
