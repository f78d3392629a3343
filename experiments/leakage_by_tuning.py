"""Which part of a foundation model leaks least when it is tuned, and how does that fall with data?

Run:    fl-sim study experiments/leakage_by_tuning.py

The head, the normalisation, low-rank changes, everything, or a ridge regression on the features:
the same records, reference models and attack (LiRA) for each, and equally many steps for few and
for many examples. The slope is that of log10(TPR - FPR) over log10(examples per class); in theory
it is -0.5 for many examples.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clients.sgd import SgdClient
from fl_sim import Model
from fl_sim.attacks.lira import Lira
from fl_sim.contracts import Shard
from fl_sim.contracts.attacks import Signals, draw_paired_members, margin_of
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.data.sources import load_subset
from fl_sim.metrics.leakage import auc, tpr_at_fpr
from fl_sim.models.scoring import compute_logits
from fl_sim.models.tuning import build_network

BACKBONE, PIXELS, CLASSES, MODELS = "efficientnet_lite0", 32, 10, 6
EXAMPLES = (8, 32)  # per class and model
FPR, PENALTY = 0.1, 0.1
BATCH = 16
TRAINERS = {"head": (0.01, 400), "norm": (0.005, 60), "lora": (0.005, 120), "full": (0.005, 60)}
AXES = {"tuned": [*TRAINERS, "ridge"]}  # with their learning rates and numbers of steps
SEEDS = (0, 1, 2)


def measure(seed: int, tuned: str) -> dict[str, float]:
    """Attack models that were trained on each size, and return the slope of the advantage."""
    data = load_subset("fashion_mnist", None, 10_000, CLASSES)
    numbers, advantages = {}, []
    for examples in EXAMPLES:
        rows = draw_records(data.train_labels, examples, seed)
        images, labels = data.train_images[rows], data.train_labels[rows]
        members = draw_paired_members(MODELS, len(rows), generator(seed, "members", examples))
        logits = train_models(images, labels, members, tuned, seed)
        advantage, area = attack_models(margin_of(logits, labels), members)
        right = logits.argmax(2) == labels
        numbers |= {
            f"advantage_{examples}": advantage,
            f"auc_{examples}": area,
            f"accuracy_{examples}": float(right[~members].double().mean()),
        }
        advantages.append(max(advantage, 1e-3))
    slope, _ = np.polyfit(np.log10(EXAMPLES), np.log10(advantages), 1)
    return {**numbers, "slope": float(slope)}


def draw_records(labels: Tensor, examples: int, seed: int) -> Tensor:
    """Return twice as many records of each class as a model is trained on."""
    rng = generator(seed, "records", examples)
    rows = [(labels == label).nonzero().squeeze(1) for label in range(CLASSES)]
    return torch.cat([r[torch.randperm(len(r), generator=rng)[: 2 * examples]] for r in rows])


def train_models(images: Tensor, labels: Tensor, members: Tensor, tuned: str, seed: int) -> Tensor:
    """Return the logits of all records under each model."""
    part = "head" if tuned == "ridge" else tuned
    model = Model(BACKBONE, "pretrained", part, pixels=PIXELS)  # type: ignore[arg-type]
    frozen = build_network(model, (1, 28, 28), CLASSES, seed).frozen
    with torch.no_grad():
        inputs = torch.cat([frozen(as_pixels(batch)) for batch in images.split(64)])
    inputs = inputs if len(frozen) else images
    if tuned == "ridge":
        return torch.stack([fit_ridge(inputs, labels, chosen) for chosen in members])
    (rate, steps), size = TRAINERS[tuned], len(labels) // 2
    client = SgdClient(learning_rate=rate, batch_size=BATCH, local_epochs=steps * BATCH // size)
    ids, result = torch.arange(len(labels)), []
    for number, chosen in enumerate(members):
        network = build_network(model, (1, 28, 28), CLASSES, seed).trained
        shard = Shard(0, inputs[chosen], labels[chosen], ids[chosen], CLASSES)
        client.train(network, shard, generator(seed, tuned, number))
        result.append(compute_logits(network, inputs))
    return torch.stack(result)


def fit_ridge(features: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    """Return the scores of a ridge regression on the chosen records' one-hot labels."""
    inputs = functional.normalize(features.double())
    kernel = inputs @ inputs[chosen].T
    targets = functional.one_hot(labels[chosen], CLASSES).double()
    penalty = PENALTY * torch.eye(int(chosen.sum()), dtype=torch.float64)
    return (kernel @ torch.linalg.solve(kernel[chosen] + penalty, targets)).float()


def attack_models(margin: Tensor, members: Tensor) -> tuple[float, float]:
    """Return TPR - FPR and AUC of LiRA, means over models that are attacked with all others."""
    signals = Signals(margin, members, torch.zeros(len(margin), 0))
    advantages, areas = [], []
    for target, rows in enumerate(members):
        scores = Lira().scores(signals.evidence(target))
        inside, outside = scores[rows], scores[~rows]
        advantages.append(tpr_at_fpr(inside, outside, FPR) - FPR)
        areas.append(auc(inside, outside))
    return float(np.mean(advantages)), float(np.mean(areas))
