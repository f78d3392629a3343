"""Trainers of clients with given data, without a dataset."""

from typing import Any

import torch
from torch import Tensor, nn

from fl_sim import Data, Experiment
from fl_sim.contracts import Client
from fl_sim.federation.shards import ClientShards
from fl_sim.schedule import Schedule
from fl_sim.training.client_trainer import ClientTrainer
from strategies.fedavg import FedAvg


def make_trainer(
    network: nn.Sequential,
    client: Client,
    inputs: Tensor,
    sizes: tuple[int, ...],
    rng: torch.Generator,
    **fields: Any,
) -> ClientTrainer:
    """Return a trainer of clients that hold so many of the inputs each, of five classes."""
    experiment = Experiment(
        name="batch", client=client, strategy=FedAvg(), data=Data(num_clients=len(sizes)), **fields
    )
    shards = ClientShards(
        schedule=Schedule(experiment),
        inputs=inputs,
        clean_inputs=inputs,
        labels=torch.randint(0, 5, (len(inputs),), generator=rng),
        protected=torch.zeros(len(inputs), dtype=torch.bool),
        owners=list(torch.randperm(len(inputs), generator=rng).split(sizes)),
        num_classes=5,
    )
    return ClientTrainer(shards, network)
