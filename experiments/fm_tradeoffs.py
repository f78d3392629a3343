"""What does a foundation model buy in federated learning, and what does it cost?

Run:    fl-sim sweep experiments/fm_tradeoffs.py        (at most 20 minutes on two cores)
        fl-sim tradeoffs runs/fm_tradeoffs --x bytes --y accuracy --y worst_client --y auc
Photos: --set data.dataset=npz --set data.path=FILE (docs/foundation_models.md, section The study)

Every start and tuning is run in a base setting and with one change at a time: more even or more
uneven classes, protected images, a robust rule, an attack. The median is also crossed with the
unevenness of classes, since that is where its cost shows.
"""

from clients.backdoor import BackdoorClient
from clients.label_flip import LabelFlipClient
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet
from fl_sim.experiment import Evaluation
from fl_sim.participants import Adversary
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.median import CoordinateMedian

LITE0, ALPHA = "efficientnet_lite0", 0.5

EXPERIMENT = Experiment(
    name="fm_tradeoffs",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=1000, num_test=1000),
    partition=Dirichlet(alpha=ALPHA, min_size=4),
    protection=ErrorMinimizing(
        radius=16 / 255, form="class", surrogate_steps=2, stop_error=0.0, max_passes=40
    ),
    layout=Layout(fraction=0.0, unit="samples"),
    model=Model(LITE0, init="pretrained", tune="head"),
    client=SgdClient(learning_rate=0.05, batch_size=32, local_epochs=1),
    strategy=FedAvg(),
    evaluation=Evaluation(every=2),
    rounds=8,
)
AXES = {
    "backbone": {
        "EfficientNet-Lite0": {"model.backbone": LITE0},
        "small CNN": {"model.backbone": "small_cnn"},
    },
    "init": {
        "pretrained": {"model.init": "pretrained"},
        "random": {"model.init": "random"},
    },
    "tune": {  # with the learning rate that suits it, chosen on other seeds
        "ncm": {"model.tune": "ncm"},
        "ridge": {"model.tune": "ridge"},
        "head": {"model.tune": "head", "client.learning_rate": 0.005},
        "lora": {"model.tune": "lora"},
        "full": {"model.tune": "full", "client.learning_rate": 0.02},
    },
    "partition.alpha": [0.1, ALPHA, 10.0],
    "layout.fraction": [0.0, 0.5, 1.0],
    "strategy": [FedAvg(), CoordinateMedian(), Krum(num_byzantine=2)],
    "attack": {
        "none": {"adversary": None},
        "label flip": {"adversary": Adversary(client=LabelFlipClient(), num_clients=2)},
        "backdoor": {"adversary": Adversary(client=BackdoorClient(), num_clients=2)},
    },
}
SEEDS = (0, 1, 2)


def list_changes(experiment: Experiment) -> list[str]:
    """Return the fields in which an experiment differs from the base setting."""
    rule = getattr(experiment.strategy, "rule", experiment.strategy)
    changed = {
        "alpha": experiment.partition != EXPERIMENT.partition,
        "fraction": experiment.layout.fraction > 0,
        "rule": rule != FedAvg(),
        "attack": experiment.adversary is not None,
    }
    return [name for name, differs in changed.items() if differs]


def is_other_network(experiment: Experiment) -> bool:
    """Return whether the small CNN is to be other than trained whole from scratch."""
    model = experiment.model
    return model.backbone != LITE0 and (model.init, model.tune) != ("random", "full")


def is_expensive(experiment: Experiment) -> bool:
    """Return whether a whole foundation model would be trained under a change of little interest.

    It takes most of the time, so it is run in the base setting, protected and attacked; from a
    random start, from which it learns little in so few rounds, in the base setting alone.
    """
    model, changes = experiment.model, list_changes(experiment)
    if model.backbone != LITE0 or model.tune != "full" or not changes:
        return False
    of_interest = changes == ["attack"] or experiment.layout.fraction == 1.0
    return model.init == "random" or not of_interest


SKIP = {
    "the small CNN is the comparison: trained whole, from scratch": is_other_network,
    "one change at a time, except for the median under uneven classes": lambda experiment: (
        len(list_changes(experiment)) > 1
        and not (
            list_changes(experiment) == ["alpha", "rule"]
            and "CoordinateMedian" in str(experiment.strategy)
        )
    ),
    "a whole network of this size takes most of the time: base, protected, attacked": is_expensive,
}
