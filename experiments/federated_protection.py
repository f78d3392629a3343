"""What is protection worth in a federation: whose noise, on which images, under which training?

Run:    fl-sim sweep experiments/federated_protection.py

Error-minimising noise, class-wise. `shared` noise is made on the images of all clients, which no
client could do alone; `owner` noise by five groups of two clients; `client` noise by each client on
its own images.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet, Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavg import FedAvg
from strategies.trimmed_mean import TrimmedMean

EXPERIMENT = Experiment(
    name="federated_protection",
    data=Data(
        dataset="fashion_mnist", num_clients=10, num_samples=4000, num_test=2000, held_out=0.2
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=16 / 255, form="class"),
    layout=Layout(fraction=1.0, num_owners=5),
    client=SgdClient(learning_rate=0.05, batch_size=32),
    strategy=FedAvg(),
    evaluation=Evaluation(every=3),
    rounds=12,
)
AXES = {
    "layout.provenance": ["shared", "owner", "client"],
    "layout.unit": ["samples", "clients"],
    "partition": [Iid(), Dirichlet(0.3)],
    "training": {
        "FedAvg, 1 epoch": {},
        "FedAvg, 4 epochs": {  # as many in all
            "client": SgdClient(learning_rate=0.05, batch_size=32, local_epochs=4),
            "rounds": 3,
        },
        "trimmed mean, 1 epoch": {"strategy": TrimmedMean(num_byzantine=2)},
    },
    "layout.fraction": [0.5, 1.0],
}
SEEDS = (0, 1, 2)
