"""Do random and error-maximising noise protect colour photographs as error-minimising noise does?

Run:    fl-sim sweep experiments/random_and_maximizing.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

The baselines of the paper on error-minimising noise, and TAP, under the training of
colour_protection.py. TAP takes 30 steps in place of its 250.
"""

from typing import Any

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.contracts import Protection
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_maximizing import ErrorMaximizing
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.targeted_adversarial import TargetedAdversarial
from strategies.fedavg import FedAvg

RADIUS, IMAGES, EPOCHS = 8 / 255, 10_000, 6
NETWORK = Model("resnet9", width=8)
MADE: dict[str, Any] = {"radius": RADIUS, "surrogate": NETWORK, "learning_rate": 0.01}
STEPS: dict[str, Any] = {"noise_steps": 5, "step_size": RADIUS / 5}


def protect(protection: Protection) -> dict[str, object]:
    """Return the settings of a protection."""
    return {"protection": protection}


EXPERIMENT = Experiment(
    name="random_and_maximizing",
    data=Data(dataset="cifar10", num_clients=1, num_samples=IMAGES, num_test=10_000, held_out=0.0),
    partition=Iid(),
    protection=ErrorMinimizing(form="class", **MADE),
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
AXES = {
    "noise": {
        "random class-wise": protect(RandomNoise(RADIUS, form="class")),
        "random sample-wise": protect(RandomNoise(RADIUS, form="sample")),
        "error-maximising": protect(ErrorMaximizing(max_passes=2, **STEPS, **MADE)),
        "EM class-wise": {},
        "EM sample-wise": protect(ErrorMinimizing(**STEPS, **MADE)),
        "TAP": protect(
            TargetedAdversarial(noise_steps=30, step_size=RADIUS / 10, padding=0, **MADE)
        ),
    }
}
SEEDS = (0, 1, 2)
# All images, the published width and ten times the rounds, with the same noise: hours per cell
# without a GPU.
FULL = {
    "data.num_samples": None,
    "model.width": None,
    "client.learning_rate_decay": 0.93,
    "rounds": 10 * EPOCHS,
}
