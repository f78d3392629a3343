"""Does a client's own noise protect nobody on colour photographs, as it does on grey images?

Run:    fl-sim sweep experiments/colour_federation.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

The question of federated_protection.py on the kind of images that the noise was made for. `shared`
noise is made on the images of all clients, which no client could do alone; `client` noise by each
client on its own images. Class-wise noise takes at least ten steps a pass, so that a client's few
images are no reason for weak noise.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from strategies.fedavg import FedAvg
from strategies.trimmed_mean import TrimmedMean

RADIUS, ROUNDS = 8 / 255, 12
CLASS_WISE = ErrorMinimizing(RADIUS, form="class", batch_size=64, pass_steps=10, max_passes=15)

EXPERIMENT = Experiment(
    name="colour_federation",
    data=Data(dataset="cifar10", num_clients=10, num_samples=3000, num_test=2000, held_out=0.0),
    partition=Iid(),
    protection=CLASS_WISE,
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.05, batch_size=32),
    strategy=FedAvg(),
    evaluation=Evaluation(every=ROUNDS),
    rounds=ROUNDS,
)
AXES = {
    "noise": {
        "EM class-wise": {},
        "LSP": {"protection": LinearSeparable(RADIUS, patch=8)},
    },
    "layout.provenance": ["shared", "client"],
    "training": {"FedAvg": {}, "trimmed mean": {"strategy": TrimmedMean(num_byzantine=2)}},
    "layout.fraction": [0.5, 1.0],
}
SKIP = {
    "the trimmed mean is looked at for class-wise noise on all images": lambda experiment: (
        experiment.strategy != FedAvg()
        and (experiment.layout.fraction < 1 or experiment.protection != CLASS_WISE)
    )
}
SEEDS = (0, 1, 2)
