"""Does SEM protect better than REM, and REM better than EM, where the trainer trains adversarially?

Run:    fl-sim sweep experiments/sem_question.py --workers 3

One client holds all images and trains once, which is central training. SEM and REM take the steps
of their papers, 12.8 epochs of batches, and fewer, which gives the curve over the steps. REM is
made for as many images as a slow core manages in an hour per seed; the others are also made for
that number.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.contracts import Protection
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections._shared.robust import RobustNoise
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS = 16 / 255  # radius of the noise
STEPS = 3  # steps of the attack, each of 2.5 / 3 of its radius
IMAGES, FEWER = 4000, 2000
BATCH, PUBLISHED = 128, 12.8  # batch size, epochs of the surrogate
Sem, Rem = StableErrorMinimizing, RobustErrorMinimizing

CLASS_WISE = ErrorMinimizing(radius=RADIUS, form="class")
SAMPLE_WISE = ErrorMinimizing(radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5)


def make_noise(noise: type[RobustNoise], epochs: float, images: int) -> RobustNoise:
    """Return SEM or REM with a number of surrogate epochs."""
    steps = round(epochs * images / BATCH)
    return noise(radius=RADIUS, batch_size=BATCH, surrogate_steps=steps)


def use_fewer_images(noise: Protection) -> dict[str, object]:
    """Return the settings of a protection with fewer images, which are also those trained on."""
    return {"data.num_samples": FEWER, "protection": noise}


def train_against(radius: float) -> dict[str, object]:
    """Return the settings of adversarial training within a radius."""
    attack = AdversarialTraining(radius, steps=STEPS, step_size=2.5 / STEPS * radius)
    return {"client.countermeasures": (attack,)}


EXPERIMENT = Experiment(
    name="sem_question",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=IMAGES, num_test=5000, held_out=0.0
    ),
    partition=Iid(),
    protection=CLASS_WISE,
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.05, batch_size=64, local_epochs=8, weight_decay=5e-4),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "noise": {
        "REM, 12.8 epochs, 2,000 images": use_fewer_images(make_noise(Rem, PUBLISHED, FEWER)),
        "SEM, 12.8 epochs, 2,000 images": use_fewer_images(make_noise(Sem, PUBLISHED, FEWER)),
        "SEM, 6.4 epochs, 2,000 images": use_fewer_images(make_noise(Sem, 6.4, FEWER)),
        "SEM, 3.2 epochs, 2,000 images": use_fewer_images(make_noise(Sem, 3.2, FEWER)),
        "SEM, 1.6 epochs, 2,000 images": use_fewer_images(make_noise(Sem, 1.6, FEWER)),
        "EM sample-wise, 2,000 images": use_fewer_images(SAMPLE_WISE),
        "EM class-wise, 2,000 images": use_fewer_images(CLASS_WISE),
        "SEM, 12.8 epochs": {"protection": make_noise(Sem, PUBLISHED, IMAGES)},
        "EM sample-wise": {"protection": SAMPLE_WISE},
        "EM class-wise": {},
        "REM, 1.6 epochs, 2,000 images": use_fewer_images(make_noise(Rem, 1.6, FEWER)),
    },
    "trained against": {
        "4/255": train_against(RADIUS / 4),
        "8/255": train_against(RADIUS / 2),
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU. The steps of SEM stay those of IMAGES.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
