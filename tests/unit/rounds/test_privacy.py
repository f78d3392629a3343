"""Privacy cost in whole runs: the cost of each round's draw, and caveats that void the bound."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from clients.dp_sgd import DpSgdClient
from clients.fedbn import FedBNClient
from clients.mimic import MimicClient
from clients.scaffold import ScaffoldClient
from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim import Data, Experiment, Model, run
from fl_sim.backends.base import InProcessBackend
from fl_sim.config import validation
from fl_sim.contracts import Draw, Release, Releases
from fl_sim.core.errors import FieldError, RunFailedError
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.experiment import Evaluation
from fl_sim.federation.federation import load_federation
from fl_sim.flower import client_app
from fl_sim.flower.backend import FlowerBackend
from fl_sim.flower.local_grid import LocalGrid
from fl_sim.participants import Adversary, AvailabilityWindow, Participation
from fl_sim.privacy.accounting import compute_epsilon
from fl_sim.rounds.loop import run_rounds
from fl_sim.rounds.privacy import measure_privacy
from fl_sim.runs.replay import replay
from fl_sim.runs.single_run import make_initial_state
from fl_sim.training.client_trainer import make_trainer
from strategies.differential_privacy import DifferentialPrivacy
from strategies.dp_adaptive_clipping import DifferentialPrivacyAdaptiveClipping
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.feddyn import FedDyn
from strategies.fednova import FedNova
from strategies.krum import Krum
from strategies.q_fedavg import QFedAvg
from strategies.scaffold import SCAFFOLD
from strategies.server_momentum import ServerMomentum

pytest.importorskip("dp_accounting")

Maker = Callable[..., Experiment]
TEN = Data(dataset="digits", num_clients=10, num_samples=200, num_test=40)
THREE = Data(dataset="digits", num_clients=3, num_samples=60, num_test=40)
NO_STATISTICS = Model("small_cnn", norm="group")


def private(experiment: Maker, **fields: Any) -> Experiment:
    usual: dict[str, Any] = {
        "data": TEN,
        "partition": Iid(),
        "model": NO_STATISTICS,
        "strategy": DifferentialPrivacy(noise_multiplier=1.0),
        "evaluation": Evaluation(every=100),
        "rounds": 4,
    }
    return experiment(**(usual | fields))


def rows_of(wanted: Experiment, out: Path, metric: str = "epsilon", **options: Any) -> pd.DataFrame:
    results = run(wanted, out=out, controls=False, batch_clients="off", **options)
    assert results.complete, results.cells.error.tolist()
    return results.rows[results.rows.metric == metric].sort_values("round")


def cost(*rounds: tuple[int, int], sampling: Any = "fixed", noise: float = 1.0) -> float:
    made = tuple(Release(noise, Draw(*own, sampling)) for own in rounds)
    return compute_epsilon(Releases(made, 1e-5, "clients")).epsilon


def test_rounds_after_a_departure_cost_more(experiment: Maker, tmp_path: Path) -> None:
    """Half depart after round 1: then everybody who is left takes part."""
    stays = tuple(AvailabilityWindow(client, 1, 1) for client in range(5, 10))
    plan = Participation(clients_per_round=5, stays=stays)
    found = rows_of(private(experiment, participation=plan), tmp_path)
    assert found.valid.all()
    expected = [cost(*[(10, 5), (5, 5), (5, 5), (5, 5)][:number]) for number in range(1, 5)]
    assert found.value.tolist() == pytest.approx(expected)
    assert expected[-1] >= 9.899


def test_clients_that_withhold_all_images_cannot_be_drawn(
    experiment: Maker, tmp_path: Path
) -> None:
    plan = Participation(clients_per_round=5)
    wanted = private(
        experiment, layout=Layout(0.5, unit="clients", withheld=True), participation=plan
    )
    found = rows_of(wanted, tmp_path)
    assert found.value.iloc[-1] == pytest.approx(cost((5, 5), (5, 5), (5, 5), (5, 5)))
    rdp = rows_of(wanted, tmp_path, "epsilon_rdp", resume=True)
    assert rdp.value.iloc[-1] == pytest.approx(10.7255, abs=1e-4)


def test_late_arrivals_make_a_draw_out_of_what_was_none(experiment: Maker, tmp_path: Path) -> None:
    stays = tuple(AvailabilityWindow(client, first_round=4) for client in range(5))
    plan = Participation(clients_per_round=5, stays=stays, sampling="poisson", drop_out=0.2)
    found = rows_of(private(experiment, participation=plan), tmp_path)
    rounds = [(5, 5), (5, 5), (5, 5), (10, 5)]
    assert found.value.iloc[-1] == pytest.approx(cost(*rounds, sampling="poisson"))


def test_clients_without_any_data_cannot_be_drawn(experiment: Maker) -> None:
    federation = load_federation(private(experiment).to_json())
    schedule = federation.schedule
    assert schedule.describe_draw(1, [0, 2, 4]) == Draw(3, 10)
    plan = Participation(
        clients_per_round=2, stays=(AvailabilityWindow(2, 1, 1),), sampling="poisson"
    )
    schedule = load_federation(private(experiment, participation=plan).to_json()).schedule
    assert schedule.describe_draw(1, [0, 2, 4]) == Draw(3, 2, "poisson")
    assert schedule.describe_draw(2, [0, 2, 4]) == Draw(2, 2, "poisson")


def test_epsilon_goes_on_after_a_break_as_if_there_had_been_none(
    experiment: Maker, tmp_path: Path
) -> None:
    stays = tuple(AvailabilityWindow(client, 2, 3) for client in range(8))
    plan = Participation(clients_per_round=3, stays=stays, sampling="poisson")
    wanted = private(experiment, participation=plan)
    whole = rows_of(wanted, tmp_path / "whole")

    def stop(progress: Any) -> None:
        if progress.round == 2:
            raise RunFailedError("broken off")

    broken = run(wanted, out=tmp_path / "broken", controls=False, batch_clients="off", listen=stop)
    assert not broken.complete
    again = rows_of(wanted, tmp_path / "broken", resume=True)
    pd.testing.assert_frame_equal(whole.reset_index(drop=True), again.reset_index(drop=True))


def test_rounds_for_which_nobody_is_drawn_are_rounds(experiment: Maker, tmp_path: Path) -> None:
    """The model stays as it is; under a private rule it moves, by noise over the same number."""
    plan = Participation(clients_per_round=1, sampling="poisson")
    for rule in (
        FedAvgM(),
        DifferentialPrivacy(rule=FedAvgM()),
        ServerMomentum(rule=DifferentialPrivacyAdaptiveClipping()),
    ):
        wanted = private(experiment, participation=plan, strategy=rule, rounds=5)
        federation = load_federation(wanted.to_json())
        schedule = federation.schedule
        counts = [
            len(schedule.choose_clients(number, federation.clients_with_data))
            for number in range(1, 6)
        ]
        assert 0 in counts
        assert max(counts) == federation.max_clients_per_round > 1
        before = federation.start
        for outcome, count in zip(replay(federation), counts, strict=True):
            state = outcome.state
            moved = bool((state.parameters != before).any())
            assert moved == (count > 0 or rule.releases(()) is not None)
            before = state.parameters.clone()
    asked = rows_of(wanted, tmp_path, "num_updates")
    assert asked.value.tolist() == counts


def test_statistics_of_batchnorm_make_epsilon_worthless(experiment: Maker, tmp_path: Path) -> None:
    """They leave the clients unclipped and without noise, however much of it the updates get."""
    strong = DifferentialPrivacy(1.0, noise_multiplier=1000.0)
    wanted = private(experiment, model=Model("small_cnn", norm="batch"), strategy=strong, rounds=1)
    results = run(wanted, out=tmp_path, controls=False)
    found = results.rows[results.rows.metric.isin(["epsilon", "epsilon_rdp"])]
    assert len(found) == 2
    assert not found.valid.any()
    assert set(found.note) == {
        "of the updates alone: also statistics of BatchNorm leave the clients"
    }
    assert "epsilon.clients" not in results.cells


def test_statistics_that_stay_with_the_client_cost_nothing(experiment: Maker) -> None:
    wanted = private(experiment, model=Model("small_cnn", norm="batch"), client=FedBNClient())
    federation = load_federation(wanted.to_json())
    state = next(replay(federation)).state
    rows = {row.metric: row for row in measure_privacy(federation, state)}
    assert list(rows) == ["epsilon", "epsilon_rdp", "epsilon_delta"]
    assert all(row.valid for row in rows.values())
    assert rows["epsilon_delta"].value == 1e-5


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        (
            {"strategy": DifferentialPrivacy(rule=SCAFFOLD()), "client": ScaffoldClient()},
            "no guarantee is known for noise on SCAFFOLD",
        ),
        (
            {"strategy": DifferentialPrivacy(rule=FedNova())},
            "shares of FedNova tell how much data clients hold: see public_counts",
        ),
        (
            {"strategy": QFedAvg(), "client": DpSgdClient(), "data": THREE},
            "of the updates alone: also losses on their data leave the clients",
        ),
        (
            {"strategy": DifferentialPrivacy(noise_multiplier=0.0)},
            "without noise there is no bound",
        ),
    ],
)
def test_what_cannot_be_accounted_for_is_no_number_to_read(
    fields: dict[str, Any], note: str, experiment: Maker, tmp_path: Path
) -> None:
    found = rows_of(private(experiment, rounds=1, **fields), tmp_path)
    assert len(found)
    assert not found.valid.any()
    assert set(found.note) == {note}


def first_rows(wanted: Experiment) -> list[tuple[int, float, bool, str]]:
    """Return client, value and validity of epsilon after each round, in turn."""
    federation = load_federation(wanted.to_json())
    rows = (
        own for outcome in replay(federation) for own in measure_privacy(federation, outcome.state)
    )
    return [(own.client, own.value, own.valid, own.note) for own in rows if own.metric == "epsilon"]


def test_colluders_that_hand_on_honest_updates_make_epsilon_worthless(experiment: Maker) -> None:
    """Mimics send a victim's update again: in the sum it counts several times."""
    mimics = Adversary(MimicClient(), num_clients=2, first_round=2)
    idle = Adversary(MimicClient(), num_clients=0)
    found = first_rows(private(experiment, data=THREE, rounds=2, adversary=(idle, mimics)))
    assert [own[2] for own in found] == [True, False]
    assert "hand on" in found[1][3]


