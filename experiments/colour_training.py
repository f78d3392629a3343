"""What gets round noise on colour photographs: adversarial training, filters, or other networks?

Run:    fl-sim sweep experiments/colour_training.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

Noise and training are those of colour_protection.py, of which every trainer changes one thing. An
adversarial trainer takes one step of 1.25 times the radius from a random start, as in Wong et al.
(2020), https://arxiv.org/abs/2001.03994, in place of the ten steps of the papers. Noise is made
with ResNet-9, whatever is trained on it.
"""

from typing import Any

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.countermeasures.low_pass import LowPass
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS, IMAGES, EPOCHS = 8 / 255, 10_000, 6
NETWORK = Model("resnet9", width=8)
ROBUST: dict[str, Any] = {
    "radius": RADIUS,
    "surrogate": NETWORK,
    "batch_size": 64,
    "learning_rate": 0.03,
    "noise_steps": 5,
    "transforms": 1,
    "padding": 0,
    "flip": False,
    "adversary_steps": 3,
}


LSP = LinearSeparable(RADIUS, patch=8)
REM = RobustErrorMinimizing(surrogate_steps=600, **ROBUST)
VGG = Model("cifar_vgg16", width=16)


def make_adversarial(radius: float) -> tuple[AdversarialTraining]:
    """Return adversarial training within a radius."""
    return (AdversarialTraining(radius, steps=1, step_size=1.25 * radius),)


EXPERIMENT = Experiment(
    name="colour_training",
    data=Data(dataset="cifar10", num_clients=1, num_samples=IMAGES, num_test=10_000, held_out=0.0),
    partition=Iid(),
    protection=ErrorMinimizing(
        RADIUS, surrogate=NETWORK, learning_rate=0.01, noise_steps=5, step_size=RADIUS / 5
    ),
    layout=Layout(fraction=1.0),
    model=NETWORK,
    client=SgdClient(
        learning_rate=0.01,
        learning_rate_decay=0.6,
        batch_size=64,
        weight_decay=5e-4,
    ),
    strategy=FedAvg(),
    evaluation=Evaluation(every=EPOCHS),
    rounds=EPOCHS,
)
LARGE_ATTACK, SMALL_ATTACK = make_adversarial(4 / 255), make_adversarial(2 / 255)
AXES = {
    "trainer": {
        "usual": {},
        "adversarial, 4/255": {"client.countermeasures": LARGE_ATTACK},
        "adversarial, 2/255": {"client.countermeasures": SMALL_ATTACK},
        "mean 3x3": {"client.countermeasures": (LowPass("mean"),)},
        "VGG-16 of width 16": {"model": VGG},
    },
    "noise": {
        "EM": {},
        "LSP": {"protection": LSP},
        "SEM": {"protection": StableErrorMinimizing(surrogate_steps=1200, **ROBUST)},
        "REM": {"protection": REM},
    },
}
SKIP = {
    "REM, which costs most, is looked at against the larger attack": lambda experiment: (
        experiment.protection == REM and experiment.client.countermeasures != LARGE_ATTACK
    ),
    "LSP, made without a network, is looked at where it is said to fail": lambda experiment: (
        experiment.protection == LSP
        and (experiment.client.countermeasures == SMALL_ATTACK or experiment.model == VGG)
    ),
}
SEEDS = (0, 1, 2)
# All images and ten times the rounds, with the same noise: hours per cell without a GPU.
FULL = {
    "data.num_samples": None,
    "client.learning_rate_decay": 0.93,
    "rounds": 10 * EPOCHS,
}
