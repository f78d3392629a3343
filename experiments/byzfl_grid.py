"""What does ByzFL's own benchmark grid give in this testbed: rules against attacks?

Run:    fl-sim sweep experiments/byzfl_grid.py
Shows:  a heat map of rules against attacks, and the worst case of each rule

Distributed SGD as in ByzFL (2025), https://arxiv.org/abs/2505.24802: in every round ten honest
clients take one step on 25 images each and send a momentum of their gradients; three attackers
beside them hold no images. The server takes the rule's step at learning rate 0.1 with weight decay.
"""

from clients.alie import AlieClient
from clients.ipm import IpmClient
from clients.joint_label_flip import JointLabelFlipClient
from clients.sgd import SgdClient
from clients.worker_momentum import WorkerMomentumClient
from fl_sim import Adversary, Data, Evaluation, Experiment, Model
from fl_sim.contracts import AggregationRule, Client
from fl_sim.data.partition import Dirichlet, Iid
from strategies.centered_clipping import CenteredClipping
from strategies.fedavg import FedAvg
from strategies.krum import MultiKrum
from strategies.nnm import NearestNeighborMixing
from strategies.server_momentum import ServerMomentum
from strategies.trimmed_mean import TrimmedMean

ATTACKERS = 3
# At rate 1, an update is the opposite of a gradient; the rate of the model is the server's.
GRADIENT = SgdClient(learning_rate=1.0, momentum=0.0, batch_size=25, local_steps=1)


def add_server_momentum(rule: AggregationRule) -> ServerMomentum:
    """Return a rule followed by the server optimiser of ByzFL's benchmark."""
    return ServerMomentum(momentum=0.0, server_learning_rate=0.1, weight_decay=1e-4, rule=rule)


def make_adversary(attack: Client) -> Adversary:
    """Return the attackers, which are added to the honest clients."""
    return Adversary(attack, num_clients=ATTACKERS, beside=True)


EXPERIMENT = Experiment(
    name="byzfl_grid",
    data=Data(dataset="fashion_mnist", num_clients=10, held_out=0.0),
    partition=Iid(),
    model=Model("fc"),
    client=WorkerMomentumClient(momentum=0.9, training=GRADIENT),
    strategy=add_server_momentum(FedAvg(weighted=False)),
    evaluation=Evaluation(every=200),
    rounds=200,
)
RULES: dict[str, AggregationRule] = {
    "average": FedAvg(weighted=False),
    "trimmed mean": TrimmedMean(num_byzantine=ATTACKERS),
    "Multi-Krum": MultiKrum(num_byzantine=ATTACKERS),
    "NNM + trimmed mean": NearestNeighborMixing(ATTACKERS, TrimmedMean(num_byzantine=ATTACKERS)),
    "centred clipping": CenteredClipping(),
}
ATTACKS = {
    "no attack": None,
    "IPM": make_adversary(IpmClient(scale=2.0)),
    "ALIE": make_adversary(AlieClient(deviations=1.5)),
    "label flip": make_adversary(JointLabelFlipClient(honest=GRADIENT)),
}
AXES = {
    "partition": [Iid(), Dirichlet(alpha=0.3)],
    "strategy": {name: {"strategy": add_server_momentum(rule)} for name, rule in RULES.items()},
    "adversary": {name: {"adversary": attack} for name, attack in ATTACKS.items()},
}
SEEDS = (0, 1, 2)
