"""What do late protection, a short attack and a drop-out do to accuracy, round by round?

Run:    fl-sim run experiments/partial_schedule.py
Shows:  which clients protected, attacked and dropped out, over the accuracy curve

Half of ten clients protect their images from round 5 on. Two others are malicious in rounds 10 to
15. One of the protecting clients leaves after round 12.
"""

from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim import Adversary, AvailabilityWindow, Data, Experiment, Model, Participation
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="partial_schedule",
    data=Data(dataset="fashion_mnist", num_clients=10, num_samples=3000, num_test=2000),
    partition=Dirichlet(alpha=1.0),
    protection=ErrorMinimizing(radius=16 / 255, form="class"),
    layout=Layout(fraction=0.5, unit="clients", first_round=5),
    adversary=Adversary(
        SignFlipClient(), num_clients=2, among="clean", first_round=10, last_round=15
    ),
    participation=Participation(stays=(AvailabilityWindow(client=6, last_round=12),)),
    model=Model("small_cnn", init="random"),
    client=SgdClient(learning_rate=0.05, local_epochs=2),
    strategy=FedAvg(),
    rounds=20,
)
SEEDS = (0, 1, 2)
