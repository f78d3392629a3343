"""Do clean neighbours of protected colour photographs pay in membership privacy?

Run:    fl-sim sweep experiments/colour_leakage.py --precision bf16 --no-controls
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

The question of protection_and_leakage.py on the kind of images that the noise was made for. Four
fifths of each client's images are protected. Half of them, and half of the clean ones, are held out
as non-members; those of the protected part carry noise from the same generator, so that the noise
alone does not reveal membership. Two rows are comparisons: random noise, from which a model learns,
and the protected images left out, where only clean images are trained on and audited.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.contracts import Protection
from fl_sim.data.layout import Layout, Provenance
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg

RADIUS, ROUNDS = 8 / 255, 20
CLASS_WISE = ErrorMinimizing(RADIUS, form="class", batch_size=64, pass_steps=10, max_passes=15)


def protect(protection: Protection, provenance: Provenance = "shared") -> dict[str, object]:
    """Return the settings of a protection and of the origin of its noise."""
    return {"protection": protection, "layout.provenance": provenance}


EXPERIMENT = Experiment(
    name="colour_leakage",
    data=Data(dataset="cifar10", num_clients=10, num_samples=3000, num_test=2000, held_out=0.5),
    partition=Iid(),
    protection=RandomNoise(RADIUS, form="sample"),
    layout=Layout(fraction=0.8),
    client=SgdClient(learning_rate=0.03, batch_size=32, local_epochs=2),
    strategy=FedAvg(),
    evaluation=Evaluation(every=ROUNDS),
    rounds=ROUNDS,
)
AXES = {
    "noise": {
        "random": {},
        "EM class-wise": protect(CLASS_WISE),
        "EM class-wise, each client's own": protect(CLASS_WISE, "client"),
        "left out": {"protection": None, "layout.withheld": True},
    }
}
SEEDS = (0, 1, 2)
# All images and five times the rounds, with the same noise: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "rounds": 100, "evaluation.every": 100}
