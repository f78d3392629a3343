"""Is it the federation that weakens protection, or would central training on the same data too?

Run:    fl-sim sweep experiments/federated_controls.py

The data of federated_protection.py, with shared noise. Ten clients are compared with the same
images pooled, trained on for as many epochs, and for one epoch, which is about as many steps as one
client takes.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavg import FedAvg

CLIENTS, ROUNDS = 10, 12

EXPERIMENT = Experiment(
    name="federated_controls",
    data=Data(
        dataset="fashion_mnist",
        num_clients=CLIENTS,
        num_samples=4000,
        num_test=2000,
        held_out=0.2,
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=16 / 255, form="class"),
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.05, batch_size=32),
    strategy=FedAvg(),
    evaluation=Evaluation(every=ROUNDS),
    rounds=ROUNDS,
)
AXES = {
    "training": {
        "ten clients": {},
        "pooled, as many epochs": {"data.num_clients": 1},
        "pooled, one epoch": {"data.num_clients": 1, "rounds": 1},
    },
    "layout.fraction": [0.5, 1.0],
}
SEEDS = (0, 1, 2)
