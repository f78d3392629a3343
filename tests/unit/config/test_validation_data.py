"""Tests of the refusal of datasets and classes before any work."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import torch
from torch import nn

from clients.label_flip import LabelFlipClient
from clients.sgd import SgdClient
from fl_sim import Adversary, Data, Experiment
from fl_sim.config.validation import check
from fl_sim.contracts import Client, Shard
from fl_sim.core.errors import FieldError
from fl_sim.data.layout import Layout
from fl_sim.data.partition import ByOwner
from fl_sim.protections.error_minimizing import ErrorMinimizing
from strategies.fedavg import FedAvg


@final
@dataclass(frozen=True)
class OwnClient(Client):
    """A client that is defined in a script, which other processes cannot import."""

    __module__ = "__main__"

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Return no metrics."""
        return {}


@pytest.mark.parametrize("wrapper", [LabelFlipClient, None])
def test_a_class_that_cannot_be_named_in_json_is_refused_by_its_field(wrapper: Any) -> None:
    client = wrapper(honest=OwnClient()) if wrapper else OwnClient()
    wanted = experiment(Data(dataset="digits"), adversary=(Adversary(client),))
    field = "adversary.0.client.honest" if wrapper else "adversary.0.client"
    with pytest.raises(FieldError, match=rf"^{field}.class: .* strategies or clients.*OwnClient"):
        check(wanted)


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
