"""W3: full fine-tuning of EfficientNet-Lite0 at 64 pixels, ten clients of 100 images."""

from dataclasses import replace

from benchmarks.cases import ENGINES, GPU, Case, make_round_jobs
from benchmarks.workloads.w1_small_networks import EXPERIMENT
from fl_sim import Data, Model, Participation
from fl_sim.data.partition import Iid


def list_cases(full: bool) -> list[Case]:
    """Return rounds of four clients, and of all ten if `full`."""
    return [_make_case(per_round, ENGINES) for per_round in ((4, 10) if full else (4,))]


def list_gpu_cases() -> list[Case]:
    """Return rounds of all ten clients."""
    return [_make_case(10, GPU)]


def _make_case(per_round: int, engines: tuple[str, ...]) -> Case:
    fine_tuning = replace(
        EXPERIMENT,
        name="fine_tuning",
        data=Data("fashion_mnist", 10, num_samples=1000, num_test=10, held_out=0.0),
        partition=Iid(),
        model=Model("efficientnet_lite0", init="pretrained", tune="full", pixels=64),
        participation=Participation(per_round),
    )
    return Case("W3", f"{per_round} per round", make_round_jobs(fine_tuning, engines))
