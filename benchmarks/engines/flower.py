"""Stock Flower: `run_simulation`, FedAvg, and a ClientApp as in its quickstart.

Two things favour Flower over the quickstart: data and network are loaded once per actor, not once
per message. One thing is added: the server tells each sampled node which client's data to use, so
that all engines have the same clients in a round.
"""

import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.engines.task import Task, compute_accuracy, load_task, make_parameter_groups
from benchmarks.pacer import Pacer
from fl_sim.core.device import share_gpus

client_app = ClientApp()


@lru_cache(maxsize=1)
def build_network(experiment: str) -> nn.Sequential:
    """Return the network, built once per actor."""
    return load_task(experiment).build_plain_model()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train as the PyTorch quickstart does."""
    config: Any = message.content["config"]
    task, model = load_task(config["experiment"]), build_network(config["experiment"])
    arrays: Any = message.content["arrays"]
    model.load_state_dict(arrays.to_torch_state_dict(), strict=False)
    inputs, labels = task.preloaded[config["client"]]
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=task.batch_size, shuffle=True)
    groups = make_parameter_groups(model, task.learning_rate)
    optimizer = torch.optim.SGD(groups, lr=task.learning_rate)
    criterion = nn.CrossEntropyLoss()
    model.train()
    running = 0.0
    for _ in range(task.epochs):
        for batch, answers in loader:
            optimizer.zero_grad()
            loss = criterion(model(batch), answers)
            loss.backward()
            optimizer.step()
            running += loss.item()
    content = RecordDict(
        {
            "arrays": ArrayRecord(task.get_state(model)),
            "metrics": MetricRecord({"train_loss": running, "num-examples": len(labels)}),
        }
    )
    return Message(content=content, reply_to=message)


class PacedFedAvg(FedAvg):
    """FedAvg that waits for its turn, and assigns a client's data to each sampled node."""

    def __init__(self, pacer: Pacer, task: Task, **options: Any) -> None:
        """Wrap Flower's strategy."""
        super().__init__(**options)
        self.pacer, self.ours = pacer, task

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait for the turn of the round, then sample as FedAvg does."""
        self.pacer.wait()
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message, client in zip(messages, self.ours.select_clients(server_round), strict=True):
            client_config = ConfigRecord({**config, "client": client})
            message.content = RecordDict({"arrays": arrays, "config": client_config})
        return messages


def run(pacer: Pacer, experiment: str, workers: int = 1, evaluate_every: int = 0, **_: Any) -> None:
    """Run the rounds of an experiment, one per turn."""
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    task = load_task(experiment)
    model, server_app, failures = task.build_plain_model(), ServerApp(), []
    num_clients, per_round = (
        task.federation.num_clients,
        task.federation.experiment.clients_per_round,
    )

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        if number and evaluate_every and number % evaluate_every == 0:
            model.load_state_dict(arrays.to_torch_state_dict(), strict=False)
            return MetricRecord({"accuracy": compute_accuracy(model, task.preloaded_test)})
        return None

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            PacedFedAvg(
                pacer,
                task,
                fraction_train=per_round / num_clients,
                fraction_evaluate=0.0,
                min_train_nodes=per_round,
                min_available_nodes=num_clients,
            ).start(
                grid=grid,
                initial_arrays=ArrayRecord(task.get_state(model)),
                num_rounds=task.federation.experiment.rounds,
                train_config=ConfigRecord({"experiment": experiment}),
                evaluate_fn=evaluate,
            )
        except BaseException as error:
            failures.append(error)

    num_gpus = int(task.device.type == "cuda")
    run_simulation(
        server_app,
        client_app,
        num_supernodes=num_clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": share_gpus(num_gpus, workers)},
            "init_args": {
                "num_cpus": workers,
                "num_gpus": num_gpus,
                "include_dashboard": False,
            },
        },
    )
    if failures:
        raise failures[0]
    pacer.wait()
