"""W6: shadow heads of a membership audit, 2,000 records of 1,280 features, half of them each."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.pacer import Pacer
from benchmarks.race import Job
from fl_sim.attacks._shared.shadow_heads import HeadTraining, train_heads

NUM_RECORDS, NUM_FEATURES, NUM_CLASSES = 2000, 1280, 10
BATCH = 32


def list_cases(full: bool) -> list[Case]:
    """Return one case per number of heads."""
    here = "benchmarks.workloads.w6_audits"
    return [
        Case(
            "W6",
            f"{heads} shadow heads",
            {
                "floor": Job(f"{here}:run_plain", {"num_heads": heads}),
                "local": Job(f"{here}:run_ours", {"num_heads": heads}),
            },
        )
        for heads in (64, 256)
    ]


def run_ours(pacer: Pacer, num_heads: int) -> None:
    """Train all heads at once."""
    torch.set_num_threads(1)
    training = HeadTraining(momentum=0.0, batch_size=BATCH, epochs=1)
    features, labels, members = _draw_records(num_heads)
    while True:
        pacer.wait()
        train_heads(features, labels, members, NUM_CLASSES, training, seed=0)


def run_plain(pacer: Pacer, num_heads: int) -> None:
    """Train one head after another."""
    torch.set_num_threads(1)
    features, labels, members = _draw_records(num_heads)
    while True:
        pacer.wait()
        for rows in members:
            head = nn.Linear(NUM_FEATURES, NUM_CLASSES)
            _train(head, features[rows], labels[rows])


def _train(head: nn.Linear, features: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.SGD(head.parameters(), lr=0.05)
    for rows in torch.randperm(len(labels)).split(BATCH):
        optimizer.zero_grad()
        functional.cross_entropy(head(features[rows]), labels[rows]).backward()
        optimizer.step()


def _draw_records(num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, labels, and a boolean [heads, records] matrix of training sets."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(NUM_RECORDS, NUM_FEATURES, generator=rng)
    labels = torch.randint(NUM_CLASSES, (NUM_RECORDS,), generator=rng)
    return features, labels, torch.rand(num_heads, NUM_RECORDS, generator=rng) < 0.5
