"""W2: linear heads over cached features of EfficientNet-Lite0, 60,000 images, 100 clients.

The features are computed once, in a few minutes, and stored in fl_sim's cache.
"""

from dataclasses import replace

from benchmarks.cases import Case, make_round_jobs
from benchmarks.workloads.w1_small_networks import EXPERIMENT
from fl_sim import Model, Participation


def list_cases(full: bool) -> list[Case]:
    """Return a case with few clients per round, and one with all."""
    model = Model("efficientnet_lite0", init="pretrained", tune="head")
    heads = replace(EXPERIMENT, name="linear_heads", model=model)
    return [
        Case(
            "W2", f"{k} per round", make_round_jobs(replace(heads, participation=Participation(k)))
        )
        for k in (10, 100)
    ]
