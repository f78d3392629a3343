"""Does it matter which attack an adversarially trained model has been trained with?

Run:    fl-sim sweep experiments/attack_algorithms.py

One client holds all images and trains once, which is central training. The radius is half of the
noise's. All attacks take the same number of passes, except FGSM, which takes one.
"""

from typing import Literal

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS, STEPS = 16 / 255, 3


def train_against(attack: Literal["fgsm", "pgd", "tpgd", "apgd"]) -> dict[str, object]:
    """Return the settings of adversarial training with an attack."""
    size = 2.5 / STEPS * RADIUS / 2
    return {
        "client.countermeasures": (
            AdversarialTraining(RADIUS / 2, attack=attack, steps=STEPS, step_size=size),
        )
    }


EXPERIMENT = Experiment(
    name="attack_algorithms",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=3000, num_test=3000, held_out=0.0
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=RADIUS, form="class"),
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.05, batch_size=64, local_epochs=8, weight_decay=5e-4),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "noise": {
        "EM class-wise": {},
        "LSP": {"protection": LinearSeparable(radius=12 / 255)},
        "SEM": {"protection": StableErrorMinimizing(radius=RADIUS, surrogate_steps=300)},
    },
    "trained against": {
        "nothing": {},
        "FGSM": train_against("fgsm"),
        "PGD": train_against("pgd"),
        "TPGD": train_against("tpgd"),
        "APGD": train_against("apgd"),
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
