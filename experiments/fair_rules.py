"""Do fair rules serve the worst of three clients better, as their papers say?

Run:    fl-sim sweep experiments/fair_rules.py
Takes:  a little more than a minute of CPU per cell

Three clients hold one class of Fashion-MNIST each (shirts, pullovers, T-shirts), and train a
logistic regression with one full gradient per round. The client with the shirts is the worst.

The papers do not state the learning rate. At 0.1 and q = 0 the model oscillates between classes;
q-FedAvg with q above 0 shortens its own steps, so that 0.1 remains stable. The comparison is that
of Li et al. (2020), https://arxiv.org/abs/1905.10497.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.partition import ClassesPerClient
from fl_sim.experiment import Evaluation
from strategies.afl import AFL
from strategies.fedavg import FedAvg
from strategies.q_fedavg import QFedAvg

SHIRT, PULLOVER, T_SHIRT = 6, 2, 0


def make_full_gradient_client(learning_rate: float) -> SgdClient:
    """Return a client that takes one step along the gradient on all of its images."""
    return SgdClient(learning_rate=learning_rate, momentum=0.0, batch_size=6000)


EXPERIMENT = Experiment(
    name="fair_rules",
    data=Data(
        dataset="fashion_mnist",
        num_clients=3,
        classes=(SHIRT, PULLOVER, T_SHIRT),
        held_out=0.0,  # the papers train on every image; so there is no membership audit
    ),
    partition=ClassesPerClient(1),
    model=Model("standardised_linear", tune="head"),
    client=make_full_gradient_client(0.03),
    strategy=FedAvg(),
    evaluation=Evaluation(every=250),
    rounds=2500,
)
# A rule shortens its own steps where q is above 0, so that a higher rate stays stable.
AXES = {
    "rule": {
        "FedAvg": {"strategy": FedAvg()},
        "q = 0": {"strategy": QFedAvg(q=0.0, client_learning_rate=0.03)},
        "q = 5": {
            "client": make_full_gradient_client(0.1),
            "strategy": QFedAvg(q=5.0, client_learning_rate=0.1),
        },
        "q = 15": {
            "client": make_full_gradient_client(0.1),
            "strategy": QFedAvg(q=15.0, client_learning_rate=0.1),
        },
        "AFL": {"strategy": AFL(mixture_learning_rate=0.1)},
    },
}
SEEDS = (0, 1, 2)
