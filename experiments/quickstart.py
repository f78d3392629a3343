"""What does protecting images cost, and what does a foundation model change?

Run:    make quickstart        (or: fl-sim sweep experiments/quickstart.py)
Takes:  see quickstart.expected.json, which also has the expected results
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavg import FedAvg
from strategies.trimmed_mean import TrimmedMean

EXPERIMENT = Experiment(
    name="quickstart",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=3000, num_test=2000),
    partition=Dirichlet(alpha=0.5),
    # Fewer surrogate steps a pass and no early stop give stronger noise on these images than
    # the paper's settings for photographs, which partial_poison.py keeps.
    protection=ErrorMinimizing(
        radius=16 / 255, form="class", surrogate_steps=2, stop_error=0.0, max_passes=40
    ),
    layout=Layout(fraction=0.5, unit="samples"),
    model=Model("efficientnet_lite0", init="pretrained", tune="head"),
    client=SgdClient(learning_rate=0.05, local_epochs=3),
    strategy=FedAvg(),
    rounds=8,
)
AXES = {
    "model": [
        Model("efficientnet_lite0", init="pretrained", tune="head"),
        Model("small_cnn", init="random"),
    ],
    "layout.fraction": [0.0, 0.5, 1.0],
    "strategy": [FedAvg(), TrimmedMean(num_byzantine=2)],
}
SEEDS = (0, 1, 2)
