"""Expected results of the studies on Fashion-MNIST, with seeds and tolerances as stated."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fl_sim.data.sources import MissingDataError, load_dataset
from fl_sim.metrics._shared.intervals import sign_test
from fl_sim.runs import study

pytestmark = pytest.mark.slow
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module", autouse=True)
def _data() -> None:
    try:
        load_dataset("fashion_mnist")
    except MissingDataError as error:
        pytest.skip(str(error))


def measured(name: str, seed: int, **labels: str) -> Any:
    """Return the metrics of a study at one point."""
    own = study.read(EXPERIMENTS / f"{name}.py")
    return own.measure(seed=seed, **{axis: own.axes[axis][word] for axis, word in labels.items()})


def test_leakage_falls_with_examples_as_a_power_law() -> None:
    """Slope between -0.75 and -0.4 from 64 examples a class, mean R^2 of at least 0.85."""
    found = [
        measured("membership_power_law", seed, images="grey", tuned="head") for seed in range(3)
    ]
    slope, fit = (sum(own[name] for own in found) / 3 for name in ("slope_at_0.1", "r2_at_0.1"))
    assert -0.75 < slope < -0.4
    assert fit >= 0.85


def test_what_global_outsiders_show_at_dirichlet_a_tenth_is_label_shift() -> None:
    """One seed: above 0.8 against non-members of all clients, below 0.62 against matched ones."""
    loud, honest = (
        measured("fl_attacks_label_shift", 0, partition="Dirichlet 0.1", pool=pool)
        for pool in ("global", "matched")
    )
    for attack in ("average_cosine", "fedmia_2"):
        assert loud[attack] > 0.8
        assert honest[attack] < 0.62
    assert loud["labels_alone"] > 0.8
    assert 0.48 < honest["labels_alone"] < 0.52


def test_a_network_remembers_a_unique_feature() -> None:
    """Ten seeds: at least eight scores above their control's; those of placebos tell nothing."""
    found = [
        measured("unique_features", seed, images="grey", network="mlp", training="plain")
        for seed in range(10)
    ]
    assert sum(own["remembers"] for own in found) >= 8
    signs = torch.tensor([2 * own["placebo_above_0"] - 1 for own in found])
    *_, p_value = sign_test(signs)
    assert p_value > 0.05
