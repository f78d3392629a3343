"""The schedule in whole runs: attacks, absences, late protection and backdoors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clients.alie import AlieClient
from clients.backdoor import BackdoorClient
from clients.faulty import FaultyClient
from clients.free_rider import FreeRiderClient
from clients.label_flip import LabelFlipClient
from clients.model_replacement import ModelReplacementClient
from clients.optimal_ipm import OptimalIpmClient
from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim import Adversary, AvailabilityWindow, Data, Experiment, Participation, run
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.schedule import Schedule
from fl_sim.triggers import Patch
from strategies.median import CoordinateMedian

Maker = Callable[..., Experiment]


def rounds_of(rows: pd.DataFrame, metric: str, client: int = -1) -> list[float]:
    """Return a metric round by round."""
    own = rows[(rows["metric"] == metric) & (rows["client"] == client)]
    return [float(value) for value in own.sort_values("round")["value"]]


def accuracies(experiment: Experiment, out: Path) -> list[float]:
    results = run(experiment, out=out, controls=False)
    assert results.complete
    return rounds_of(results.rows, "loss")


def test_an_attack_shows_from_its_first_round_on(experiment: Maker, tmp_path: Path) -> None:
    calm = accuracies(experiment(rounds=3), tmp_path / "calm")
    flip = Adversary(SignFlipClient(), 1, first_round=2, last_round=2)
    attacked = accuracies(experiment(rounds=3, adversary=flip), tmp_path / "attacked")
    assert attacked[0] == calm[0]
    assert attacked[1] != calm[1]


def test_absences_are_rows_of_failures_and_nobody_else_is(
    experiment: Maker, tmp_path: Path
) -> None:
    plan = Participation(
        drop_out=0.2, speed_spread=0.8, deadline=1.5, stays=(AvailabilityWindow(0, last_round=2),)
    )
    data = Data(dataset="digits", num_clients=8, num_samples=200, num_test=60)
    script = experiment(rounds=4, participation=plan, data=data, partition=Iid())
    results = run(script, out=tmp_path, controls=False)
    assert results.complete
    schedule = Schedule(script)
    expected = []
    for number in range(1, 5):
        absent = schedule.find_absent(number, schedule.choose_clients(number, list(range(8))))
        expected += [(number, client, cause) for client, cause in sorted(absent.items())]
    found = results.failures[["round", "client", "cause"]].itertuples(index=False)
    assert [tuple(row) for row in found] == expected
    assert {cause for _, _, cause in expected} == {"dropped out", "past the deadline"}
    trained = results.rows[results.rows["metric"] == "train_loss"]
    assert set(trained[trained["client"] == 0]["round"]) <= {1, 2}


def test_images_are_clean_until_protection_starts(experiment: Maker, tmp_path: Path) -> None:
    clean = accuracies(experiment(rounds=3), tmp_path / "clean")
    late = experiment(
        rounds=3, protection=RandomNoise(radius=64 / 255), layout=Layout(1.0, first_round=3)
    )
    guarded = accuracies(late, tmp_path / "late")
    assert guarded[:2] == clean[:2]
    assert guarded[2] != clean[2]


@pytest.mark.parametrize(
    "attack", [AlieClient(), OptimalIpmClient(), ModelReplacementClient(honest=LabelFlipClient())]
)
def test_colluders_are_forged_on_top_of_their_training(
    experiment: Maker, tmp_path: Path, attack: Any
) -> None:
    calm = accuracies(experiment(rounds=1, strategy=CoordinateMedian()), tmp_path / "calm")
    forged = experiment(rounds=1, strategy=CoordinateMedian(), adversary=Adversary(attack, 1))
    assert accuracies(forged, tmp_path / "forged") != calm


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("nan", "parameters are not finite"),
        ("inf", "parameters are not finite"),
        ("shape", "wrong shape of the update"),
        ("twice", "sent a second reply"),
    ],
)
def test_a_fault_of_the_protocol_is_a_row_of_failures(
    experiment: Maker, tmp_path: Path, fault: Any, cause: str
) -> None:
    faulty = Adversary(FaultyClient(fault), clients=(2,))
    results = run(experiment(rounds=2, adversary=faulty), out=tmp_path)
    assert results.complete
    assert list(results.failures["client"]) == [2, 2]
    assert all(results.failures["cause"].str.startswith(cause))


def test_a_stale_update_gets_through_from_its_second_round_on(
    experiment: Maker, tmp_path: Path
) -> None:
    stale = Adversary(FaultyClient("stale"), clients=(2,))
    results = run(experiment(rounds=2, adversary=stale), out=tmp_path, controls=False)
    assert results.complete
    assert results.failures.empty
    calm = accuracies(experiment(rounds=2), tmp_path / "calm")
    first, second = rounds_of(results.rows, "loss")
    assert first == calm[0]
    assert second != calm[1]


def test_a_boast_changes_nothing_for_a_rule_of_ours(experiment: Maker, tmp_path: Path) -> None:
    boast = experiment(rounds=2, adversary=Adversary(FaultyClient("count"), clients=(2,)))
    calm = accuracies(experiment(rounds=2), tmp_path / "calm")
    assert accuracies(boast, tmp_path / "boast") == calm


def test_a_free_rider_costs_no_training_and_little_harm(experiment: Maker, tmp_path: Path) -> None:
    rider = Adversary(FreeRiderClient(noise=1e-4), clients=(1,))
    results = run(experiment(rounds=3, adversary=rider), out=tmp_path, controls=False)
    norms = {c: rounds_of(results.rows, "update_norm", c) for c in range(4)}
    assert norms[1][0] < 0.5 * min(norms[0][0], norms[2][0], norms[3][0])
    assert norms[1][1] > 0


def test_a_backdoor_works_on_stamped_images_and_hides_on_clean_ones(
    experiment: Maker, tmp_path: Path
) -> None:
    open_door = Adversary(BackdoorClient(Patch(side=2), target=3, share=0.5), num_clients=2)
    whole = experiment(
        data=Data(dataset="digits", num_clients=4),
        partition=Iid(),
        client=SgdClient(local_epochs=2),
        rounds=4,
        adversary=open_door,
    )
    rows = run(whole, out=tmp_path, controls=False).rows
    assert rounds_of(rows, "attack_success")[-1] > 0.8
    assert rounds_of(rows, "attack_success_untriggered")[-1] < 0.1
    assert rounds_of(rows, "accuracy")[-1] > 0.85
