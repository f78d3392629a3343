"""Where do a foundation model and a small network cross in fairness, as classes get more uneven?

Run:    fl-sim sweep experiments/fm_fairness.py
Takes:  see fm_fairness.expected.json

Each client also trains alone for as many rounds, which gives its benefit from taking part.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.partition import Dirichlet
from fl_sim.experiment import Evaluation
from strategies.fedavg import FedAvg

SGD = SgdClient(learning_rate=0.05, local_epochs=1)
SLOW = SgdClient(learning_rate=0.005, local_epochs=1)  # suits a head alone; found on other seeds
LITE0 = "efficientnet_lite0"

EXPERIMENT = Experiment(
    name="fm_fairness",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=2000, num_test=2000),
    partition=Dirichlet(alpha=0.5, min_size=4),
    client=SGD,
    strategy=FedAvg(),
    evaluation=Evaluation(every=5, alone=SGD),
    rounds=15,
)
AXES = {
    "model": {
        "small CNN, from scratch": {"model": Model("small_cnn")},
        "random head": {
            "model": Model(LITE0, init="random", tune="head"),
            "client": SLOW,
            "evaluation.alone": SLOW,
        },
        "foundation head": {
            "model": Model(LITE0, init="pretrained", tune="head"),
            "client": SLOW,
            "evaluation.alone": SLOW,
        },
        "foundation ridge": {"model": Model(LITE0, init="pretrained", tune="ridge")},
    },
    "partition.alpha": [0.05, 0.1, 0.3, 0.5, 1.0, 10.0],
}
SEEDS = (0, 1, 2, 3, 4)
