"""pfl-research in one process, as in its PyTorch tutorials.

It is not a dependency of this project: `make bench` installs it into a separate folder.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.engines.task import Task, load_task
from benchmarks.pacer import Pacer


class Learner(nn.Module):
    """The network with the two methods that pfl requires."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        self.network.train()
        return functional.cross_entropy(self.network(inputs), labels)

    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return no metrics: evaluation is off."""
        return {}


def run(pacer: Pacer, experiment: str, **_: Any) -> None:
    """Run the rounds of an experiment, one per turn."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    task = load_task(experiment)
    shards, rounds = task.preloaded, task.federation.experiment.rounds

    class Paced(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *args: Any, **kwargs: Any) -> Any:
            pacer.wait()
            return super().after_central_iteration(*args, **kwargs)

    users = FederatedDataset(
        lambda client: PyTorchTensorDataset(_shuffle(shards[client]), user_id=str(client)),
        _make_sampler(task),
    )
    learner: Any = Learner(task.build_plain_model())
    rate = task.learning_rate
    model = PyTorchModel(learner, torch.optim.SGD, torch.optim.SGD(learner.parameters(), lr=1.0))
    pacer.wait()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=task.federation.experiment.clients_per_round,
            val_cohort_size=None,
        ),
        SimulatedBackend(users, users, [WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_batch_size=task.batch_size,
            local_num_epochs=task.epochs,
            local_learning_rate=rate,
        ),
        NNEvalHyperParams(local_batch_size=256),
        [Paced()],
    )


def _shuffle(shard: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return a shard in random order, since pfl's datasets do not shuffle."""
    order = torch.randperm(len(shard[1])).to(shard[1].device)
    return [part[order] for part in shard]


def _make_sampler(task: Task) -> Any:
    """Return a sampler that gives the clients of one round after another."""
    numbers = range(1, task.federation.experiment.rounds + 2)
    clients: Iterator[int] = chain.from_iterable(task.select_clients(number) for number in numbers)
    return lambda: next(clients)
