"""Tests of experiments: refused values, run ids, JSON and controls."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flwr.serverapp import strategy as flower

from clients.faulty import FaultyClient
from clients.fedprox import FedProxClient
from clients.sgd import SgdClient
from fl_sim import Adversary, Data, Experiment, FailurePolicy, Model, Participation
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.data.layout import Layout
from fl_sim.data.partition import ClassesPerClient, Dirichlet, Iid, PowerLaw, Shards
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.krum import Krum, MultiKrum
from strategies.trimmed_mean import TrimmedMean

Maker = Callable[..., Experiment]

RANGES: list[tuple[Any, str, list[Any], str]] = [
    (Data, "num_clients", [0, -1], "at least 1"),
    (Data, "num_samples", [0, -5], "at least 1, or None for all"),
    (Data, "num_test", [0, -5], "at least 1, or None for all"),
    (Data, "held_out", [-0.1, 0.91], "between 0 and 0.9"),
    (Data, "classes", [(), (3,), (1, 2, 1)], "at least two different ones, or None for all"),
    (Model, "backbone_rate", [0.0, -0.1, 1.1], "in (0, 1]"),
    (Model, "pixels", [0, 7, 513], "between 8 and 512, or None for the default"),
    (Participation, "clients_per_round", [0, -1], "at least 1, or None"),
    (FailurePolicy, "retries", [-1], "at least 0"),
    (FailurePolicy, "min_updates", [0, -1], "at least 1"),
    (Layout, "fraction", [-0.01, 1.01], "between 0 and 1"),
    (Dirichlet, "alpha", [0.0, -1.0], "above 0"),
    (Dirichlet, "min_size", [0, -1], "at least 1"),
    (Shards, "classes_per_client", [0, -1], "at least 1"),
    (ClassesPerClient, "classes_per_client", [0, -1], "at least 1"),
    (PowerLaw, "exponent", [-0.1], "at least 0"),
    (PowerLaw, "min_size", [0], "at least 1"),
    (SgdClient, "learning_rate", [0.0, -0.1], "above 0"),
    (SgdClient, "momentum", [-0.1, 1.0], "in [0, 1)"),
    (SgdClient, "weight_decay", [-0.1], "at least 0"),
    (SgdClient, "batch_size", [0, -1], "at least 1"),
    (SgdClient, "local_epochs", [0, -1], "at least 1"),
    (SgdClient, "label_smoothing", [-1.0, 1.0], "between -1 and 1"),
    (FedProxClient, "mu", [-0.1], "at least 0"),
    (FedAvg, "server_learning_rate", [0.0, -1.0], "above 0"),
    (FedAvgM, "server_learning_rate", [0.0, -1.0], "above 0"),
    (FedAvgM, "momentum", [-0.1, 1.0], "in [0, 1)"),
    (TrimmedMean, "num_byzantine", [-1], "at least 0"),
    (Krum, "num_byzantine", [-1], "at least 0"),
    (MultiKrum, "num_selected", [0, -1], "at least 1, or None"),
    (ErrorMinimizing, "radius", [0.0, 1.5, 16.0], "in pixels of [0, 1], such as 16/255"),
    (ErrorMinimizing, "stop_error", [-0.1, 1.0], "in [0, 1)"),
    (ErrorMinimizing, "noise_steps", [0], "at least 1"),
    (ErrorMinimizing, "surrogate_steps", [0], "at least 1"),
    (ErrorMinimizing, "max_passes", [0], "at least 1"),
    (ErrorMinimizing, "batch_size", [0], "at least 1"),
    (ErrorMinimizing, "learning_rate", [0.0], "above 0"),
    (ErrorMinimizing, "step_size", [0.0, -0.1], "above 0"),
    (LinearSeparable, "patch", [0], "at least 1"),
]
CASES = [
    pytest.param(cls, name, value, allowed, id=f"{cls.__name__}.{name}={value}")
    for cls, name, values, allowed in RANGES
    for value in values
]
FLOATS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls, name in [
        (Data, "held_out"),
        (Layout, "fraction"),
        (Model, "backbone_rate"),
        (SgdClient, "learning_rate"),
        (SgdClient, "momentum"),
        (SgdClient, "weight_decay"),
        (SgdClient, "label_smoothing"),
        (FedProxClient, "mu"),
        (FedAvg, "server_learning_rate"),
        (FedAvgM, "server_learning_rate"),
        (Dirichlet, "alpha"),
        (PowerLaw, "exponent"),
        (ErrorMinimizing, "radius"),
        (ErrorMinimizing, "learning_rate"),
        (ErrorMinimizing, "step_size"),
    ]
]


@pytest.mark.parametrize(("cls", "name", "value", "allowed"), CASES)
def test_a_value_out_of_range_is_refused_with_field_range_and_value(
    cls: Any, name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(FieldError) as caught:
        cls(**{name: value})
    error = caught.value
    assert error.field == name
    assert allowed in error.allowed
    assert str(error) == f"{name}: {error.allowed}; got {value!r}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("cls", "name"), FLOATS)
def test_a_number_that_is_not_finite_is_refused(cls: Any, name: str, value: float) -> None:
    with pytest.raises(FieldError, match=f"^{name}: "):
        cls(**{name: value})


BOUNDARIES: list[tuple[Any, str, list[Any]]] = [
    (Data, "held_out", [0.0, 0.9]),
    (Model, "pixels", [8, 512, None]),
    (Model, "backbone_rate", [1.0]),
    (Layout, "fraction", [0.0, 1.0]),
    (SgdClient, "momentum", [0.0]),
    (SgdClient, "label_smoothing", [-0.99, 0.99]),
    (FedProxClient, "mu", [0.0]),
    (TrimmedMean, "num_byzantine", [0]),
    (RandomNoise, "radius", [1 / 255, 1.0]),
    (ErrorMinimizing, "stop_error", [0.0]),
    (PowerLaw, "exponent", [0.0]),
]


@pytest.mark.parametrize(("cls", "name", "values"), BOUNDARIES)
def test_a_value_at_the_end_of_its_range_is_taken(cls: Any, name: str, values: list[Any]) -> None:
    assert [getattr(cls(**{name: value}), name) for value in values] == values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.num_clients", 0, "data.num_clients: at least 1; got 0"),
        ("layout.fraction", 1.5, "layout.fraction: between 0 and 1; got 1.5"),
        ("protection.radius", 16.0, "protection.radius: in pixels of .*16/255; got 16.0"),
        ("client.momentum", 1.0, r"client.momentum: in \[0, 1\); got 1.0"),
        ("strategy.server_learning_rate", 0.0, "strategy.server_learning_rate: above 0; got 0.0"),
        ("rounds", 0, "rounds: at least 1; got 0"),
        ("seed", -1, "seed: at least 0; got -1"),
        ("name", "my run", "name: letters, digits and _; got 'my run'"),
        ("name", "../up", "name: letters, digits and _; got"),
        ("name", "", "name: letters, digits and _; got ''"),
        ("data.size", 3, "data.size: Data has dataset, .*; no field 'size'"),
        ("participation.clients_per_round", 5, r"clients_per_round: at most .* = 4; got 5"),
    ],
)
def test_a_field_out_of_range_is_named_by_its_path(
    experiment: Maker, path: str, value: Any, message: str
) -> None:
    base = experiment(protection=RandomNoise())
    with pytest.raises(FieldError, match=f"^(participation.)?{message}"):
        base.with_value(path, value)


def test_no_more_adversaries_than_clients(experiment: Maker) -> None:
    everybody = Adversary(FaultyClient(), num_clients=4)
    assert experiment(adversary=everybody).adversary == everybody
    with pytest.raises(FieldError, match=r"adversary.num_clients: at most 4 clients; got 5"):
        experiment(adversary=Adversary(FaultyClient(), num_clients=5))


def test_nothing_is_protected_without_a_protection(experiment: Maker) -> None:
    with pytest.raises(FieldError, match=r"layout.fraction: 0 without a protection; got 0.5"):
        experiment(layout=Layout(fraction=0.5))


def test_an_experiment_cannot_be_changed(experiment: Maker) -> None:
    with pytest.raises(AttributeError):
        experiment().rounds = 3  # type: ignore[misc]


def protected(experiment: Maker, **fields: Any) -> Experiment:
    usual: dict[str, Any] = {"protection": RandomNoise(), "layout": Layout(fraction=0.5)}
    return experiment(**(usual | fields))


def test_a_run_is_named_alike_for_every_seed(experiment: Maker) -> None:
    names = {protected(experiment, seed=seed).run_id for seed in range(5)}
    assert len(names) == 1
    (name,) = names
    assert len(name) == 12
    assert set(name) <= set("0123456789abcdef")


CHANGES: list[tuple[str, Any]] = [
    ("name", "other"),
    ("rounds", 3),
    ("client", FedProxClient()),
    ("client.learning_rate", 0.06),
    ("strategy", FedAvgM()),
    ("strategy", flower.FedAvg()),
    ("strategy.server_learning_rate", 0.5),
    ("data.num_clients", 5),
    ("data.num_samples", 201),
    ("data.num_test", None),
    ("data.held_out", 0.2),
    ("data.dataset", "fashion_mnist"),
    ("partition", Iid()),
    ("partition.alpha", 0.1),
    ("protection", ErrorMinimizing()),
    ("protection.radius", 16 / 255),
    ("protection.form", "sample"),
    ("layout.fraction", 0.25),
    ("layout.unit", "clients"),
    ("layout.provenance", "client"),
    ("layout.withheld", True),
    ("model", Model("resnet18")),
    ("model.norm", "group"),
    ("model.tune", "head"),
    ("participation.clients_per_round", 2),
    ("adversary", Adversary(FaultyClient())),
    ("failures.on_failure", "raise"),
    ("failures.min_updates", 2),
]


@pytest.mark.parametrize(("path", "value"), CHANGES, ids=[f"{p}={v}"[:40] for p, v in CHANGES])
def test_everything_but_the_seed_changes_the_name_of_a_run(
    experiment: Maker, path: str, value: Any
) -> None:
    base = protected(experiment)
    assert base.with_value(path, value).run_id != base.run_id


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("protection", ErrorMinimizing()),
        ("protection", None),
        ("protection.radius", 16 / 255),
        ("layout.unit", "clients"),
        ("layout.provenance", "client"),
    ],
)
def test_where_nothing_is_protected_it_does_not_matter_by_what(
    experiment: Maker, path: str, value: Any
) -> None:
    clean = protected(experiment, layout=Layout(fraction=0.0))
    assert clean.with_value(path, value).run_id == clean.run_id == clean.all_clean().run_id


@pytest.mark.parametrize(
    ("path", "whole", "same"),
    [
        ("layout.fraction", 1, 1.0),
        ("protection.radius", 1, 1.0),
        ("client.weight_decay", 0, 0.0),
        ("partition.alpha", 1, 1.0),
    ],
)
def test_a_number_has_one_name_however_it_is_written(
    experiment: Maker, path: str, whole: int, same: float
) -> None:
    base = protected(experiment)
    one, other = base.with_value(path, whole), base.with_value(path, same)
    assert one == other
    assert one.run_id == other.run_id
    assert one.to_json() == other.to_json()


def test_an_experiment_survives_json(experiment: Maker) -> None:
    for base in (
        experiment(),
        protected(experiment, partition=Shards(classes_per_client=3), strategy=Krum()),
        protected(experiment, adversary=Adversary(FaultyClient(), num_clients=2)),
    ):
        assert Experiment.from_json(base.to_json()) == base


def test_a_strategy_of_flower_survives_json(experiment: Maker) -> None:
    base = experiment(strategy=flower.FedTrimmedAvg(beta=0.1))
    again = Experiment.from_json(base.to_json())
    assert again.to_json() == base.to_json()
    assert again.run_id == base.run_id


@pytest.mark.parametrize("text", ["null", "3", "[]", "{}", '{"class": "fl_sim.experiment.Data"}'])
def test_json_that_is_no_experiment_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        Experiment.from_json(text)


def test_json_without_a_client_is_refused(experiment: Maker) -> None:
    content = json.loads(experiment().to_json())
    del content["client"]
    with pytest.raises(RequestError, match=r"client"):
        Experiment.from_json(json.dumps(content))


def test_the_clients_of_a_round_are_all_unless_fewer_are_asked(experiment: Maker) -> None:
    assert experiment().clients_per_round == 4
    fewer = experiment(participation=Participation(clients_per_round=3))
    assert fewer.clients_per_round == 3


def test_the_first_control_has_no_protection(experiment: Maker) -> None:
    base = protected(experiment)
    control = base.controls()["all"]
    assert (control.protection, control.layout) == (None, Layout())
    assert control == experiment()


def test_the_clean_part_is_all_there_is_in_the_second_control(experiment: Maker) -> None:
    layout = Layout(fraction=0.5, unit="clients", provenance="client")
    control = protected(experiment, layout=layout).controls()["clean"]
    assert control.protection is None
    assert control.layout == Layout(fraction=0.5, unit="clients", withheld=True)


def test_every_protection_shares_its_controls(experiment: Maker) -> None:
    noises = (RandomNoise(), ErrorMinimizing(radius=16 / 255), LinearSeparable())
    for name in ("all", "clean"):
        names = {
            protected(experiment, protection=noise).controls()[name].run_id for noise in noises
        }
        assert len(names) == 1


@pytest.mark.parametrize(
    ("fraction", "names"), [(0.0, []), (0.5, ["all", "clean"]), (1.0, ["all"])]
)
def test_controls_are_those_that_make_sense(
    experiment: Maker, fraction: float, names: list[str]
) -> None:
    base = protected(experiment, layout=Layout(fraction=fraction))
    assert list(base.controls()) == names


def test_controls_have_no_controls(experiment: Maker) -> None:
    for control in protected(experiment).controls().values():
        assert control.controls() == {}
