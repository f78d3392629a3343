"""How much protection is left against adversarial training of growing radius?

Run:    fl-sim sweep experiments/adversarial_radius.py
One client holds everything and trains once: this is central training.
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

RADIUS = 16 / 255  # of the noise
STEPS = 3  # of the attack; each of 2.5 / 3 of its radius
PUBLISHED_PASSES = 500  # 12.8 epochs of 5,000 images in batches of 128, as in the paper of SEM

EXPERIMENT = Experiment(
    name="adversarial_radius",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=5000, num_test=5000, held_out=0.0
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=RADIUS, form="class"),
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.05, batch_size=64, local_epochs=8, weight_decay=5e-4),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "protection": [
        RandomNoise(radius=RADIUS),
        ErrorMinimizing(radius=RADIUS, form="class"),
        ErrorMinimizing(radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5),
        LinearSeparable(radius=12 / 255),
        Linearization(radius=RADIUS),
        OnePixel(),
        StableErrorMinimizing(radius=RADIUS, surrogate_steps=PUBLISHED_PASSES),
    ],
    "client.countermeasures": [
        (),
        *(
            (AdversarialTraining(radius=r, steps=STEPS, step_size=2.5 / STEPS * r),)
            for r in (RADIUS / 8, RADIUS / 4, RADIUS / 2, RADIUS)
        ),
    ],
}
SEEDS = (0, 1, 2)
# The size of the papers: hours a cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
