"""A client's update does not depend on earlier random draws of its process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_sim import Data, Experiment, Model
from fl_sim.backends.base import InProcessBackend
from fl_sim.config.validation import check
from fl_sim.core.errors import FieldError
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.models.parameters import parameter_shapes
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.loop import create_state, run_rounds
from fl_sim.rounds.measure import measure_round
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.runs.single_run import make_server
from fl_sim.training.client_trainer import make_trainer
from fl_sim.training.tasks import RoundConfig

Maker = Callable[..., Experiment]


def after_a_round(experiment: Experiment, global_seed: int) -> Tensor:
    """Return the parameters after a round in a process that has drawn `global_seed` before."""
    torch.manual_seed(global_seed)
    federation = load_federation(experiment.to_json())
    backend = InProcessBackend(make_trainer(federation))
    return next(run_rounds(federation, first_state(federation), backend)).state.parameters.clone()


def first_state(federation: Federation) -> State:
    return create_state(
        federation,
        make_server(
            federation.experiment.strategy, federation.start, parameter_shapes(federation.model), 0
        ),
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
    federation = load_federation(small.to_json())
    state = first_state(federation)
    config = RoundConfig(0, state.parameters, state.buffers)
    outcome = RoundOutcome(state, config, RoundUpdates([], None, None, []), None)
    rows = measure_round(federation, InProcessBackend(make_trainer(federation)), outcome)
    assert {row.metric for row in rows} >= {"accuracy", "mia_margin_auc"}


def test_a_network_that_cannot_see_the_images_is_refused_before_any_work(
    experiment: Maker,
) -> None:
    with pytest.raises(FieldError, match="model"):
        check(experiment(model=Model("maxvit_t", tune="head", pixels=64)))
