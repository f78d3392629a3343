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
from fl_sim.engine.crew import LocalCrew
from fl_sim.engine.federation import Federation, federation
from fl_sim.engine.loop import State, initial_state, rounds
from fl_sim.engine.measure import Seen, measure
from fl_sim.engine.server import server_for
from fl_sim.errors import FieldError
from fl_sim.models.parameters import shapes
from fl_sim.preflight import check

Maker = Callable[..., Experiment]


def after_a_round(experiment: Experiment, global_seed: int) -> Tensor:
    """Return the parameters after a round in a process that has drawn `global_seed` before."""
    torch.manual_seed(global_seed)
    ours = federation(experiment.to_json())
    crew = LocalCrew(ours.workshop)
    return next(rounds(ours, first_state(ours), crew)).state.parameters.clone()


def first_state(ours: Federation) -> State:
    return initial_state(
        ours, server_for(ours.experiment.strategy, ours.start, shapes(ours.model), 0)
    )


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
    seen = Seen([], None, [], seconds=1.0)
    rows = measure(ours, first_state(ours), LocalCrew(ours.workshop), seen)
    assert {row.metric for row in rows} >= {"accuracy", "mia_margin_auc"}


def test_a_network_that_cannot_see_the_images_is_refused_before_any_work(
    experiment: Maker,
) -> None:
    with pytest.raises(FieldError, match="model"):
        check(experiment(model=Model("maxvit_t", tune="head", pixels=64)))
