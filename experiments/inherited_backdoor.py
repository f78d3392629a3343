"""Does a backdoor of the start model survive a federation in which nobody attacks?

Run:    fl-sim sweep experiments/inherited_backdoor.py
Shows:  the success of the start and of the end and the half-life, by trained part and by rule

The start model is trained on 4,000 images that no client holds, a twentieth of them blended with a
picture and labelled as class 0. Ten honest clients then train the head, the last block and the
head, or everything. Rules that look for malicious updates meet none.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.partition import Dirichlet
from fl_sim.planted.backdoor import PlantedBackdoor
from fl_sim.triggers import Blend
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.trimmed_mean import TrimmedMean

EXPERIMENT = Experiment(
    name="inherited_backdoor",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=1000, num_test=1000),
    partition=Dirichlet(alpha=1.0),
    model=Model(
        "small_cnn",
        init="planted",
        planted=PlantedBackdoor(Blend(strength=0.1), share=0.05, num_images=4000),
    ),
    client=SgdClient(learning_rate=0.05, batch_size=16, local_epochs=2),
    strategy=FedAvg(),
    rounds=12,
)
AXES = {
    "model.tune": ["head", "last_block", "full"],
    "strategy": [FedAvg(), TrimmedMean(num_byzantine=2), Krum(num_byzantine=2)],
}
SEEDS = (0, 1, 2)