def test_attackers_that_train_on_copies_of_images_make_epsilon_worthless(experiment: Maker) -> None:
    beside = Adversary(SignFlipClient(), beside=True)
    for fields in ({}, {"client": DpSgdClient(), "strategy": FedAvg()}):
        found = first_rows(private(experiment, data=THREE, rounds=1, adversary=beside, **fields))
        assert found
        assert not any(own[2] for own in found)
        assert "copies" in found[0][3]


def test_a_client_that_trained_with_less_noise_once_has_no_epsilon(experiment: Maker) -> None:
    """What leaked in the rounds of an attack cannot be taken back afterwards."""
    usual = DpSgdClient(batch_size=4)
    for once in (SgdClient(), DpSgdClient(batch_size=4, noise_multiplier=0.1)):
        attack = Adversary(once, clients=(0,), last_round=1)
        fields = {"client": usual, "strategy": FedAvg(), "adversary": attack, "data": THREE}
        found = first_rows(private(experiment, rounds=2, **fields))[-3:]
        assert [(own[0], own[2]) for own in found] == [(0, False), (1, True), (2, True)]
        assert "in round 1 it trained otherwise" in found[0][3]
    flipped = Adversary(SignFlipClient(), clients=(0,), last_round=1)
    found = first_rows(private(experiment, rounds=2, **(fields | {"adversary": flipped})))
    assert all(own[2] for own in found)


