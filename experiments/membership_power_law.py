"""How does membership leakage fall with examples per class, and grow with classes?

Run:    fl-sim study experiments/membership_power_law.py

The foundation model, with the head alone tuned, or the head and the scales and shifts of all
normalisation layers. Each model is attacked by LiRA with all others as its references. The law is
log10(TPR - FPR) = slope log10(S) + classes log10(C) + a constant. For photographs of your own,
replace "cifar10" below by "npz" and a path.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.attacks._shared.shadow_heads import HeadTraining, train_heads
from fl_sim.attacks.gradient_norm import head_gradient_norm
from fl_sim.attacks.lira import Lira
from fl_sim.audit.target_run import score_records
from fl_sim.contracts import Shard
from fl_sim.contracts.attacks import Signals, draw_paired_members
from fl_sim.core.seeding import generator
from fl_sim.data.partition import Iid
from fl_sim.experiment import Model
from fl_sim.federation.federation import load_federation
from fl_sim.metrics.leakage import tpr_at_fpr
from fl_sim.models.tuning import build_network
from strategies.fedavg import FedAvg

FPRS = (0.1, 0.01)
SEEDS = (0, 1, 2, 3, 4, 5)
BACKBONE = "efficientnet_lite0"


class Models(NamedTuple):
    """Margins and norms of the head's gradient of all records, per model."""

    margin: Tensor
    gradient_norm: Tensor


Trainer = Callable[[Tensor, Tensor, Tensor, int], Models]


class Tuning(NamedTuple):
    """Settings of the tuned models.

    Attributes:
        model: Model of the federation whose inputs are used.
        examples: Numbers of training examples per class, S; half of the records.
        fewest: Smallest S to which the law is fitted; it holds for many examples.
        classes: Numbers of classes, C.
        count: Number of models.
        train: Function of inputs, labels, members per model and seed that trains the models.
    """

    model: Model
    examples: tuple[int, ...]
    fewest: int
    classes: tuple[int, ...]
    count: int
    train: Trainer


def train_all_heads(features: Tensor, labels: Tensor, members: Tensor, seed: int) -> Models:
    """Return heads that are trained at once."""
    training = HeadTraining(learning_rate=0.002, momentum=0.9, batch_size=64, epochs=30)
    result = train_heads(features, labels, members, int(labels.max()) + 1, training, seed)
    norms = [
        head_gradient_norm(features @ w.T + b, labels, features)
        for w, b in zip(result.weight, result.bias, strict=True)
    ]
    return Models(result.margins(features, labels), torch.stack(norms))


def train_norms(images: Tensor, labels: Tensor, members: Tensor, seed: int) -> Models:
    """Return models whose head and normalisation are trained one after the other."""
    ids = torch.arange(len(labels))
    result = []
    for number, rows in enumerate(members):
        network = build_network(
            NORM.model, tuple(images.shape[1:]), int(labels.max()) + 1, seed
        ).trained
        shard = Shard(0, images[rows], labels[rows], ids[rows], int(labels.max()) + 1)
        client = SgdClient(learning_rate=0.02, batch_size=32, local_epochs=8)
        client.train(network, shard, generator(seed, "norm", number))
        result.append(score_records(network, images, labels))
    return Models(torch.stack([m for m, _ in result]), torch.stack([g for _, g in result]))


HEAD = Tuning(
    model=Model(BACKBONE, init="pretrained", tune="head"),
    examples=(8, 16, 32, 64, 128, 256, 512),
    fewest=64,
    classes=(2, 5, 10),
    count=32,
    train=train_all_heads,
)
NORM = Tuning(
    model=Model(BACKBONE, init="pretrained", tune="norm", pixels=32),
    examples=(16, 32, 64, 128),
    fewest=16,
    classes=(2, 10),
    count=8,
    train=train_norms,
)
AXES = {
    "images": {"grey": ("fashion_mnist", None), "colour": ("cifar10", None)},
    "tuned": {"head": HEAD, "head and norm": NORM},
}


class Cell(NamedTuple):
    """Results for one size of the data: advantage by FPR, and correlation with gradient norms."""

    examples: int
    classes: int
    advantage: dict[float, float]
    correlation: float


