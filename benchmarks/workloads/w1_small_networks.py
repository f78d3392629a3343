"""W1: convolutional networks on Fashion-MNIST, 100 clients, ten per round."""

from dataclasses import replace

from benchmarks.cases import ENGINES, GPU, Case, make_round_jobs
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, Participation
from fl_sim.data.partition import Dirichlet
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="small_networks",
    client=SgdClient(learning_rate=0.05, momentum=0.0, batch_size=32, local_epochs=1),
    strategy=FedAvg(),
    data=Data("fashion_mnist", num_clients=100, num_test=10, held_out=0.0),
    partition=Dirichlet(alpha=0.5),
    model=Model("tiny_cnn", norm="off"),
    participation=Participation(10),
)


def list_cases(full: bool) -> list[Case]:
    """Return one case per network."""
    return _list_cases(ENGINES)


def list_gpu_cases() -> list[Case]:
    """Return one case per network."""
    return _list_cases(GPU)


def _list_cases(engines: tuple[str, ...]) -> list[Case]:
    mcmahan = replace(EXPERIMENT, model=Model("mcmahan_cnn", norm="off"))
    return [
        Case("W1", "tiny CNN, 10 per round", make_round_jobs(EXPERIMENT, engines)),
        Case("W1", "McMahan CNN, 10 per round", make_round_jobs(mcmahan, engines)),
    ]
