"""Evaluation after the last round: contributions and benefits, against models trained by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clients.sgd import SgdClient
from fl_sim.backends.base import InProcessBackend
from fl_sim.contracts import RoundRecord, Row, Update
from fl_sim.core.seeding import generator
from fl_sim.experiment import Evaluation, Experiment, Model
from fl_sim.federation.federation import Federation, prepare_federation
from fl_sim.metrics.accuracy import client_accuracies
from fl_sim.models import parameters
from fl_sim.models.scoring import compute_logits
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.evaluation import evaluate_last_round
from fl_sim.rounds.loop import create_state, run_rounds
from fl_sim.rounds.measure import record_round
from fl_sim.rounds.server import RuleServer
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.training.client_trainer import make_trainer
from fl_sim.training.tasks import RoundConfig
from strategies.fedavg import FedAvg

Maker = Callable[..., Experiment]
Trained = tuple[Federation, Tensor, RoundRecord]


def state_of(federation: Federation) -> State:
    return create_state(federation, RuleServer(FedAvg(), len(federation.start)))


def outcome_of(
    state: State, clients: Sequence[int] = (), rows: Tensor | None = None
) -> RoundOutcome:
    """Return the outcome of a round that started from the state's parameters."""
    updates = [Update(client, None, {}, 1, {}) for client in clients]
    config = RoundConfig(state.round, state.parameters, state.buffers)
    return RoundOutcome(state, config, RoundUpdates(updates, rows, None, []), None)


@pytest.fixture(scope="module")
def trained(experiment: Maker) -> Trained:
    """Every client has trained once from the start; their mean is the last round."""
    client = SgdClient(learning_rate=0.1, local_epochs=20)
    federation = prepare_federation(experiment(client=client, model=Model(norm="off")))
    updates = []
    for i in federation.clients_with_data:
        parameters.load_flat(federation.model, federation.start)
        client.train(federation.model, federation.shard(i), generator(0, "train", i))
        updates.append(parameters.flatten(federation.model) - federation.start)
    rows = torch.stack(updates)
    sizes = torch.tensor(federation.shards.sizes).float()
    state = state_of(federation)
    state.round = federation.experiment.rounds
    state.parameters = federation.start + sizes / sizes.sum() @ rows
    backend = InProcessBackend(make_trainer(federation))
    return federation, rows, record_round(federation, backend, outcome_of(state))


def rows_of(trained: Trained, number: int = 2, **asked: object) -> list[Row]:
    federation, rows, record = trained
    evaluation = Evaluation(**asked)  # type: ignore[arg-type]
    wanted = replace(federation, experiment=replace(federation.experiment, evaluation=evaluation))
    outcome = outcome_of(state_of(federation), federation.clients_with_data, rows)
    return list(evaluate_last_round(wanted, outcome, replace(record, round=number)))


def by_metric(rows: list[Row], metric: str) -> dict[int, float]:
    return {row.client: row.value for row in rows if row.metric == metric}


def accuracy(federation: Federation, vector: torch.Tensor, record: RoundRecord) -> float:
    parameters.load_flat(federation.model, vector.float())
    scores = compute_logits(federation.model, federation.test_inputs)
    return float((scores.argmax(1) == record.test_labels).double().mean())


def test_nothing_is_measured_unless_asked_for(trained: Trained) -> None:
    assert rows_of(trained) == []


def test_nothing_is_measured_before_the_last_round(trained: Trained) -> None:
    assert rows_of(trained, number=1, contributions="shapley", alone=SgdClient()) == []


def test_leaving_a_client_out_is_the_accuracy_without_its_update(trained: Trained) -> None:
    federation, updates, record = trained
    rows = rows_of(trained, contributions="leave_one_out")
    found = by_metric(rows, "contribution_leave_one_out")
    whole = float((record.test_logits.argmax(1) == record.test_labels).double().mean())
    sizes = torch.tensor(federation.shards.sizes).double()
    for left in range(4):
        others = torch.tensor([client for client in range(4) if client != left])
        step = sizes[others] / sizes[others].sum() @ updates[others].double()
        rest = accuracy(federation, federation.start + step, record)
        assert found[left] == pytest.approx(whole - rest, abs=0.02)  # one of 60 images
    assert len(set(found.values())) > 1
    assert not by_metric(rows, "contribution_shapley")
    assert set(by_metric(rows, "contribution_cosine")) == {0, 1, 2, 3}


def test_shapley_values_add_up_to_what_the_round_gained(trained: Trained) -> None:
    federation, _, record = trained
    rows = rows_of(trained, contributions="shapley")
    gained = float((record.test_logits.argmax(1) == record.test_labels).double().mean())
    gained -= accuracy(federation, federation.start, record)
    assert gained > 0.2
    values = by_metric(rows, "contribution_shapley").values()
    assert math.fsum(values) == pytest.approx(gained, abs=0.02)
    again = rows_of(trained, contributions="shapley")
    assert repr(again) == repr(rows)  # NaN is no number, but it is text


def test_updates_that_were_added_up_cannot_be_told_apart(trained: Trained) -> None:
    federation, _, record = trained
    asked = Evaluation(contributions="shapley")
    wanted = replace(federation, experiment=replace(federation.experiment, evaluation=asked))
    outcome = outcome_of(state_of(federation), federation.clients_with_data)
    (row,) = evaluate_last_round(wanted, outcome, record)
    assert not row.valid
    assert row.note


def test_a_run_measures_what_it_is_asked_for(experiment: Maker) -> None:
    """Through the loop: the last round keeps its updates apart, and only that one."""
    asked = Evaluation(contributions="leave_one_out", alone=SgdClient())
    federation = prepare_federation(experiment(evaluation=asked))
    state = create_state(federation, RuleServer(FedAvg(), len(federation.start)))
    first, last = (
        played.rows
        for played in run_rounds(federation, state, InProcessBackend(make_trainer(federation)))
    )
    assert not by_metric(first, "contribution_cosine")
    assert set(by_metric(last, "contribution_cosine")) == {0, 1, 2, 3}
    assert set(by_metric(last, "client_benefit")) == {0, 1, 2, 3}


def test_a_client_alone_is_one_that_trains_by_itself(trained: Trained) -> None:
    federation, _, record = trained
    behaviour = SgdClient(local_epochs=2)
    rows = rows_of(trained, alone=behaviour)
    alone, gains = by_metric(rows, "alone_accuracy"), by_metric(rows, "client_benefit")
    together = client_accuracies(record)
    for client in range(4):
        parameters.load_flat(federation.model, federation.start)
        for number in (1, 2):
            rng = generator(0, "alone", client, "round", number)
            behaviour.train(federation.model, federation.shard(client), rng)
        scores = compute_logits(federation.model, federation.test_inputs)
        own = client_accuracies(replace(record, test_logits=scores))[client]
        assert alone[client] == pytest.approx(float(own), abs=1e-12)
        assert gains[client] == pytest.approx(float(together[client] - own), abs=1e-12)


def test_an_evaluation_survives_json(experiment: Maker) -> None:
    asked = Evaluation(contributions="shapley", alone=SgdClient(momentum=0.0))
    wanted = experiment(evaluation=asked)
    assert Experiment.from_json(wanted.to_json()) == wanted
