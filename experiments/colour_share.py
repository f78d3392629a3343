"""What are protected colour photographs worth to a central trainer who has clean ones, too?

Run:    fl-sim sweep experiments/colour_share.py --precision bf16
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

Noise and training are those of colour_protection.py; images are protected at random.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from strategies.fedavg import FedAvg

RADIUS, IMAGES, EPOCHS = 8 / 255, 10_000, 6
NETWORK = Model("resnet9", width=8)

EXPERIMENT = Experiment(
    name="colour_share",
    data=Data(dataset="cifar10", num_clients=1, num_samples=IMAGES, num_test=10_000, held_out=0.0),
    partition=Iid(),
    protection=ErrorMinimizing(RADIUS, form="class", surrogate=NETWORK, learning_rate=0.01),
    layout=Layout(fraction=1.0),
    model=NETWORK,
    client=SgdClient(
        learning_rate=0.01,
        learning_rate_decay=0.6,
        batch_size=64,
        weight_decay=5e-4,
    ),
    strategy=FedAvg(),
    evaluation=Evaluation(every=EPOCHS),
    rounds=EPOCHS,
)
AXES = {
    "layout.fraction": [0.2, 0.5, 0.8, 0.9],
    "noise": {
        "EM class-wise": {},
        "LSP": {"protection": LinearSeparable(RADIUS, patch=8)},
    },
}
SEEDS = (0, 1, 2)
# All images, the published width and ten times the rounds, with the same noise: hours per cell
# without a GPU.
FULL = {
    "data.num_samples": None,
    "model.width": None,
    "client.learning_rate_decay": 0.93,
    "rounds": 10 * EPOCHS,
}
