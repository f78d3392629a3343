"""Impossible experiments are refused before any work, in one line that names the field."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp import strategy as flower

from clients.ditto import DittoClient
from clients.dp_sgd import DpSgdClient
from clients.sgd import SgdClient
from fl_sim import Adversary, Data, Evaluation, Experiment, FailurePolicy, Model, run
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.data.layout import Layout
from fl_sim.participants import AvailabilityWindow, Participation
from fl_sim.runs import feasibility
from strategies.bucketing import Bucketing
from strategies.bulyan import Bulyan
from strategies.dnc import DnC
from strategies.fltrust import FLTrust
from strategies.krum import Krum, MultiKrum
from strategies.nnm import NearestNeighborMixing
from strategies.trimmed_mean import TrimmedMean

Maker = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (Krum(), r"data.num_clients: Krum\(num_byzantine=1\) needs 2f\+3 = 5 clients; got 4"),
        (
            MultiKrum(num_selected=2),
            r"MultiKrum\(num_byzantine=1, num_selected=2\) needs 2f\+3 = 5",
        ),
        (Krum(num_byzantine=3), r"Krum\(num_byzantine=3\) needs 2f\+3 = 9 clients"),
        (Bulyan(), r"Bulyan\(num_byzantine=1\) needs 4f\+3 = 7 clients"),
        (TrimmedMean(num_byzantine=2), r"TrimmedMean\(num_byzantine=2\) needs 2f\+1 = 5 clients"),
        (DnC(num_byzantine=3), r"DnC\(num_byzantine=3\) needs .* clients; got 4"),
        (
            NearestNeighborMixing(rule=Krum(num_byzantine=2)),
            r"NearestNeighborMixing\(rule=Krum\(num_byzantine=2\)\) needs 2f\+5 = 7 clients",
        ),
        (Bucketing(rule=Krum()), r"Bucketing\(rule=Krum\) needs \d+ clients; got 4"),
    ],
    ids=repr,
)
def test_a_rule_reports_the_number_of_clients_that_it_needs(
    experiment: Maker, strategy: Any, words: str
) -> None:
    with pytest.raises(FieldError, match=words):
        feasibility.check(experiment(strategy=strategy))


def test_the_field_that_was_set_is_named(experiment: Maker) -> None:
    plan = Participation(clients_per_round=3)
    wanted = experiment(strategy=Krum(), participation=plan)
    with pytest.raises(FieldError, match=r"^participation.clients_per_round: Krum.*; got 3"):
        feasibility.check(wanted)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"strategy": FLTrust()}, r"^data.num_test: above the 100 root images that strategy FLTrust"
         r" takes out of the test images; got 60"),
        ({"strategy": FLTrust(num_root_samples=60)}, r"above the 60 root images"),
        ({"failures": FailurePolicy(min_updates=5)}, r"^failures.min_updates: at most 4 clients"),
        ({"strategy": TrimmedMean(), "participation": Participation(
            stays=(AvailabilityWindow(0, last_round=1), AvailabilityWindow(1, last_round=1)))},
         r"^participation.stays: at least 3 clients in every round; got '2 in round 2'"),
        ({"participation": Participation(deadline=1e-9)},
         r"^participation.deadline: at least 1 clients in time .*; got '0 in round 1'"),
        ({"evaluation": Evaluation(alone=DpSgdClient())},
         r"^model: a network that DpSgdClient can train"),
        ({"layout": Layout(0.99, withheld=True)}, r"^layout.fraction: so small that 1 clients"),
        ({"layout": Layout(0.5, "clients", withheld=True), "strategy": TrimmedMean()},
         r"^layout.fraction: so small that 3 clients still have images to train on; got 0.5"),
        ({"adversary": Adversary(DpSgdClient())}, r"^model: a network that DpSgdClient can train"),
    ],
)  # fmt: skip
def test_an_experiment_that_would_fail_during_the_run_is_refused(
    experiment: Maker, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(FieldError, match=words):
        feasibility.check(experiment(**fields))


def test_root_images_may_leave_a_single_test_image(experiment: Maker) -> None:
    feasibility.check(experiment(strategy=FLTrust(num_root_samples=59)))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("FedAvg", {"fraction_train": -3.0}, r"strategy.fraction_train: in \(0, 1\]; got -3.0"),
        ("FedAvg", {"fraction_train": 0.0}, r"strategy.fraction_train: in \(0, 1\]; got 0.0"),
        ("FedAvg", {"fraction_train": float("nan")}, r"fraction_train: expected a finite number"),
        ("FedAvg", {"fraction_train": "x"}, r"fraction_train: expected a finite number; got 'x'"),
        ("FedAvg", {"fraction_train": True}, r"fraction_train: expected a finite number"),
        ("FedAvg", {"fraction_evaluate": 2.0}, r"fraction_evaluate: between 0 and 1; got 2.0"),
        ("FedAvg", {"min_train_nodes": 2.5}, r"min_train_nodes: expected int; got 2.5"),
        ("FedAvg", {"min_train_nodes": -1}, r"min_train_nodes: at least 0; got -1"),
        ("FedAvg", {"min_train_nodes": 5}, r"min_train_nodes: at most 4 clients a round; got 5"),
        ("FedAvg", {"fraction_train": 0.1, "min_train_nodes": 0}, r"strategy: .*asks 0 of 4"),
        ("FedAvg", {"weighted_by_key": "x"}, r"weighted_by_key: 'num-examples', which the server"),
        ("FedAdam", {"weighted_by_key": "train_loss"}, r"strategy.weighted_by_key: 'num-examples'"),
        ("FedAvg", {"weighted_by_key": None}, r"weighted_by_key: expected str; got None"),
        ("FedAvg", {"configrecord_key": "x"}, r"strategy: .*configrecord_key has to be 'config'"),
        ("Krum", {"num_malicious_nodes": 100}, r"num_malicious_nodes: at most 1 of 4 clients"),
        ("Krum", {"num_malicious_nodes": -1}, r"num_malicious_nodes: at least 0"),
        ("MultiKrum", {"num_nodes_to_select": 9}, r"num_nodes_to_select: at most 4 clients"),
        ("MultiKrum", {"num_nodes_to_select": 0}, r"num_nodes_to_select: at least 1"),
        ("Bulyan", {"num_malicious_nodes": 1}, r"num_malicious_nodes: at most 0 of 4 clients"),
        ("FedAdam", {"beta_1": 1.5}, r"strategy.beta_1: in \[0, 1\); got 1.5"),
        ("FedAdam", {"tau": 0.0}, r"strategy.tau: above 0"),
        ("FedAdam", {"eta": float("inf")}, r"strategy.eta: expected a finite number"),
        ("FedAvgM", {"server_learning_rate": 1e300}, r"strategy: "),
        ("FedAvgM", {"server_momentum": 1.0}, r"strategy.server_momentum: in \[0, 1\)"),
        ("FedProx", {"proximal_mu": -1.0}, r"strategy.proximal_mu: at least 0"),
        ("QFedAvg", {"client_learning_rate": 0.0}, r"client_learning_rate: above 0"),
        ("QFedAvg", {"client_learning_rate": 0.1, "train_loss_key": "x"}, r"strategy: "),
    ],
)  # fmt: skip
def test_arguments_of_flowers_strategies_are_checked(
    experiment: Maker, name: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(FieldError, match=words):
        feasibility.check(experiment(strategy=getattr(flower, name)(**arguments)))


@pytest.mark.parametrize("inner", [3, "FedAvg", Krum(), flower.FedXgbBagging(), "wrapped"])
def test_a_wrong_inner_strategy_is_refused(experiment: Maker, inner: Any) -> None:
    cls: Any = flower.DifferentialPrivacyServerSideFixedClipping
    inner = cls(flower.FedAvg(), 0.1, 1.0, 4) if inner == "wrapped" else inner
    with pytest.raises(FieldError, match=r"strategy.strategy: expected a strategy of Flower's"):
        experiment(strategy=cls(inner, 0.1, 1.0, 4))


def test_arguments_of_an_inner_strategy_are_checked(experiment: Maker) -> None:
    cls: Any = flower.DifferentialPrivacyServerSideFixedClipping
    with pytest.raises(FieldError, match=r"strategy.strategy.fraction_train: in \(0, 1\]"):
        experiment(strategy=cls(flower.FedAvg(fraction_train=-3.0), 0.1, 1.0, 4))
    with pytest.raises(FieldError, match=r"strategy.num_sampled_clients: expected int"):
        experiment(strategy=cls(flower.FedAvg(), 0.1, 1.0, 4.0))
    # More than are sampled would make the noise too small for what it says.
    with pytest.raises(FieldError, match=r"num_sampled_clients: at most 4 clients a round; got 9"):
        feasibility.check(experiment(strategy=cls(flower.FedAvg(), 0.1, 1.0, 9)))


@pytest.mark.parametrize(
    "strategy",
    [
        flower.FedAvg(fraction_train=0.5),
        flower.FedAdam(),
        flower.FedMedian(),
        flower.Krum(num_malicious_nodes=1),
        flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2),
        flower.Bulyan(),
        flower.QFedAvg(client_learning_rate=0.05),
        flower.FedTrimmedAvg(beta=0.4),
        flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvgM(), 0.1, 1.0, 4),
    ],
    ids=lambda own: type(own).__name__,
)
def test_a_strategy_that_can_aggregate_is_left_unchanged(experiment: Maker, strategy: Any) -> None:
    wanted = experiment(strategy=strategy)
    before = wanted.to_json()
    feasibility.check(wanted)
    assert wanted.to_json() == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "--batch-clients on: model .*; it normalises by the statistics of a batch; got"),
        (
            {"model": Model("linear"), "client": DittoClient()},
            "--batch-clients on: client has to train",
        ),
    ],
)
def test_batched_clients_that_are_impossible_are_refused_before_any_work(
    experiment: Maker, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        run(experiment(**fields), out=tmp_path / "runs", batch_clients="on")
    assert not (tmp_path / "runs").exists()


def test_batched_clients_that_are_possible_are_accepted(experiment: Maker) -> None:
    feasibility.check(experiment(model=Model("linear"), client=SgdClient()), "on")


def test_many_rounds_are_checked_at_once(experiment: Maker) -> None:
    feasibility.check(experiment(rounds=1_000_000, data=Data("digits", 4, 200, 60)))
