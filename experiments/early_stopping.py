"""Can a trainer stop before noise has done its harm, and how clean must its validation set be?

Run:    fl-sim sweep experiments/early_stopping.py

One client holds all images and trains once, which is central training. A tenth of the images has no
noise; the given share of the validation set is taken from them.
"""

from clients.early_stopping import EarlyStoppingClient
from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg

RADIUS = 16 / 255
SGD = SgdClient(learning_rate=0.05, batch_size=64, local_epochs=12, weight_decay=5e-4)


def stop_early(clean: float) -> EarlyStoppingClient:
    """Return a client that stops by a validation set of which a share is clean."""
    return EarlyStoppingClient(SGD, patience=3, aside=0.05, clean=clean)


EXPERIMENT = Experiment(
    name="early_stopping",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=5000, num_test=5000, held_out=0.0
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=RADIUS, form="class"),
    layout=Layout(fraction=0.9),
    client=SGD,
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "noise": {
        "random": {"protection": RandomNoise(radius=RADIUS)},
        "EM class-wise": {"protection": ErrorMinimizing(radius=RADIUS, form="class")},
        "LSP": {"protection": LinearSeparable(radius=12 / 255)},
    },
    "validation": {
        "no stopping": {},
        **{f"stopping, {c:.0%} clean": {"client": stop_early(c)} for c in (0.0, 0.1, 0.5, 1.0)},
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None}
