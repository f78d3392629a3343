"""Which noise protects images from a trainer that starts from a foundation model?

Run:    fl-sim sweep experiments/protection_foundation.py
        with colour photographs: --set data.dataset=npz --set data.path=cifar10.npz

All images are protected, and one client trains once, which is central training. Noise is made with
a small network (EM), with the pretrained foundation model (EM on it), or for trainers that start
from it (BAIT, SSC); the trainer trains a small network, or parts of the foundation model.
"""

from typing import Any

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.contracts import Protection
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.bait import Bait
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.semantic_camouflage import SemanticCamouflage
from strategies.fedavg import FedAvg

RADIUS, STEP, BATCH = 8 / 255, 2 / 255, 16
LITE0 = "efficientnet_lite0"
STEPS: dict[str, Any] = {"noise_steps": 5, "step_size": STEP, "max_passes": 3, "batch_size": 50}
TUNED = Model(LITE0, "pretrained")


def protect(protection: Protection) -> dict[str, object]:
    """Return the settings that protect all images."""
    return {"protection": protection, "layout": Layout(fraction=1.0)}


def tune(part: str, rate: float, epochs: int) -> dict[str, object]:
    """Return the settings of a trainer that trains a part of the pretrained model."""
    client = SgdClient(learning_rate=rate, batch_size=BATCH, local_epochs=epochs)
    return {"model": Model(LITE0, "pretrained", part), "client": client}  # type: ignore[arg-type]


EXPERIMENT = Experiment(
    name="protection_foundation",
    data=Data(dataset="fashion_mnist", num_clients=1, num_samples=400, num_test=500, held_out=0.0),
    partition=Iid(),
    client=SgdClient(learning_rate=0.02, batch_size=BATCH, local_epochs=20),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "noise": {
        "none": {},
        "EM": protect(ErrorMinimizing(RADIUS, noise_steps=10, max_passes=20)),
        "EM on the foundation model": protect(
            ErrorMinimizing(RADIUS, surrogate=TUNED, learning_rate=0.01, stop_error=0.0, **STEPS)
        ),
        "BAIT": protect(Bait(RADIUS, surrogate=TUNED, learning_rate=0.01, **STEPS)),
        "SSC": protect(SemanticCamouflage(RADIUS, surrogate=TUNED, noise_steps=10, step_size=STEP)),
    },
    "trainer": {
        "small CNN": {},
        "head": tune("head", 0.01, 10),
        "norm": tune("norm", 0.005, 3),
        "lora": tune("lora", 0.005, 6),
        "full": tune("full", 0.005, 3),
    },
}
SEEDS = (0, 1, 2)
