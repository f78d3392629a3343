"""W6: shadow models of a membership audit.

On a CPU, heads on 2,000 records of 1,280 features, half of them each. On a GPU, ResNet-18s with
group normalisation, which share 50,000 random images of 3 x 32 x 32: a turn passes over all once.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cases import Case, make_round_jobs
from benchmarks.pacer import Pacer
from benchmarks.race import Job
from benchmarks.workloads.w8_cifar import image_path, write_random_images
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.attacks._shared.shadow_heads import HeadTraining, train_heads
from fl_sim.data.partition import Iid
from strategies.fedavg import FedAvg

NUM_RECORDS, NUM_FEATURES, NUM_CLASSES = 2000, 1280, 10
BATCH = 32
NUM_IMAGES, EPOCHS = 50_000, 15


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


def list_gpu_cases() -> list[Case]:
    """Return one case per number of networks."""
    return [_make_network_case(networks) for networks in (64, 256)]


def _make_network_case(networks: int) -> Case:
    path = image_path(NUM_IMAGES)
    experiment = Experiment(
        name="shadows",
        client=SgdClient(learning_rate=0.1, momentum=0.0, batch_size=128, local_epochs=1),
        strategy=FedAvg(),
        data=Data("npz", networks, held_out=0.0, path=str(path)),
        partition=Iid(),
        model=Model("resnet18", norm="group"),
    )
    prepare = partial(write_random_images, path, NUM_IMAGES)
    jobs = make_round_jobs(experiment, ("floor", "local", "nondeterministic", "bf16"))
    # Each model of the whole job is trained on half of the images.
    whole = EPOCHS * networks / 2
    name = f"{networks} shadow ResNets"
    return Case("W6", name, jobs, prepare=prepare, whole=whole, budget=300.0)


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
