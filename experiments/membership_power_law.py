"""How does membership leakage fall with the number of examples a class, and grow with classes?

Run:    fl-sim study experiments/membership_power_law.py
Heads over the features of the foundation model; each head is attacked by LiRA with all others as
its references. The law is log10(TPR - FPR) = slope log10(S) + classes log10(C) + a constant.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.attacks.gradient_norm import head_gradient_norm
from fl_sim.attacks.lira import Lira
from fl_sim.attacks.shadow_heads import HeadTraining, train_heads
from fl_sim.attacks.signals import Signals, paired_members
from fl_sim.data.partition import Iid
from fl_sim.engine.federation import federation
from fl_sim.experiment import Model
from fl_sim.metrics.leakage import tpr_at_fpr
from fl_sim.seeding import generator
from strategies.fedavg import FedAvg

AXES = {"fpr": [0.1, 0.01]}
SEEDS = (0, 1, 2, 3, 4, 5)

EXAMPLES = (8, 16, 32, 64, 128, 256, 512)  # a class, S; half of the records that there are
FEWEST = 64  # from which on the law is fitted: it is one of many examples
CLASSES = (2, 5, 10)
HEADS = 32
TRAINING = HeadTraining(learning_rate=0.002, momentum=0.9, batch_size=64, epochs=30)
FEATURES = Experiment(
    name="features",
    data=Data(
        dataset="fashion_mnist",
        num_clients=1,
        num_samples=10 * 2 * max(EXAMPLES),
        num_test=100,
        held_out=0.0,
    ),
    partition=Iid(),
    model=Model("efficientnet_lite0", init="pretrained", tune="head"),
    client=SgdClient(),
    strategy=FedAvg(),
)


class Cell(NamedTuple):
    """One size of the data: what an attack gains, and how gradients go with it."""

    examples: int
    classes: int
    advantage: float
    correlation: float


def measure(seed: int, fpr: float) -> dict[str, float]:
    """Attack heads of every size, and fit the law."""
    cells = list(attacked(seed, fpr))
    numbers = {f"S_{c.examples}_C_{c.classes}": c.advantage for c in cells if c.classes == 10}
    fitted = [c for c in cells if c.examples >= FEWEST and c.advantage > 0]
    return numbers | law(fitted) | {"gradient_correlation": cells[-1].correlation}


def law(cells: list[Cell]) -> dict[str, float]:
    """Return the coefficients of least squares, and R^2."""
    inputs = np.array([[np.log10(c.examples), np.log10(c.classes), 1.0] for c in cells])
    target = np.log10([c.advantage for c in cells])
    found, *_ = np.linalg.lstsq(inputs, target, rcond=None)
    missed = ((inputs @ found - target) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    return {"slope": found[0], "slope_of_classes": found[1], "constant": found[2], "r2": 1 - missed}


def attacked(seed: int, fpr: float) -> Iterator[Cell]:
    """Yield every size of the data, small ones first."""
    ours = federation(FEATURES.to_json())
    features, labels = ours.inputs.flatten(1), ours.pool.labels
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    for examples in EXAMPLES:
        for classes in CLASSES:
            yield cell(seed, fpr, *drawn(features, labels, examples, classes, seed), examples)


def drawn(
    features: Tensor, labels: Tensor, examples: int, classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return twice as many records as a head is trained on, of some classes, renumbered."""
    # The same classes at every size: pairs of them differ more than sizes do.
    chosen = torch.randperm(10, generator=generator(seed, "classes"))[:classes]
    rng = generator(seed, "records", examples, classes)
    rows = []
    for label in chosen:
        own = (labels == label).nonzero().squeeze(1)
        rows.append(own[torch.randperm(len(own), generator=rng)[: 2 * examples]])
    return features[torch.cat(rows)], torch.arange(classes).repeat_interleave(2 * examples)


def cell(seed: int, fpr: float, features: Tensor, labels: Tensor, examples: int) -> Cell:
    """Train heads on random halves, and attack each with all others."""
    classes = int(labels.max()) + 1
    members = paired_members(HEADS, len(labels), generator(seed, "members", examples, classes))
    heads = train_heads(features, labels, members, classes, TRAINING, seed)
    signals = Signals(heads.margins(features, labels), members, torch.zeros(HEADS, 0))
    gains = []
    for target in range(HEADS):
        scores = Lira().scores(signals.evidence(target))
        own = members[target]
        gains.append(tpr_at_fpr(scores[own], scores[~own], fpr) - fpr)
    norms = torch.stack(
        [
            head_gradient_norm(features @ w.T + b, labels, features)
            for w, b in zip(heads.weight, heads.bias, strict=True)
        ]
    )
    correlation = spearmanr(
        norms.masked_fill(~members, torch.nan).nanmean(0), vulnerability(signals)
    ).statistic
    return Cell(examples, classes, float(np.mean(gains)), float(correlation))


def vulnerability(signals: Signals) -> Tensor:
    """Return how far margins with and without a record are apart, in deviations."""
    inside = signals.margin.double().masked_fill(~signals.members, torch.nan)
    outside = signals.margin.double().masked_fill(signals.members, torch.nan)
    spread = (outside - outside.nanmean(0)).square().nanmean(0).sqrt()
    return (inside.nanmean(0) - outside.nanmean(0)) / spread.clamp(min=1e-12)
