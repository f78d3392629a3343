"""How does SEM's protection depend on its steps, its transforms and its random radius?

Run:    fl-sim sweep experiments/sem_sensitivity.py

One client holds all images and trains once, adversarially, at a quarter of the noise's radius. One
setting is changed at a time, starting from half of the paper's 12.8 epochs (300 steps).
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

RADIUS, STEPS = 16 / 255, 3
USUAL = {"surrogate_steps": 150, "transforms": 3}


def change_sem(**changed: float) -> dict[str, object]:
    """Return SEM with some settings changed."""
    return {"protection": StableErrorMinimizing(radius=RADIUS, **{**USUAL, **changed})}


EXPERIMENT = Experiment(
    name="sem_sensitivity",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=3000, num_test=3000, held_out=0.0
    ),
    partition=Iid(),
    protection=StableErrorMinimizing(radius=RADIUS, **USUAL),
    layout=Layout(fraction=1.0),
    client=SgdClient(
        learning_rate=0.05,
        batch_size=64,
        local_epochs=8,
        weight_decay=5e-4,
        countermeasures=(
            AdversarialTraining(RADIUS / 4, steps=STEPS, step_size=2.5 / STEPS * RADIUS / 4),
        ),
    ),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "SEM": {
        **{f"M = {m}": change_sem(surrogate_steps=m) for m in (50, 150, 300)},
        **{f"J = {j}": change_sem(transforms=j) for j in (1, 5)},
        **{f"rho_r = {s:g} rho_a": change_sem(random_radius=s * RADIUS / 2) for s in (0.5, 2.0)},
    }
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
