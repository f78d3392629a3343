"""Is a client's own noise weak because it is small, or because it is the client's own?

Run:    fl-sim study experiments/noise_of_one.py

Ten clients protect all of their images, with common noise made on the images of all clients or each
with noise of its own; then with each kind of noise at the size of the other. Sizes are root mean
squares of the change, in levels of 255. Own noise cannot exceed the largest change of the common
one.
"""

from dataclasses import replace

import torch
from torch import Tensor

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.contracts import Protection
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.models import parameters
from fl_sim.models.scoring import compute_logits
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.linearization import Linearization
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from fl_sim.runs.replay import replay
from strategies.fedavg import FedAvg

RADIUS = 16 / 255
CLIENTS, IMAGES, ROUNDS = 10, 4000, 12
# 12.8 epochs of batches, as in the paper: of the images of all clients, and of one client.
SEM = StableErrorMinimizing(radius=RADIUS, transforms=2)
ALL_STEPS, OWN_STEPS = round(12.8 * IMAGES / 128), round(12.8 * IMAGES / CLIENTS / 128)

AXES = {
    "noise": {
        "EM class-wise": ErrorMinimizing(radius=RADIUS, form="class"),
        "EM sample-wise": ErrorMinimizing(
            radius=RADIUS, form="sample", noise_steps=5, step_size=RADIUS / 5
        ),
        "LSP": LinearSeparable(radius=12 / 255),
        "PIL": Linearization(radius=RADIUS),
        "SEM": SEM,
    }
}
SEEDS = (0, 1, 2)


def measure(seed: int, noise: Protection) -> dict[str, float]:
    """Train on clean images, with each kind of noise, and with each at the size of the other."""
    common, own = load_protected(noise, "shared", seed), load_protected(noise, "client", seed)
    ratio, most = (
        measure_size(own) / measure_size(common),
        float(compute_change(common).abs().max()),
    )
    arms = {
        "clean": replace(common, inputs=common.clean_inputs),
        "common": common,
        "own": own,
        "common, resized": replace(common, inputs=resize_change(common, ratio, most)),
        "own, resized": replace(own, inputs=resize_change(own, 1 / ratio, most)),
    }
    sizes = {f"size, {name}": measure_size(arm) for name, arm in arms.items() if name != "clean"}
    return {name: compute_accuracy(arm) for name, arm in arms.items()} | sizes


def load_protected(noise: Protection, provenance: str, seed: int) -> Federation:
    """Return the federation of federated_protection.py with a kind of noise."""
    if noise == SEM:
        steps = OWN_STEPS if provenance == "client" else ALL_STEPS
        noise = replace(SEM, surrogate_steps=steps)
    experiment = Experiment(
        name="noise_of_one",
        data=Data(
            dataset="fashion_mnist",
            num_clients=CLIENTS,
            num_samples=IMAGES,
            num_test=2000,
            held_out=0.2,
        ),
        partition=Iid(),
        protection=noise,
        layout=Layout(fraction=1.0, provenance=provenance),
        client=SgdClient(learning_rate=0.05, batch_size=32),
        strategy=FedAvg(),
        evaluation=Evaluation(every=ROUNDS),
        rounds=ROUNDS,
        seed=seed,
    )
    return load_federation(experiment.to_json())


def compute_change(federation: Federation) -> Tensor:
    """Return the change of each image, in levels."""
    return federation.inputs.float() - federation.clean_inputs.float()


def measure_size(federation: Federation) -> float:
    """Return the root mean square of the change, in levels."""
    return float(compute_change(federation).square().mean().sqrt())


def resize_change(federation: Federation, factor: float, most: float) -> Tensor:
    """Return the images with a scaled change, in whole levels of at most `most`."""
    changed = federation.clean_inputs.float() + (factor * compute_change(federation)).clamp(
        -most, most
    )
    return changed.round().clamp(0, 255).to(torch.uint8)


def compute_accuracy(federation: Federation) -> float:
    """Return the accuracy after the last round."""
    *_, last = (outcome.state for outcome in replay(federation))
    parameters.load_flat(federation.model, last.parameters)
    parameters.load_buffers(federation.model, last.buffers)
    guessed = compute_logits(federation.model, federation.test_inputs).argmax(1)
    return float((guessed == federation.dataset.test_labels).double().mean())
