"""Does SEM protect better than REM, and REM better than EM, where the trainer trains adversarially?

Run:    fl-sim sweep experiments/sem_question.py
One client holds everything and trains once: this is central training. SEM and REM take the steps
of their papers, 12.8 epochs of batches, and fewer: the curve over the steps. REM takes an hour of
one core for each seed.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS = 16 / 255  # of the noise
STEPS = 3  # of the attack; each of 2.5 / 3 of its radius
IMAGES, BATCH = 4000, 128
PUBLISHED = round(12.8 * IMAGES / BATCH)  # batches of the surrogate
FEWER = [PUBLISHED // part for part in (8, 4, 2)]


def stable(steps: int) -> dict[str, object]:
    """Return SEM after so many steps."""
    noise = StableErrorMinimizing(radius=RADIUS, batch_size=BATCH, surrogate_steps=steps)
    return {"protection": noise}


def robust(steps: int) -> dict[str, object]:
    """Return REM after so many steps."""
    noise = RobustErrorMinimizing(radius=RADIUS, batch_size=BATCH, surrogate_steps=steps)
    return {"protection": noise}


def trained_against(radius: float) -> dict[str, object]:
    """Return training on the worst images within a radius."""
    attack = AdversarialTraining(radius, steps=STEPS, step_size=2.5 / STEPS * radius)
    return {"client.countermeasures": (attack,)}


EXPERIMENT = Experiment(
    name="sem_question",
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
        "EM class-wise": {},
        "EM sample-wise": {
            "protection": ErrorMinimizing(
                radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5
            )
        },
        **{f"SEM, {steps} steps": stable(steps) for steps in (*FEWER, PUBLISHED)},
        **{f"REM, {steps} steps": robust(steps) for steps in (FEWER[0], PUBLISHED)},
    },
    "trained against": {
        "4/255": trained_against(RADIUS / 4),
        "8/255": trained_against(RADIUS / 2),
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours a cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
