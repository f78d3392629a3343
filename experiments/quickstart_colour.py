"""What does protecting photographs cost those who train on them, if everybody or half protects?

Run:    make quickstart-colour        (or: fl-sim sweep experiments/quickstart_colour.py)
        with photographs of your own: --set data.dataset=npz --set data.path=FILE.npz
Takes:  six minutes of CPU time

A_all is the accuracy if nobody protects, A_clean that of the clients alone that do not, and A_mix
that of all clients together.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="quickstart_colour",
    data=Data(dataset="cifar10", num_clients=4, num_samples=4000, num_test=2000, held_out=0.0),
    partition=Iid(),
    protection=ErrorMinimizing(radius=8 / 255, form="class"),
    layout=Layout(fraction=1.0, unit="clients"),
    model=Model("small_cnn"),
    client=SgdClient(learning_rate=0.02, learning_rate_decay=0.9, local_epochs=2),
    strategy=FedAvg(),
    rounds=8,
)
AXES = {
    "noise": {
        "EM class-wise": {},
        "LSP": {"protection": LinearSeparable(radius=6 / 255, patch=8)},
    },
    "layout.fraction": [0.5, 1.0],
}
SEEDS = (0, 1, 2)
