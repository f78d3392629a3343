"""Axes of a sweep: values of one field, and several fields that change together."""

from collections.abc import Callable

import pytest

from clients.fedprox import FedProxClient
from fl_sim.cells import cells_of
from fl_sim.errors import FieldError
from fl_sim.experiment import Experiment, Model
from strategies.fedavg import FedAvg
from strategies.krum import Krum

Maker = Callable[..., Experiment]


def test_fields_that_change_together_are_one_axis(experiment: Maker) -> None:
    axes = {
        "method": {
            "FedProx": {"client": FedProxClient(), "strategy": FedAvg(), "rounds": 3},
            "Krum": {"strategy": Krum(), "client.momentum": 0.0},
        },
        "data.num_clients": [6, 8],
    }
    cells = cells_of(experiment(), axes, (0, 1))
    assert len(cells) == 2 * 2 * 2
    assert cells[0].settings == {"method": "FedProx", "data.num_clients": 6}
    assert cells[0].experiment.client == FedProxClient()
    assert cells[0].experiment.rounds == 3
    last = cells[-1].experiment
    assert (last.strategy, last.rounds, last.seed) == (Krum(), 2, 1)
    assert last.client.momentum == 0.0  # type: ignore[attr-defined]
    assert last.data.num_clients == 8


def test_an_axis_that_changes_an_unknown_field_is_refused(experiment: Maker) -> None:
    with pytest.raises(FieldError, match="batchsize"):
        cells_of(experiment(), {"method": {"SGD": {"client.batchsize": 8}}}, None)


def test_values_that_read_alike_are_refused(experiment: Maker) -> None:
    with pytest.raises(FieldError, match="values that read apart"):
        cells_of(experiment(), {"client.momentum": [0.5, 0.9, 0.5]}, None)


def test_models_that_differ_read_apart(experiment: Maker) -> None:
    models = [Model(), Model(norm="group"), Model(pixels=64), Model(rank=8)]
    cells = cells_of(experiment(), {"model": models}, None)
    assert [cell.settings["model"] for cell in cells] == [
        "small_cnn, random, full",
        "small_cnn, random, full, norm=group",
        "small_cnn, random, full, pixels=64",
        "small_cnn, random, full, rank=8",
    ]
