"""How large must the protected share be before a central trainer loses accuracy?

Run:    fl-sim sweep experiments/poisoning_ratio.py

One client holds all images and trains once, which is central training.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.one_pixel import OnePixel
from strategies.fedavg import FedAvg

RADIUS = 16 / 255

EXPERIMENT = Experiment(
    name="poisoning_ratio",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=5000, num_test=5000, held_out=0.0
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=RADIUS, form="class"),
    layout=Layout(fraction=0.8),
    client=SgdClient(learning_rate=0.05, batch_size=64, local_epochs=8, weight_decay=5e-4),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "protection": [
        ErrorMinimizing(radius=RADIUS, form="class"),
        ErrorMinimizing(radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5),
        LinearSeparable(radius=12 / 255),
        Linearization(radius=RADIUS),
        OnePixel(),
    ],
    "layout.fraction": [0.2, 0.4, 0.6, 0.8, 0.9, 1.0],
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
