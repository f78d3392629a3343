"""Does a backdoor of the start model survive a federation in which nobody attacks?

Run:    fl-sim sweep experiments/inherited_backdoor.py
Shows:  the success of the start and of the end and the half-life, by trained part and by rule

The start model is trained on 4,000 images that no client holds. Either a twentieth of them is
blended with a picture and labelled as class 0, or images blended with it are trained to have the
features of class 0. Ten honest clients then train the head, the last block and the head, or
everything, or their statistics give a head in one round. Rules that look for malicious updates meet
none.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.partition import Dirichlet
from fl_sim.experiment import CLOSED_FORM
from fl_sim.planted.backdoor import PlantedBackdoor
from fl_sim.planted.latent_backdoor import LatentBackdoor
from fl_sim.triggers import Blend
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.trimmed_mean import TrimmedMean

TRIGGER, NUM_IMAGES = Blend(strength=0.1), 4000
LABELS = PlantedBackdoor(TRIGGER, share=0.05, num_images=NUM_IMAGES)
FEATURES = LatentBackdoor(TRIGGER, num_images=NUM_IMAGES)

EXPERIMENT = Experiment(
    name="inherited_backdoor",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=1000, num_test=1000),
    partition=Dirichlet(alpha=1.0),
    model=Model("small_cnn", init="planted", planted=LABELS),
    client=SgdClient(learning_rate=0.05, batch_size=16, local_epochs=2),
    strategy=FedAvg(),
    rounds=12,
)
AXES = {
    "planted": {"labels": {"model.planted": LABELS}, "features": {"model.planted": FEATURES}},
    "model.tune": ["head", "ridge", "ncm", "last_block", "full"],
    "strategy": [FedAvg(), TrimmedMean(num_byzantine=2), Krum(num_byzantine=2)],
}
SEEDS = (0, 1, 2)


def has_other_rule(experiment: Experiment) -> bool:
    """Return whether another rule than FedAvg is to meet features, or a head of one round."""
    rule = getattr(experiment.strategy, "rule", experiment.strategy)
    is_first = experiment.model.planted == LABELS and experiment.model.tune not in CLOSED_FORM
    return rule != FedAvg() and not is_first


SKIP = {"rules are compared on parts that are trained, after wrong labels": has_other_rule}
