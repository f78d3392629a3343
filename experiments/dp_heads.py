"""What do heads with differential privacy for single images cost at a given epsilon?

Run:    fl-sim sweep experiments/dp_heads.py

Every client takes one step a round on all its images, so that the accountant is exact. Noise is
solved from epsilon, for all rounds together and a delta of 1e-5; epsilon needs dp-accounting:
`pip install 'fl-sim[dp]'`. The learning rate was chosen on these images, which epsilon leaves out.

Heads by ridge regression are solved in one round from clients' noisy statistics. All features are
clipped to one length, which was chosen on these images too.
"""

from clients.dp_sgd import DpSgdClient
from clients.sgd import SgdClient
from clients.statistics import StatisticsClient
from fl_sim import Data, Experiment, Model
from fl_sim.contracts import Draw
from fl_sim.data.partition import Shards
from fl_sim.experiment import Evaluation
from fl_sim.privacy.accounting import solve_noise_multiplier
from strategies.fedavg import FedAvg

ROUNDS, DELTA = 20, 1e-5
RATE = 1.0  # clipped gradients are short
EPSILONS = (1.0, 2.0, 4.0, 8.0)
WHOLE = Draw(1, 1)  # every image takes part in every step
LENGTH = 10.0  # of the features of an image, shorter than those of any
BATCH = 320  # more than the images of any client, which has about 300


def train_privately(noise_multiplier: float) -> dict[str, object]:
    """Return the settings of a head that is trained with clipping and noise."""
    return {
        "client": DpSgdClient(
            clipping_norm=1.0,
            noise_multiplier=noise_multiplier,
            learning_rate=RATE,
            batch_size=BATCH,
            delta=DELTA,
        )
    }


def solve_privately(clipping_norm: float | None, noise_multiplier: float) -> dict[str, object]:
    """Return the settings of a head that is solved from statistics with clipping and noise."""
    client = StatisticsClient(clipping_norm, noise_multiplier, DELTA)
    return {"model.tune": "ridge", "client": client}


EXPERIMENT = Experiment(
    name="dp_heads",
    data=Data(dataset="fashion_mnist", num_clients=5, num_samples=2000, num_test=2000),
    partition=Shards(classes_per_client=4),
    model=Model("efficientnet_lite0", init="pretrained", tune="head"),
    client=SgdClient(learning_rate=0.01, batch_size=32, local_epochs=1),
    strategy=FedAvg(),
    evaluation=Evaluation(every=20),
    rounds=ROUNDS,
)
AXES = {
    "privacy": {
        "none": {},
        "clipping": train_privately(0.0),
        **{
            f"epsilon {epsilon:g}": train_privately(
                solve_noise_multiplier(epsilon, WHOLE, ROUNDS, DELTA)
            )
            for epsilon in EPSILONS
        },
        "ridge": solve_privately(None, 0.0),
        **{
            f"ridge, epsilon {epsilon:g}": solve_privately(
                LENGTH, solve_noise_multiplier(epsilon, WHOLE, 1, DELTA)
            )
            for epsilon in EPSILONS
        },
    }
}
SEEDS = (0, 1, 2)
