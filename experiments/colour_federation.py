"""Does a client's own noise protect nobody on colour photographs, as it does on grey images?

Run:    fl-sim sweep experiments/colour_federation.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

The question of federated_protection.py on the kind of images that the noise was made for. `shared`
noise is made on the images of all clients, which no client could do alone; `owner` noise by five
groups of two clients; `client` noise by each client on its own images. Class-wise noise takes at
least ten steps a pass, so that a client's few images are no reason for weak noise. The fraction is
that of the clients: those that protect protect all their images. The grid is a star: around
class-wise EM on iid shards under FedAvg, one part changes at a time.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet, Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.trimmed_mean import TrimmedMean

RADIUS, ROUNDS = 8 / 255, 12
CLASS_WISE = ErrorMinimizing(RADIUS, form="class", batch_size=64, pass_steps=10, max_passes=15)
SAMPLE_WISE = ErrorMinimizing(
    RADIUS, batch_size=64, noise_steps=5, step_size=RADIUS / 5, max_passes=6
)

EXPERIMENT = Experiment(
    name="colour_federation",
    data=Data(dataset="cifar10", num_clients=10, num_samples=3000, num_test=2000, held_out=0.0),
    partition=Iid(),
    protection=CLASS_WISE,
    layout=Layout(fraction=1.0, unit="clients", num_owners=5),
    client=SgdClient(learning_rate=0.03, learning_rate_decay=0.9, batch_size=32),
    strategy=FedAvg(),
    evaluation=Evaluation(every=ROUNDS),
    rounds=ROUNDS,
)
AXES = {
    "noise": {
        "EM class-wise": {},
        "EM sample-wise": {"protection": SAMPLE_WISE},
        "LSP": {"protection": LinearSeparable(RADIUS, patch=8)},
    },
    "training": {
        "FedAvg": {},
        "FedAvg, Dirichlet(0.3)": {"partition": Dirichlet(0.3)},
        "trimmed mean": {"strategy": TrimmedMean(num_byzantine=2)},
        "Krum": {"strategy": Krum(num_byzantine=2)},
    },
    "layout.provenance": ["shared", "owner", "client"],
    "layout.fraction": [0.2, 0.5, 0.8, 1.0],
}


def is_centre(experiment: Experiment) -> bool:
    """Return whether an experiment is at the centre of the star."""
    parts = experiment.protection, experiment.partition, experiment.strategy
    return parts == (CLASS_WISE, Iid(), FedAvg())


SKIP = {
    "other noise is looked at on iid shards under FedAvg": lambda experiment: (
        experiment.protection != CLASS_WISE
        and (experiment.partition, experiment.strategy) != (Iid(), FedAvg())
    ),
    "noise per image costs most, and is looked at where all protect": lambda experiment: (
        experiment.protection == SAMPLE_WISE and experiment.layout.fraction < 1
    ),
    "other fractions than 0.5 and 1 are looked at in the centre": lambda experiment: (
        not is_centre(experiment) and experiment.layout.fraction in (0.2, 0.8)
    ),
    "groups of clients are looked at in the centre, and where half or all protect": (
        lambda experiment: (
            experiment.layout.provenance == "owner"
            and (not is_centre(experiment) or experiment.layout.fraction in (0.2, 0.8))
        )
    ),
}
SEEDS = (0, 1, 2)
# All images and five times the rounds, with the same noise: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "rounds": 60, "evaluation.every": 60}
