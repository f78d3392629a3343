"""How much of what attacks on federated learning find is membership, and how much is label shift?

Run:    fl-sim study experiments/fl_attacks_label_shift.py

For each record the server infers whether client k trained on it. Matched non-members are held-out
records of client k itself; global ones are held-out records of all clients.
"""

from collections import deque

import torch
from torch import Tensor

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.attacks.average_cosine import AverageCosine
from fl_sim.attacks.delta_loss import DeltaLoss
from fl_sim.attacks.fedmia import FedMia
from fl_sim.attacks.label_only import label_only_scores
from fl_sim.attacks.loss_series import LossSeries
from fl_sim.attacks.loss_threshold import LossThreshold
from fl_sim.audit.server_view import UpdateRecorder
from fl_sim.contracts.attacks import Evidence, Trajectory
from fl_sim.data.partition import Dirichlet, Iid
from fl_sim.experiment import Model
from fl_sim.federation.federation import load_federation
from fl_sim.metrics.leakage import auc
from fl_sim.runs.replay import replay
from strategies.fedavg import FedAvg

AXES = {
    "partition": {"iid": Iid(), "Dirichlet 1": Dirichlet(1.0), "Dirichlet 0.1": Dirichlet(0.1)},
    "pool": ["global", "matched"],
}
SEEDS = (0, 1, 2)

CLIENTS, ROUNDS = 10, 30
ATTACKS = {
    "global_loss": LossThreshold(),
    "loss_series": LossSeries(),
    "delta_loss": DeltaLoss(),
    "average_cosine": AverageCosine(),
    "fedmia_1": FedMia("loss"),
    "fedmia_2": FedMia("cosine"),
}


def measure(seed: int, partition: Iid | Dirichlet, pool: str) -> dict[str, float]:
    """Run the federation with a recorder, and attack every pair of client and record."""
    federation = load_federation(make_experiment(seed, partition).to_json())
    rows = torch.arange(len(federation.pool.labels))
    recorder = UpdateRecorder(federation, rows, {3 * (i + 1) for i in range(ROUNDS // 3)})
    deque(replay(federation, callbacks=(recorder,)), maxlen=0)
    records, clients, members = pair_records(federation.pool.clients, federation.pool.members, pool)
    trajectory = Trajectory(
        client_margin=torch.stack(recorder.client_margin)[:, :, records],
        global_margin=torch.stack(recorder.global_margin)[:, records],
        suspects=clients,
        cosine=torch.stack(recorder.cosine)[:, :, records],
    )
    nothing = torch.zeros(0, len(records))
    held = Evidence(
        target=trajectory.global_margin[-1],
        references=nothing,
        reference_members=nothing.bool(),
        population=torch.zeros(0),
        reference_population=torch.zeros(0, 0),
        trajectory=trajectory,
    )
    scores = {name: attack.scores(held) for name, attack in ATTACKS.items()}
    scores["labels_alone"] = label_only_scores(clients, federation.pool.labels[records], members)
    return {name: auc(values[members], values[~members]) for name, values in scores.items()}


def make_experiment(seed: int, partition: Iid | Dirichlet) -> Experiment:
    """Return a head on the foundation model, trained by ten clients."""
    return Experiment(
        name="watched",
        data=Data(
            dataset="fashion_mnist",
            num_clients=CLIENTS,
            num_samples=4000,
            num_test=500,
            held_out=0.5,
        ),
        partition=partition,
        model=Model("efficientnet_lite0", init="pretrained", tune="head"),
        client=SgdClient(learning_rate=0.02, momentum=0.0, batch_size=32, local_epochs=2),
        strategy=FedAvg(),
        rounds=ROUNDS,
        seed=seed,
    )


def pair_records(clients: Tensor, members: Tensor, pool: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return records, suspected clients and membership, for all members and non-members."""
    columns = []
    for client in range(CLIENTS):
        outside = ~members if pool == "global" else ~members & (clients == client)
        for values, truth in ((members & (clients == client), True), (outside, False)):
            rows = values.nonzero().squeeze(1)
            columns.append((rows, torch.full_like(rows, client), torch.full_like(rows, int(truth))))
    records, suspects, truth = (torch.cat(column) for column in zip(*columns, strict=True))
    return records, suspects, truth.bool()
