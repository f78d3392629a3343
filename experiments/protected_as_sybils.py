"""Do clients that protect alike look like sybils to one kind of rule, and easy to another?

Run:    fl-sim sweep experiments/protected_as_sybils.py
Shows:  the accuracy of protected, clean and attacking clients, rule by rule

Four of ten clients add class-wise noise to their images, all the same or each its own. Two others
are real sybils: both label ankle boots as sneakers. Rules that compare updates (FoolsGold, FLAME,
Multi-Krum) may reject the protecting clients. Rules that use losses (q-FedAvg, AFL) may take
clients whose noise makes their images easy for those that need least help.
"""

from clients.label_flip import LabelFlipClient
from clients.sgd import SgdClient
from fl_sim import Adversary, Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.afl import AFL
from strategies.fedavg import FedAvg
from strategies.flame import FLAME
from strategies.foolsgold import FoolsGold
from strategies.krum import MultiKrum
from strategies.q_fedavg import QFedAvg

SNEAKER, ANKLE_BOOT = 7, 9

EXPERIMENT = Experiment(
    name="protected_as_sybils",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=2000, num_test=1000),
    partition=Dirichlet(alpha=1.0),
    protection=ErrorMinimizing(radius=16 / 255, form="class"),
    layout=Layout(fraction=0.4, unit="clients"),
    adversary=Adversary(
        LabelFlipClient("targeted", source=ANKLE_BOOT, target=SNEAKER),
        num_clients=2,
        among="clean",
    ),
    model=Model("small_cnn", init="random", norm="group"),
    client=SgdClient(learning_rate=0.05, local_epochs=2),
    strategy=FedAvg(),
    rounds=8,
)
AXES = {
    "layout.provenance": ["shared", "client"],
    "strategy": [
        FedAvg(),
        FoolsGold(),
        FLAME(),
        MultiKrum(num_byzantine=2),
        # With a momentum of 0.9, local steps are about ten times their learning rate.
        QFedAvg(q=1.0, client_learning_rate=0.5),
        AFL(),
    ],
    "layout.fraction": [0.0, 0.4],
}
SEEDS = (0, 1, 2)
