"""How much protection is left when only a part of the images, or of the clients, protects?

Run:    fl-sim sweep experiments/partial_poison.py
Takes:  see partial_poison.expected.json, which also has the expected results
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg

RADIUS = 16 / 255

EXPERIMENT = Experiment(
    name="partial_poison",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=3000, num_test=2000),
    partition=Dirichlet(alpha=0.5),
    protection=ErrorMinimizing(radius=RADIUS, form="class"),
    layout=Layout(fraction=0.4, unit="samples"),
    model=Model("small_cnn", init="random"),
    client=SgdClient(learning_rate=0.05, local_epochs=3),
    strategy=FedAvg(),
    rounds=8,
)
AXES = {
    "protection": [
        ErrorMinimizing(radius=RADIUS, form="class"),
        ErrorMinimizing(radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5),
        LinearSeparable(radius=12 / 255),
        RandomNoise(radius=RADIUS, form="class"),
    ],
    "layout.unit": ["clients", "samples"],
    "layout.fraction": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
}
SEEDS = (0, 1, 2)
