"""pfl-research in one process, as its PyTorch tutorials write it.

It is not among this project's dependencies: `make bench` installs it into a folder of its own.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines.task import Task, task
from benchmarks.turns import Turns


class Learner(nn.Module):
    """The network with the two methods that pfl asks for."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        self.network.train()
        return functional.cross_entropy(self.network(inputs), labels)

    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return nothing: evaluation is off."""
        return {}


def run(turns: Turns, experiment: str, **_: Any) -> None:
    """Run the rounds of an experiment; one turn is a round."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    ours = task(experiment)
    shards, rounds = ours.preloaded, ours.ours.experiment.rounds

    class Paced(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *args: Any, **kwargs: Any) -> Any:
            turns.next()
            return super().after_central_iteration(*args, **kwargs)

    users = FederatedDataset(
        lambda client: PyTorchTensorDataset(_shuffled(shards[client]), user_id=str(client)),
        _all_clients(ours),
    )
    learner: Any = Learner(ours.plain_model())
    rate = ours.learning_rate
    model = PyTorchModel(learner, torch.optim.SGD, torch.optim.SGD(learner.parameters(), lr=1.0))
    turns.next()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=ours.ours.experiment.clients_per_round,
            val_cohort_size=None,
        ),
        SimulatedBackend(users, users, [WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_batch_size=ours.batch_size,
            local_num_epochs=ours.epochs,
            local_learning_rate=rate,
        ),
        NNEvalHyperParams(local_batch_size=256),
        [Paced()],
    )


def _shuffled(shard: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Pfl's own datasets keep their order; the other engines shuffle."""
    order = torch.randperm(len(shard[1]))
    return [part[order] for part in shard]


def _all_clients(ours: Task) -> Any:
    """Return a sampler that names the clients of one round after another."""
    numbers = range(1, ours.ours.experiment.rounds + 2)
    clients: Iterator[int] = chain.from_iterable(
        ours.clients_of_round(number) for number in numbers
    )
    return lambda: next(clients)
