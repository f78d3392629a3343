"""W7: a ViT-S at 64 pixels with random weights, 20 clients of 16 images, ten per round.

Its head is trained, or low-rank changes of all of its blocks with the head. The plain loop and
Flower take the network of timm and the low-rank changes of peft, send what is trained, and compute
all features in every step.
"""

from dataclasses import replace

from benchmarks.cases import Case, make_round_jobs
from benchmarks.workloads.w1_small_networks import EXPERIMENT
from clients.sgd import SgdClient
from fl_sim import Data, Model
from fl_sim.data.partition import Iid

ENGINES = ("floor", "local", "ray", "flower")


def list_cases(full: bool) -> list[Case]:
    """Return a case for the head and one for low-rank changes."""
    return [_make_case("head", ENGINES), _make_case("LoRA", ENGINES)]


def list_gpu_cases() -> list[Case]:
    """Return the case of low-rank changes."""
    return [_make_case("LoRA", ("floor", "local", "nondeterministic", "bf16", "flower"))]


def _make_case(name: str, engines: tuple[str, ...]) -> Case:
    models = {
        "head": Model("timm:vit_small_patch16_224", tune="head", pixels=64),
        "LoRA": Model("timm:vit_small_patch16_224", tune="lora", blocks="all", pixels=64),
    }
    experiment = replace(
        EXPERIMENT,
        name="transformers",
        client=SgdClient(learning_rate=0.05, momentum=0.0, batch_size=16, local_epochs=1),
        data=Data("fashion_mnist", 20, num_samples=320, num_test=10, held_out=0.0),
        partition=Iid(),
        model=models[name],
    )
    return Case("W7", f"ViT-S, {name}", make_round_jobs(experiment, engines))
