"""What do late protection, flipped labels, an absence and a change of rule leave of accuracy?

Run:    fl-sim run experiments/who_does_what.py --seeds 0,1,2
"""

from clients.label_flip import LabelFlipClient
from clients.sgd import SgdClient
from fl_sim import Absent, Adversary, Data, Experiment, Protects, Scenario
from fl_sim.protections.random_noise import RandomNoise
from strategies.krum import Krum
from strategies.stages import Stages
from strategies.trimmed_mean import TrimmedMean

EXPERIMENT = Experiment(
    name="who_does_what",
    data=Data(dataset="digits", num_clients=10, num_samples=1000, num_test=300),
    client=SgdClient(),
    **Scenario(
        Protects(clients=(0, 1, 2, 3), fraction=0.7, protection=RandomNoise(16 / 255)),
        Protects(clients=(4,), first_round=5, protection=RandomNoise(32 / 255)),
        Adversary(LabelFlipClient(), clients=(7,), first_round=3, last_round=6),
        Absent(clients=(9,), first_round=4, last_round=5),
        Stages((1, TrimmedMean(2)), (6, Krum(1))),
    ).fields(),
)