def measure(seed: int, images: tuple[str, str | None], tuned: Tuning) -> dict[str, float]:
    """Attack models of every size, and fit the law."""
    cells = list(attack_sizes(seed, images, tuned))
    numbers = {"gradient_correlation": cells[-1].correlation}
    for rate in FPRS:
        values = {f"S_{c.examples}": c.advantage[rate] for c in cells if c.classes == 10}
        values |= fit_law([c for c in cells if c.examples >= tuned.fewest], rate)
        numbers |= {f"{name}_at_{rate}": value for name, value in values.items()}
    return numbers


def fit_law(cells: list[Cell], rate: float) -> dict[str, float]:
    """Return the least-squares coefficients and R^2, over cells with an advantage."""
    cells = [c for c in cells if c.advantage[rate] > 0]
    inputs = np.array([[np.log10(c.examples), np.log10(c.classes), 1.0] for c in cells])
    target = np.log10([c.advantage[rate] for c in cells])
    result, *_ = np.linalg.lstsq(inputs, target, rcond=None)
    missed = ((inputs @ result - target) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    return {
        "slope": result[0],
        "slope_of_classes": result[1],
        "constant": result[2],
        "r2": 1 - missed,
    }


def attack_sizes(seed: int, images: tuple[str, str | None], tuned: Tuning) -> Iterator[Cell]:
    """Yield the results for every size of the data, small ones first."""
    dataset, path = images
    experiment = Experiment(
        name="inputs",
        data=Data(
            dataset=dataset,
            num_clients=1,
            num_samples=10 * 2 * max(HEAD.examples),
            num_test=100,
            held_out=0.0,
            path=path,
        ),
        partition=Iid(),
        model=tuned.model,
        client=SgdClient(),
        strategy=FedAvg(),
    )
    federation = load_federation(experiment.to_json())
    inputs = federation.inputs
    if inputs.is_floating_point():  # features, stored in half precision
        inputs = inputs.float()
        inputs = (inputs - inputs.mean(0)) / inputs.std(0).clamp(min=1e-6)
    for examples in tuned.examples:
        for classes in tuned.classes:
            rows, labels = draw_records(federation.pool.labels, examples, classes, seed)
            yield attack_cell(seed, tuned, inputs[rows], labels, examples)


def draw_records(labels: Tensor, examples: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return twice as many records as a model is trained on, of some classes, renumbered."""
    # The same classes at every size: pairs of them differ more than sizes do.
    chosen = torch.randperm(10, generator=generator(seed, "classes"))[:classes]
    rng = generator(seed, "records", examples, classes)
    drawn = []
    for label in chosen:
        rows = (labels == label).nonzero().squeeze(1)
        drawn.append(rows[torch.randperm(len(rows), generator=rng)[: 2 * examples]])
    return torch.cat(drawn), torch.arange(classes).repeat_interleave(2 * examples)


def attack_cell(seed: int, tuned: Tuning, inputs: Tensor, labels: Tensor, examples: int) -> Cell:
    """Train models on random halves, and attack each with all others."""
    classes = int(labels.max()) + 1
    members = draw_paired_members(
        tuned.count, len(labels), generator(seed, "members", examples, classes)
    )
    models = tuned.train(inputs, labels, members, seed)
    signals = Signals(models.margin, members, torch.zeros(tuned.count, 0))
    gains: dict[float, list[float]] = {rate: [] for rate in FPRS}
    for target in range(tuned.count):
        scores = Lira().scores(signals.evidence(target))
        rows = members[target]
        for rate in FPRS:
            gains[rate].append(tpr_at_fpr(scores[rows], scores[~rows], rate) - rate)
    late = models.gradient_norm.masked_fill(~members, torch.nan).nanmean(0)
    correlation = spearmanr(late, measure_vulnerability(signals)).statistic
    advantage = {rate: float(np.mean(rows)) for rate, rows in gains.items()}
    return Cell(examples, classes, advantage, float(correlation))


def measure_vulnerability(signals: Signals) -> Tensor:
    """Return the distance between margins with and without a record, in standard deviations."""
    inside = signals.margin.double().masked_fill(~signals.members, torch.nan)
    outside = signals.margin.double().masked_fill(signals.members, torch.nan)
    spread = (outside - outside.nanmean(0)).square().nanmean(0).sqrt()
    return (inside.nanmean(0) - outside.nanmean(0)) / spread.clamp(min=1e-12)
