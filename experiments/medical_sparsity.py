"""On chest X-rays, is noise on a few pixels worth as much as noise everywhere?

Run:    fl-sim sweep experiments/medical_sparsity.py
        with images of your own: --set data.dataset=npz --set data.path=pneumoniamnist.npz

Half of the training and of the test images show pneumonia, so that guessing gives 50 %. Noise is
compared at equal radius and, with four times the pixels at half the radius, at equal L2 bound.
Adversarial training is against attacks within half of the noise's radius.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.sparsity_masking import SparsityMasking
from strategies.fedavg import FedAvg

RADIUS, EPOCHS = 16 / 255, 10
ADVERSARY = AdversarialTraining(radius=RADIUS / 2, steps=3, step_size=2.5 / 3 * RADIUS / 2)


def make_everywhere(radius: float) -> ErrorMinimizing:
    """Return noise on all pixels."""
    return ErrorMinimizing(radius, noise_steps=5, step_size=radius / 5, max_passes=12)


def make_masked(radius: float, share: float) -> SparsityMasking:
    """Return noise on the pixels with the largest gradients."""
    return SparsityMasking(radius, share, noise_steps=5, step_size=radius / 5, max_passes=12)


EXPERIMENT = Experiment(
    name="medical_sparsity",
    # As many images as twice the healthy ones: subsets are balanced over classes.
    data=Data(
        "medmnist:pneumoniamnist", num_clients=1, num_samples=776, num_test=468, held_out=0.0
    ),
    partition=Iid(),
    protection=make_everywhere(RADIUS),
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.02, learning_rate_decay=0.8, batch_size=32, weight_decay=5e-4),
    strategy=FedAvg(),
    evaluation=Evaluation(every=EPOCHS),
    rounds=EPOCHS,
)
AXES = {
    "noise": {
        "everywhere (EM)": {},
        "everywhere, half the radius": {"protection": make_everywhere(RADIUS / 2)},
        **{
            f"on {share:.0%} of the pixels": {"protection": make_masked(RADIUS, share)}
            for share in (0.05, 0.1, 0.25, 0.5)
        },
        "on 25% of the pixels, twice the radius": {"protection": make_masked(2 * RADIUS, 0.25)},
    },
    "training": {
        "standard": {},
        "adversarial": {"client.countermeasures": (ADVERSARY,)},
    },
}
SEEDS = (0, 1, 2, 3, 4)
# All images, three in four with pneumonia, as the papers train: hours without a GPU.
FULL = {
    "data.num_samples": None,
    "data.num_test": None,
    "client.learning_rate_decay": 0.95,
    "rounds": 60,
}