def test_what_a_rule_tells_of_its_own_is_nothing_that_leaves_clients(experiment: Maker) -> None:
    fields = {"client": DpSgdClient(batch_size=4), "strategy": FedDyn(), "data": THREE}
    found = first_rows(private(experiment, rounds=1, **fields))
    assert [own[2] for own in found] == [True] * 3


def test_rules_that_need_several_updates_refuse_draws_of_any_size(experiment: Maker) -> None:
    from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

    plan = Participation(clients_per_round=8, sampling="poisson")
    for rule in (Krum(), DifferentialPrivacy(rule=Krum()), FlowerFedAvg()):
        wanted = private(experiment, strategy=rule, participation=plan)
        with pytest.raises(FieldError, match=r"participation\.sampling: .*'fixed' for"):
            validation.check(wanted)


def test_a_strategy_of_flowers_is_not_asked_where_nobody_is_there(
    experiment: Maker, tmp_path: Path
) -> None:
    from flwr.serverapp.strategy import FedAvg as FlowerFedAvg

    strategy = FlowerFedAvg(min_train_nodes=1, min_available_nodes=1, min_evaluate_nodes=1)
    plan = Participation(clients_per_round=1, sampling="poisson")
    wanted = private(experiment, strategy=strategy, participation=plan)
    counts = rows_of(wanted, tmp_path, "num_updates").value
    assert 0 in counts.tolist()


def test_more_privacy_of_images_is_told_by_two_figures(experiment: Maker, tmp_path: Path) -> None:
    wanted = private(
        experiment, data=THREE, client=DpSgdClient(batch_size=4), strategy=FedAvg(), rounds=2
    )
    found, rdp = rows_of(wanted, tmp_path), rows_of(wanted, tmp_path, "epsilon_rdp", resume=True)
    assert set(found.group) == set(rdp.group) == {"images"}
    assert found.valid.all()
    assert (found.value.to_numpy() < rdp.value.to_numpy()).all()
    assert all(map(math.isfinite, found.value))


def test_behind_a_grid_of_flowers_nobody_is_asked_either(experiment: Maker) -> None:
    plan = Participation(clients_per_round=1, sampling="poisson")
    federation = load_federation(private(experiment, participation=plan).to_json())
    grid = LocalGrid(client_app.app, federation.num_clients)
    trainer = make_trainer(federation)
    first, second = (
        [
            outcome.state.parameters.clone()
            for outcome in run_rounds(federation, make_initial_state(federation), backend)
        ]
        for backend in (InProcessBackend(trainer), FlowerBackend(trainer, grid))
    )
    assert all(map(torch.equal, first, second))
