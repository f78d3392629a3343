"""Does noise that was made with one network harm another?

Run:    fl-sim sweep experiments/architecture_transfer.py

One client holds all images and trains once, which is central training. Add wrn34_10 and the other
large networks on a machine that can train them.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from strategies.fedavg import FedAvg

RADIUS = 16 / 255


def use_surrogate(surrogate: Model) -> dict[str, object]:
    """Return the settings of class-wise noise made with another network."""
    return {"protection": ErrorMinimizing(radius=RADIUS, form="class", surrogate=surrogate)}


EXPERIMENT = Experiment(
    name="architecture_transfer",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=5000, num_test=5000, held_out=0.0
    ),
    partition=Iid(),
    protection=ErrorMinimizing(radius=RADIUS, form="class"),
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.05, batch_size=64, local_epochs=8, weight_decay=5e-4),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "noise": {
        "EM": {},
        "EM of an MLP": use_surrogate(Model("mlp")),
        "EM of a GroupNorm CNN": use_surrogate(Model("small_cnn", norm="group")),
        "LSP": {"protection": LinearSeparable(radius=12 / 255)},
    },
    "on": {
        "small CNN": {},
        "small CNN with GroupNorm": {"model": Model("small_cnn", norm="group")},
        "MLP": {"model": Model("mlp")},
        "McMahan CNN": {"model": Model("mcmahan_cnn")},
        "linear": {"model": Model("linear")},
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
