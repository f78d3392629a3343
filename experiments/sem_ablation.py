"""Which part of SEM does the work: the adversary of the surrogate, or the random disturbance?

Run:    fl-sim sweep experiments/sem_ablation.py

One client holds all images and trains once, adversarially, at a quarter of the noise's radius.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS, STEPS = 16 / 255, 3
FEW = {"radius": RADIUS, "surrogate_steps": 150, "transforms": 1}

EXPERIMENT = Experiment(
    name="sem_ablation",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=3000, num_test=3000, held_out=0.0
    ),
    partition=Iid(),
    protection=StableErrorMinimizing(**FEW),
    layout=Layout(fraction=1.0),
    client=SgdClient(
        learning_rate=0.05,
        batch_size=64,
        local_epochs=8,
        weight_decay=5e-4,
        countermeasures=(
            AdversarialTraining(RADIUS / 4, steps=STEPS, step_size=2.5 / STEPS * RADIUS / 4),
        ),
    ),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "protection": {
        "SEM": {},
        "no random disturbance": {
            "protection": StableErrorMinimizing(random_radius=0.0, **FEW),
        },
        "no adversary of the surrogate": {
            "protection": StableErrorMinimizing(
                adversary_radius=0.0, random_radius=RADIUS / 2, **FEW
            ),
        },
        "neither": {
            "protection": StableErrorMinimizing(adversary_radius=0.0, random_radius=0.0, **FEW),
        },
        "adversary in the noise step too (REM)": {"protection": RobustErrorMinimizing(**FEW)},
    }
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
