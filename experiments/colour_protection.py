"""Which noise takes accuracy on colour photographs, the kind of images it was made for?

Run:    fl-sim sweep experiments/colour_protection.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

One client holds all images and trains for six rounds of one epoch with a falling learning rate,
which is central training, without crops and flips. All training images are protected, and the test
images are clean. EM is made with the network that is then trained, and changes a pixel by at most
8 of 255; the noise of LSP has a root mean square of 8 of 255, a third more than in its paper; CUDA
is as in its paper, where nothing bounds it.
"""

from typing import Any

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.contracts import Protection
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.convolution import Convolution
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from strategies.fedavg import FedAvg

RADIUS, IMAGES, EPOCHS = 8 / 255, 10_000, 6
NETWORK = Model("resnet9", width=8)
MADE: dict[str, Any] = {"radius": RADIUS, "surrogate": NETWORK, "learning_rate": 0.01}


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
    }
}
SEEDS = (0, 1, 2, 3, 4)
