"""Which leak more about membership, protected images or their clean neighbours?

Run:    fl-sim sweep experiments/protection_and_leakage.py

Half of each client's images are held out as non-members. Those of the protected half carry noise
from the same generator, so that the noise alone does not reveal membership.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_maximizing import ErrorMaximizing
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS = 16 / 255
FEW = {"noise_steps": 5, "step_size": RADIUS / 5, "max_passes": 12}

EXPERIMENT = Experiment(
    name="protection_and_leakage",
    data=Data(
        dataset="fashion_mnist", num_clients=10, num_samples=4000, num_test=2000, held_out=0.5
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=RADIUS, form="sample", **FEW),
    layout=Layout(fraction=0.5),
    client=SgdClient(learning_rate=0.05, batch_size=32, local_epochs=3),
    strategy=FedAvg(),
    evaluation=Evaluation(every=5),
    rounds=25,
)
AXES = {
    "protection": [
        RandomNoise(radius=RADIUS, form="sample"),
        ErrorMinimizing(radius=RADIUS, form="sample", **FEW),
        ErrorMinimizing(radius=RADIUS, form="class"),
        StableErrorMinimizing(radius=RADIUS, surrogate_steps=300),
        ErrorMaximizing(radius=RADIUS),
    ],
    "layout.fraction": [0.2, 0.5, 0.8],
}
SEEDS = (0, 1, 2)
