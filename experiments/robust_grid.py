"""Which aggregation rule loses least to its worst attack, with equal and with unlike clients?

Run:    fl-sim sweep experiments/robust_grid.py
Shows:  a heat map of rules against attacks, and the worst case of each rule

Two of ten clients attack in every round, and every rule with a number of attackers is given two.
The optimised attacks evaluate the rule itself to find what harms it most.
"""

from clients.label_flip import LabelFlipClient
from clients.min_max import MinMaxClient
from clients.optimal_alie import OptimalAlieClient
from clients.optimal_ipm import OptimalIpmClient
from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim import Adversary, Data, Evaluation, Experiment, Model
from fl_sim.data.partition import Dirichlet, Iid
from strategies.fedavg import FedAvg
from strategies.geometric_median import GeometricMedian
from strategies.krum import MultiKrum
from strategies.median import CoordinateMedian
from strategies.nnm import NearestNeighborMixing
from strategies.trimmed_mean import TrimmedMean

ATTACKERS = 2

EXPERIMENT = Experiment(
    name="robust_grid",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=1600, num_test=1000),
    partition=Iid(),
    model=Model("small_cnn", init="random", norm="group"),
    client=SgdClient(learning_rate=0.05, local_epochs=1),
    strategy=FedAvg(),
    evaluation=Evaluation(every=4),
    rounds=8,
)
AXES = {
    "partition": [Iid(), Dirichlet(alpha=0.5)],
    "strategy": [
        FedAvg(),
        CoordinateMedian(),
        TrimmedMean(num_byzantine=ATTACKERS),
        MultiKrum(num_byzantine=ATTACKERS),
        GeometricMedian(),
        NearestNeighborMixing(ATTACKERS, TrimmedMean(num_byzantine=ATTACKERS)),
    ],
    "adversary": [
        None,
        Adversary(LabelFlipClient(), num_clients=ATTACKERS),
        Adversary(SignFlipClient(), num_clients=ATTACKERS),
        Adversary(MinMaxClient(), num_clients=ATTACKERS),
        Adversary(OptimalAlieClient(), num_clients=ATTACKERS),
        Adversary(OptimalIpmClient(), num_clients=ATTACKERS),
    ],
}
SEEDS = (0, 1, 2)
