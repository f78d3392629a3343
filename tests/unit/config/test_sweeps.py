"""Tests of axes of a sweep: values of one field, and fields that change together."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from clients.fedprox import FedProxClient
from fl_sim.config.sweeps import expand_cells, validate_seeds
from fl_sim.core.errors import FieldError, RequestError
from fl_sim.experiment import Experiment, Model
from fl_sim.protections.random_noise import RandomNoise
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
    cells = expand_cells(experiment(), axes, (0, 1))
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
        expand_cells(experiment(), {"method": {"SGD": {"client.batchsize": 8}}}, None)


def test_values_that_read_alike_are_refused(experiment: Maker) -> None:
    with pytest.raises(FieldError, match="values that read apart"):
        expand_cells(experiment(), {"client.momentum": [0.5, 0.9, 0.5]}, None)


def test_models_that_differ_read_apart(experiment: Maker) -> None:
    models = [Model(), Model(norm="group"), Model(pixels=64), Model(rank=8)]
    cells = expand_cells(experiment(), {"model": models}, None)
    assert [cell.settings["model"] for cell in cells] == [
        "small_cnn, random, full",
        "small_cnn, random, full, norm=group",
        "small_cnn, random, full, pixels=64",
        "small_cnn, random, full, rank=8",
    ]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"seed": [1, 2]}, "AXES: seed: in SEEDS or --seeds, not in an axis"),
        ({"how": {"a": {"seed": 1}}}, "AXES: seed: in SEEDS or --seeds, not in an axis"),
        ({"name": ["a", "b"]}, "AXES: name: one for all cells"),
        ({"client.learning_rate": [1, 1.0]}, "1 and client.learning_rate 1.0 are the same"),
        ({"how": {"a": {"rounds": 2}, "b": {}}}, "how a and how b are the same experiment"),
        ({"rounds": [2, 3], "how": {"a": {"rounds": 3}}}, "rounds 2, how a and rounds 3, how a"),
        ({"strategy": ["Krum", "krum"], "data.num_clients": [6]}, "strategy Krum, .* are the same"),
        ({"rounds": []}, "AXES: rounds: at least one value"),
        ({"rounds": "23"}, "AXES: rounds: a list of values"),
    ],
)  # fmt: skip
def test_axes_that_would_count_one_run_twice_or_are_none_are_refused(
    experiment: Maker, axes: Any, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        expand_cells(experiment(), axes, None)


@pytest.mark.parametrize(
    "seeds", [(0, 0), [1, 2, 1], (-1,), (True,), (2**63,), (), "01", 3, (1.5,)]
)
def test_seeds_that_are_none_or_count_twice_are_refused(seeds: Any) -> None:
    with pytest.raises(FieldError, match=r"^--seeds: a list of different whole numbers"):
        validate_seeds(seeds, "--seeds")


def test_the_largest_seed_is_taken(experiment: Maker) -> None:
    assert expand_cells(experiment(), {}, [2**63 - 1])[0].experiment.seed == 2**63 - 1


def test_plug_ins_may_be_named_in_an_axis(experiment: Maker) -> None:
    cells = expand_cells(experiment(), {"strategy": ["Krum", "FedAvg"]}, None)
    assert [cell.experiment.strategy for cell in cells] == [Krum(), FedAvg()]


def test_protections_that_do_not_matter_still_share_one_run(experiment: Maker) -> None:
    axes = {"protection": ["em", "sem"], "layout.fraction": [0.0, 0.5]}
    cells = expand_cells(experiment(protection=RandomNoise()), axes, None)
    assert len({cell.key for cell in cells}) == 3


@pytest.mark.parametrize(
    ("second", "path", "values"),
    [
        ("client.momentum", "client.momentum", [0.2, 0.3]),
        ("client", "client.momentum", [FedProxClient()]),
        ("rounds", "rounds", [1, 2]),
    ],
)
def test_an_axis_that_undoes_another_is_refused(
    experiment: Maker, second: str, path: str, values: list[Any]
) -> None:
    first = {"a": {path: values[0] if second == path else 0.5}}
    with pytest.raises(RequestError, match=f"sets {second}, and would undo {path} of first"):
        expand_cells(experiment(), {"first": first, second: values}, None)


def test_an_axis_may_change_a_part_of_what_one_before_it_sets(experiment: Maker) -> None:
    axes = {"client": [FedProxClient()], "client.mu": [0.3, 0.5]}
    found = [cell.experiment.client for cell in expand_cells(experiment(), axes, None)]
    assert found == [FedProxClient(mu=0.3), FedProxClient(mu=0.5)]


def test_seeds_without_end_are_refused() -> None:
    with pytest.raises(FieldError, match="SEEDS: at most 100,000 seeds"):
        validate_seeds(itertools.count(), "SEEDS")
