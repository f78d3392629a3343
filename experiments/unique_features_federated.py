"""Does a global model remember a mark that one image of one client carries, and after how long?

Run:    fl-sim study experiments/unique_features_federated.py

Two federations are run alike, but in one of them client 0 holds the marked image. The scores of
their global models are subtracted, round by round. Digits, scaled up, are images of another
distribution.
"""

from torch import Tensor, nn
from torch.nn import functional

from clients.sgd import SgdClient
from clients.unique_feature import UniqueFeatureClient, select_marked_row
from fl_sim import Data, Experiment
from fl_sim.attacks.memorisation import measure_memorisation
from fl_sim.contracts import AggregationRule
from fl_sim.core.perturbation import as_pixels
from fl_sim.data.partition import Iid
from fl_sim.data.sources import load_dataset
from fl_sim.experiment import Evaluation
from fl_sim.participants import Adversary
from fl_sim.runs.replay import models_by_round
from strategies.fedavg import FedAvg
from strategies.krum import MultiKrum
from strategies.median import CoordinateMedian
from strategies.norm_bounding import NormBounding
from strategies.trimmed_mean import TrimmedMean

AXES = {
    "rule": {
        "FedAvg": FedAvg(),
        "norm bounding": NormBounding(),
        "median": CoordinateMedian(),
        "trimmed mean": TrimmedMean(num_byzantine=2),
        "Multi-Krum": MultiKrum(num_byzantine=2),
    },
    "local_epochs": [1, 5],
}
SEEDS = tuple(range(8))

WATCHED = (1, 5, 10, 20)


def measure(seed: int, rule: AggregationRule, local_epochs: int) -> dict[str, float]:
    """Run both federations, and compare the reactions of their models to the mark."""
    experiment = Experiment(
        name="remembered",
        data=Data(
            dataset="fashion_mnist",
            num_clients=10,
            num_samples=500,
            num_test=500,
            held_out=0.0,
        ),
        partition=Iid(),
        client=SgdClient(learning_rate=0.05, batch_size=20, local_epochs=local_epochs),
        strategy=rule,
        adversary=Adversary(UniqueFeatureClient(), clients=(0,)),
        evaluation=Evaluation(every=max(WATCHED)),
        rounds=max(WATCHED),
        seed=seed,
    )
    with_mark = score_rounds(experiment)
    control = score_rounds(Experiment(**{**vars(experiment), "adversary": None}))
    apart = {f"round_{r}": with_mark[r] - control[r] for r in WATCHED}
    return apart | {"remembers": float(apart[f"round_{WATCHED[-1]}"] > 0)}


def score_rounds(experiment: Experiment) -> dict[int, float]:
    """Return the reaction of the global model to the mark relative to a patch, by round."""
    others = functional.interpolate(as_pixels(load_dataset("digits").train_images), (28, 28))
    scores = {}
    for federation, number, model in models_by_round(experiment):
        if number in WATCHED:
            label = int(federation.shard(0).labels[select_marked_row(federation.shard(0))])
            scores[number] = score_image(model, others, label, experiment.seed)
    return scores


def score_image(model: nn.Module, images: Tensor, label: int, seed: int) -> float:
    """Return the memorisation score with a known label."""
    return measure_memorisation(model, images, label, seed).known
