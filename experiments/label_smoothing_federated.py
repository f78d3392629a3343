"""What does label smoothing do to accuracy, fairness and membership leakage of a federation?

Run:    fl-sim sweep experiments/label_smoothing_federated.py
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.partition import Dirichlet
from fl_sim.experiment import Evaluation, Model
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="label_smoothing_federated",
    data=Data(
        dataset="fashion_mnist", num_clients=10, num_samples=2000, num_test=2000, held_out=0.5
    ),
    partition=Dirichlet(0.5),
    client=SgdClient(learning_rate=0.05, batch_size=32, local_epochs=3),
    strategy=FedAvg(),
    evaluation=Evaluation(every=5),
    rounds=30,
)
AXES = {
    "model": [
        Model(),
        Model("efficientnet_lite0", init="pretrained", tune="head"),
    ],
    "client.label_smoothing": [-0.05, -0.01, 0.0, 0.1, 0.3],
}
SEEDS = (0, 1, 2)
