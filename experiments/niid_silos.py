"""Do FedProx, SCAFFOLD and FedNova beat FedAvg when ten silos hold unlike classes?

Run:    fl-sim sweep experiments/niid_silos.py
Takes:  a quarter of an hour on two cores; a hundred hours with --full
"""

from dataclasses import replace

from clients.fedprox import FedProxClient
from clients.scaffold import ScaffoldClient
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.partition import ClassesPerClient, Dirichlet, Iid
from strategies.fedavg import FedAvg
from strategies.fednova import FedNova
from strategies.scaffold import SCAFFOLD

SGD = SgdClient(learning_rate=0.01, momentum=0.9, weight_decay=1e-5, batch_size=64, local_epochs=10)
# With momentum, control variates come out ten times too large, and training diverges.
CALM = replace(SGD, learning_rate=0.1, momentum=0.0)

EXPERIMENT = Experiment(
    name="niid_silos",
    data=Data(
        dataset="fashion_mnist",
        num_clients=10,
        num_samples=4000,
        num_test=2000,
        held_out=0.0,  # the papers train on every image; so there is no membership audit
    ),
    partition=Dirichlet(alpha=0.5, capped=True),
    model=Model("lenet", norm="off"),
    client=SGD,
    strategy=FedAvg(),
    rounds=10,
)
AXES = {
    "partition": [
        Iid(),
        Dirichlet(alpha=0.5, capped=True),
        ClassesPerClient(2),
        ClassesPerClient(3),
    ],
    "method": {
        "FedAvg": {"client": SGD, "strategy": FedAvg()},
        "FedProx": {"client": FedProxClient(mu=0.01, sgd=SGD), "strategy": FedAvg()},
        "SCAFFOLD": {"client": ScaffoldClient(sgd=CALM), "strategy": SCAFFOLD()},
        "FedNova": {"client": SGD, "strategy": FedNova(momentum=0.9)},
    },
}
SEEDS = (0, 1, 2)
FULL = {"data.num_samples": None, "data.num_test": None, "rounds": 50}  # of the papers
