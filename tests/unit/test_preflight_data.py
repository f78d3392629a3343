"""Datasets that no run could use are refused before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.data.partition import ByOwner
from fl_sim.errors import FieldError
from fl_sim.preflight import check
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavg import FedAvg


def written(path: Path, labels: Any, side: int = 8) -> Data:
    images = np.zeros((len(labels), side, side), dtype=np.uint8)
    parts = {
        f"{part}_{k}": v
        for part in ("train", "test")
        for k, v in zip(("images", "labels"), (images, labels), strict=True)
    }
    np.savez(path / "x.npz", **parts)
    return Data(dataset="npz", path=str(path / "x.npz"), num_clients=2)


def experiment(data: Data, **fields: Any) -> Experiment:
    return Experiment(name="x", client=SgdClient(), strategy=FedAvg(), data=data, **fields)


@pytest.mark.parametrize("label", [0, 3])
def test_one_class_is_refused(tmp_path: Path, label: int) -> None:
    data = written(tmp_path, np.full(40, label))
    with pytest.raises(FieldError, match=r"data: images of at least two classes to train on"):
        check(experiment(data))


def test_a_protection_that_the_images_are_too_small_for_is_refused(tmp_path: Path) -> None:
    from fl_sim.experiment import Model

    data = written(tmp_path, np.arange(40) % 2, side=3)
    protected = experiment(
        data, protection=ErrorMinimizing(), layout=Layout(0.5), model=Model("mlp")
    )
    with pytest.raises(FieldError, match=r"protection: .* images of 3 x 3 do not fit"):
        check(protected)


def test_owners_have_to_be_named(tmp_path: Path) -> None:
    data = written(tmp_path, np.arange(40) % 2)
    with pytest.raises(FieldError, match=r"partition: ByOwner for datasets that name owners"):
        check(experiment(data, partition=ByOwner()))
