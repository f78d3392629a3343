"""A client's update does not depend on what its process drew before: on no engine, for no
network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_sim import Data, Experiment, Model
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.engine.client_app import app
from fl_sim.engine.federation import federation
from fl_sim.engine.local_grid import LocalGrid
from fl_sim.engine.loop import initial_state, rounds
from fl_sim.engine.measure import measure
from fl_sim.engine.strategy import as_flower
from fl_sim.errors import FieldError
from fl_sim.preflight import check

Maker = Callable[..., Experiment]


def after_a_round(experiment: Experiment, global_seed: int) -> Tensor:
    """Return the parameters after a round in a process that has drawn `global_seed` before."""
    torch.manual_seed(global_seed)
    ours = federation(experiment.to_json())
    state = initial_state(ours, as_flower(experiment.strategy))
    grid = LocalGrid(app, experiment.data.num_clients)
    return next(rounds(ours, state, grid)).parameters.clone()


NETWORKS: list[Any] = [
    Model("small_cnn"),
    Model("mobilenet_v2", tune="last_block", pixels=32),  # dropout before the head
    Model("efficientnet_b0", tune="last_block", pixels=32),  # dropout, and blocks left out
]


@pytest.mark.parametrize("model", NETWORKS, ids=lambda model: model.backbone)
def test_a_round_does_not_depend_on_the_global_generator(experiment: Maker, model: Model) -> None:
    data = Data(dataset="digits", num_clients=2, num_samples=40, num_test=10)
    small = experiment(model=model, data=data, partition=Iid(), rounds=1)
    assert torch.equal(after_a_round(small, 1), after_a_round(small, 2))


def test_nothing_to_audit_is_no_trouble(experiment: Maker) -> None:
    data = Data(dataset="digits", num_clients=2, num_samples=40, num_test=10, held_out=0.0)
    small = experiment(data=data, partition=Iid(), layout=Layout())
    ours = federation(small.to_json())
    state = initial_state(ours, as_flower(small.strategy))
    rows = measure(ours, state, [], [], seconds=1.0)
    assert {row.metric for row in rows} >= {"accuracy", "mia_margin_auc"}


def test_a_network_that_cannot_see_the_images_is_refused_before_any_work(
    experiment: Maker,
) -> None:
    with pytest.raises(FieldError, match="model"):
        check(experiment(model=Model("maxvit_t", tune="head", pixels=64)))
