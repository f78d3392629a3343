"""Does noise that takes a small network's accuracy take that of a foundation model as well?

Run:    fl-sim sweep experiments/colour_foundation.py
        with images of your own: --set data.dataset=npz --set data.path=cifar10.npz

Ten clients, all of which protect all their images with one noise, made without the foundation
model: EM with the small CNN, LSP and CUDA without a network. They train a small CNN from scratch,
or the head or low-rank adapters (LoRA) of an EfficientNet-Lite0 with pretrained weights.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.protections.convolution import Convolution
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from strategies.fedavg import FedAvg

RADIUS, ROUNDS = 8 / 255, 6
LITE0 = "efficientnet_lite0"

EXPERIMENT = Experiment(
    name="colour_foundation",
    data=Data(dataset="cifar10", num_clients=10, num_samples=1000, num_test=1000, held_out=0.0),
    partition=Iid(),
    protection=ErrorMinimizing(RADIUS, form="class", batch_size=64, pass_steps=10, max_passes=15),
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.03, batch_size=16),
    strategy=FedAvg(),
    evaluation=Evaluation(every=ROUNDS),
    rounds=ROUNDS,
)
AXES = {
    "noise": {
        "EM class-wise": {},
        "LSP": {"protection": LinearSeparable(RADIUS, patch=8)},
        "CUDA": {"protection": Convolution()},
    },
    "trained": {
        "small CNN": {"client.local_epochs": 3, "rounds": 12, "evaluation.every": 12},
        "head": {"model": Model(LITE0, "pretrained", "head"), "client.local_epochs": 3},
        "LoRA": {"model": Model(LITE0, "pretrained", "lora"), "client.learning_rate": 0.01},
    },
}
SEEDS = (0, 1, 2)
# All images: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None}
