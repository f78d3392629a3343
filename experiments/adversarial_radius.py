"""How much protection is left against adversarial training of growing radius?

Run:    fl-sim sweep experiments/adversarial_radius.py

One client holds all images and trains once, which is central training. SEM takes the number of
steps of its paper, 12.8 epochs of batches; sem_question.py compares it with REM.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.one_pixel import OnePixel
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS = 16 / 255  # radius of the noise
STEPS = 3  # steps of the attack, each of 2.5 / 3 of its radius
IMAGES, BATCH = 4000, 128
PUBLISHED = {"radius": RADIUS, "batch_size": BATCH, "surrogate_steps": round(12.8 * IMAGES / BATCH)}


def train_against(radius: float) -> dict[str, object]:
    """Return the settings of adversarial training within a radius."""
    attack = AdversarialTraining(radius, steps=STEPS, step_size=2.5 / STEPS * radius)
    return {"client.countermeasures": (attack,)}


EXPERIMENT = Experiment(
    name="adversarial_radius",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=IMAGES, num_test=5000, held_out=0.0
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
        "random": {"protection": RandomNoise(radius=RADIUS)},
        "EM class-wise": {},
        "EM sample-wise": {
            "protection": ErrorMinimizing(
                radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5
            )
        },
        "LSP": {"protection": LinearSeparable(radius=12 / 255)},
        "PIL": {"protection": Linearization(radius=RADIUS)},
        "OPS": {"protection": OnePixel()},
        "SEM": {"protection": StableErrorMinimizing(**PUBLISHED)},
    },
    "trained against": {
        "nothing": {},
        "2/255": train_against(RADIUS / 8),
        "4/255": train_against(RADIUS / 4),
        "8/255": train_against(RADIUS / 2),
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
