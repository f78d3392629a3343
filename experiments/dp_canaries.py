"""Does an estimate from canaries agree with the accounted epsilon?

Run:    fl-sim study experiments/dp_canaries.py

A fifth of the clients are canaries, which send random directions as long as the rule allows.
Epsilon is accounted for clients that take part in every round, and estimated from the cosines of
the canaries with the change of the global model, which is all that is released.
"""

import torch

from clients.canary import CanaryClient
from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.attacks.canaries import canary_epsilon, draw_canary, gaussian_epsilon
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation, Model
from fl_sim.federation.federation import load_federation
from fl_sim.participants import Adversary
from fl_sim.runs.replay import replay
from strategies.differential_privacy import DifferentialPrivacy

AXES = {"noise_multiplier": [2.0, 5.0, 10.0, 20.0]}
SEEDS = (0, 1, 2)

CLIENTS, CANARIES, ROUNDS, CLIP, DELTA = 500, 100, 20, 0.5, 1e-5


def measure(seed: int, noise_multiplier: float) -> dict[str, float]:
    """Run a private federation with canaries, and detect them in its final model."""
    rule = DifferentialPrivacy(clipping_norm=CLIP, noise_multiplier=noise_multiplier, delta=DELTA)
    federation = load_federation(
        Experiment(
            name="with_canaries",
            data=Data(
                dataset="fashion_mnist",
                num_clients=CLIENTS,
                num_samples=10 * CLIENTS,
                num_test=1000,
                held_out=0.0,
            ),
            partition=Iid(),
            model=Model("efficientnet_lite0", init="pretrained", tune="head"),
            client=SgdClient(learning_rate=0.02, batch_size=10, local_epochs=2),
            strategy=rule,
            adversary=Adversary(CanaryClient(length=CLIP, seed=seed), clients=list_canaries()),
            evaluation=Evaluation(every=ROUNDS),
            rounds=ROUNDS,
            seed=seed,
        ).to_json()
    )
    for state in (outcome.state for outcome in replay(federation)):
        end = state.parameters
    change = (end - federation.start).double()
    directions = torch.stack([draw_canary(c, len(change), seed) for c in list_canaries()]).double()
    cosines = directions @ change / change.norm()
    return {
        "accounted_epsilon": gaussian_epsilon(ROUNDS**0.5 / noise_multiplier, DELTA),
        "estimated_epsilon": canary_epsilon(cosines, len(change), DELTA),
        "mean_cosine": float(cosines.mean()),
    }


def list_canaries() -> tuple[int, ...]:
    """Return the numbers of the canaries."""
    return tuple(range(CANARIES))
