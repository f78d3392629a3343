"""Which noise takes accuracy on colour photographs, the kind of images it was made for?

Run:    fl-sim sweep experiments/colour_protection.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

One client holds all images and trains for six rounds of one epoch with a falling learning rate,
which is central training, without crops and flips, under which noise is therefore made as well.
All training images are protected, and the test images are clean. Noise that needs a network is made
with the one that is then trained. A pixel changes by at most 8 of 255, but for LSP, AR, OPS and
CUDA: the noise of LSP has a root mean square of 8 of 255, a third more than in its paper, and the
others are as in theirs.
"""

from typing import Any

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.contracts import Protection
from fl_sim.countermeasures.crop_flip import CropFlip
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.autoregressive import Autoregressive
from fl_sim.protections.convolution import Convolution
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.one_pixel import OnePixel
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS, IMAGES, EPOCHS = 8 / 255, 10_000, 6
NETWORK = Model("resnet9", width=8)
MADE: dict[str, Any] = {"radius": RADIUS, "surrogate": NETWORK, "learning_rate": 0.01}
# SEM and REM, with a surrogate that sees an eighth and a sixteenth of the papers' images.
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


def protect(protection: Protection) -> dict[str, object]:
    """Return the settings of a protection."""
    return {"protection": protection}


EXPERIMENT = Experiment(
    name="colour_protection",
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
        "EM class-wise": {},
        "LSP": protect(LinearSeparable(RADIUS, patch=8)),
        "CUDA": protect(Convolution()),
        "EM sample-wise": protect(ErrorMinimizing(noise_steps=5, step_size=RADIUS / 5, **MADE)),
        "SEM": protect(StableErrorMinimizing(surrogate_steps=1200, **ROBUST)),
        "REM": protect(RobustErrorMinimizing(surrogate_steps=600, **ROBUST)),
        "OPS": protect(OnePixel()),
        "AR": protect(Autoregressive()),
        "PIL": protect(Linearization(RADIUS)),
    }
}
SEEDS = (0, 1, 2, 3, 4)
# All images, the published width, crops and flips and ten times the rounds, with the same noise:
# hours per cell without a GPU.
FULL = {
    "data.num_samples": None,
    "model.width": None,
    "client.countermeasures": (CropFlip(),),
    "client.learning_rate_decay": 0.93,
    "rounds": 10 * EPOCHS,
}
