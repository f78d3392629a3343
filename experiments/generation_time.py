"""What does each protection cost per image?

Run:    fl-sim study experiments/generation_time.py --workers 1

All protect the same images, in the same run, on one core. A pass is a forward and a backward pass
of one image. SEM and REM take 12.8 epochs of batches, as in their papers.
"""

from time import process_time

from fl_sim.contracts import Protection
from fl_sim.core import pass_counter
from fl_sim.data.sources import load_subset
from fl_sim.protections.autoregressive import Autoregressive
from fl_sim.protections.convolution import Convolution
from fl_sim.protections.error_maximizing import ErrorMaximizing
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.one_pixel import OnePixel
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.protections.sparsity_masking import SparsityMasking
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from fl_sim.protections.targeted_adversarial import TargetedAdversarial

RADIUS, IMAGES, BATCH = 16 / 255, 256, 128
STEPS = round(12.8 * IMAGES / BATCH)

AXES = {
    "protection": {
        "random": RandomNoise(radius=RADIUS),
        "LSP": LinearSeparable(radius=RADIUS),
        "AR": Autoregressive(),
        "OPS": OnePixel(),
        "CUDA": Convolution(),
        "PIL": Linearization(radius=RADIUS),
        "EM class-wise": ErrorMinimizing(radius=RADIUS, form="class"),
        "EM sample-wise": ErrorMinimizing(radius=RADIUS, form="sample"),
        "SALM-style": SparsityMasking(radius=RADIUS),
        "error-maximising": ErrorMaximizing(radius=RADIUS),
        "TAP": TargetedAdversarial(radius=RADIUS),
        "SEM": StableErrorMinimizing(radius=RADIUS, surrogate_steps=STEPS),
        "REM": RobustErrorMinimizing(radius=RADIUS, surrogate_steps=STEPS),
    }
}
SEEDS = (0, 1, 2)


def measure(seed: int, protection: Protection) -> dict[str, float]:
    """Protect the images, and measure CPU time and passes per image."""
    data = load_subset("fashion_mnist", None, IMAGES, 10)
    ids = data.train_labels.new_tensor(range(IMAGES))
    with pass_counter.count_passes() as counted:
        started = process_time()
        protection.protect(data.train_images, data.train_labels, ids, seed)
        seconds = process_time() - started
    return {
        "cpu_ms_an_image": 1000 * seconds / IMAGES,
        "passes_an_image": counted.passes / IMAGES,
    }
