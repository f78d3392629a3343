"""On images with an empty background, is noise on a few pixels worth as much as noise everywhere?

Run:    fl-sim sweep experiments/medical_sparsity.py
        on a file of MedMNIST: --set data.dataset=npz --set data.path=bloodmnist.npz

Fashion-MNIST stands in for medical images: half of its pixels are black.
"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.sparsity_masking import SparsityMasking
from strategies.fedavg import FedAvg

RADIUS = 16 / 255
FEW = {"radius": RADIUS, "noise_steps": 5, "step_size": RADIUS / 5, "max_passes": 12}


def mask_noise(share: float, content_only: bool = False) -> dict[str, object]:
    """Return the settings of noise on the pixels with the largest gradients."""
    return {"protection": SparsityMasking(share=share, content_only=content_only, **FEW)}


EXPERIMENT = Experiment(
    name="medical_sparsity",
    data=Data(
        dataset="fashion_mnist", num_clients=1, num_samples=5000, num_test=5000, held_out=0.0
    ),
    partition=Iid(),
    protection=ErrorMinimizing(form="sample", **FEW),
    layout=Layout(fraction=1.0),
    client=SgdClient(learning_rate=0.05, batch_size=64, local_epochs=8, weight_decay=5e-4),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "noise": {
        "everywhere (EM)": {},
        **{f"on {share:.0%} of the pixels": mask_noise(share) for share in (0.05, 0.1, 0.25, 0.5)},
        "on 25% of the content": mask_noise(0.25, content_only=True),
        "on all of the content": mask_noise(1.0, content_only=True),
    },
}
SEEDS = (0, 1, 2)
# The size of the papers: hours per cell without a GPU.
FULL = {"data.num_samples": None, "data.num_test": None, "client.local_epochs": 60}
