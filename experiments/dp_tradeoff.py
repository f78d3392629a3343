"""What does differential privacy cost, and what does it take away from a membership attack?

Run:    fl-sim sweep experiments/dp_tradeoff.py

Compares no privacy, noise on single images (DP-SGD) and noise on whole clients. Epsilon needs
dp-accounting: `pip install 'fl-sim[dp]'`.
"""

from clients.dp_sgd import DpSgdClient
from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.partition import Dirichlet
from fl_sim.experiment import Evaluation, Model
from strategies.differential_privacy import DifferentialPrivacy
from strategies.fedavg import FedAvg

RATE, BATCH, EPOCHS = 0.05, 32, 2


def protect_images(noise: float) -> dict[str, object]:
    """Return the settings of SGD with per-image clipping and noise."""
    return {
        "client": DpSgdClient(
            clipping_norm=1.0,
            noise_multiplier=noise,
            learning_rate=10 * RATE,  # clipped gradients are short
            batch_size=BATCH,
            local_epochs=EPOCHS,
        )
    }


def protect_clients(noise: float) -> dict[str, object]:
    """Return the settings of per-client clipping and noise on the sum of the updates."""
    return {"strategy": DifferentialPrivacy(clipping_norm=0.5, noise_multiplier=noise)}


EXPERIMENT = Experiment(
    name="dp_tradeoff",
    data=Data(dataset="fashion_mnist", num_clients=20, num_samples=4000, num_test=2000),
    partition=Dirichlet(0.5),
    model=Model("efficientnet_lite0", init="pretrained", tune="head"),
    client=SgdClient(learning_rate=RATE, batch_size=BATCH, local_epochs=EPOCHS),
    strategy=FedAvg(),
    evaluation=Evaluation(every=5),
    rounds=20,
)
AXES = {
    "privacy": {
        "none": {},
        **{f"images, noise {noise:g}": protect_images(noise) for noise in (0.0, 0.5, 1.0, 2.0)},
        **{f"clients, noise {noise:g}": protect_clients(noise) for noise in (0.0, 0.1, 0.5, 2.0)},
    }
}
SEEDS = (0, 1, 2)
