"""Do filters or augmentations of the training images restore what protection takes?

Run:    fl-sim sweep experiments/low_pass.py

One client holds all images and trains once, which is central training. Test images are unchanged.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.countermeasures.bit_depth import BitDepth
from fl_sim.countermeasures.crop_flip import CropFlip
from fl_sim.countermeasures.cut_mix import CutMix
from fl_sim.countermeasures.cut_out import CutOut
from fl_sim.countermeasures.jpeg import Jpeg
from fl_sim.countermeasures.low_pass import LowPass
from fl_sim.countermeasures.mix_up import MixUp
from fl_sim.countermeasures.orthogonal_projection import OrthogonalProjection
from fl_sim.countermeasures.worst_augmentation import WorstAugmentation
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.one_pixel import OnePixel
from strategies.fedavg import FedAvg

RADIUS = 16 / 255

EXPERIMENT = Experiment(
    name="low_pass",
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
        "EM class-wise": {},
        "EM sample-wise": {
            "protection": ErrorMinimizing(
                radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5
            )
        },
        "LSP": {"protection": LinearSeparable(radius=12 / 255)},
        "PIL": {"protection": Linearization(radius=RADIUS)},
        "OPS": {"protection": OnePixel()},
    },
    "countermeasure": {
        "none": {},
        "mean 3x3": {"client.countermeasures": (LowPass("mean"),)},
        "median 3x3": {"client.countermeasures": (LowPass("median"),)},
        "Gaussian 3x3": {"client.countermeasures": (LowPass("gaussian"),)},
        "JPEG 10": {"client.countermeasures": (Jpeg(quality=10),)},
        "bit depth 2": {"client.countermeasures": (BitDepth(bits=2),)},
        "projection": {"client.countermeasures": (OrthogonalProjection(),)},
        "crop and flip": {"client.countermeasures": (CropFlip(padding=2),)},
        "cut-out": {"client.countermeasures": (CutOut(),)},
        "mix-up": {"client.countermeasures": (MixUp(),)},
        "cut-mix": {"client.countermeasures": (CutMix(),)},
        "worst augmentation": {"client.countermeasures": (WorstAugmentation(padding=2),)},
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
