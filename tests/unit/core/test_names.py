"""Tests of plug-ins by name, as `--set` and descriptions give them."""

from typing import Any

import pytest
from flwr.serverapp import strategy as flower

from clients.sgd import SgdClient
from fl_sim import Experiment
from fl_sim.cli.catalogue import list_entries
from fl_sim.contracts import AggregationRule, Client, Countermeasure, Protection
from fl_sim.core.errors import FieldError
from fl_sim.core.names import choose_plugin
from fl_sim.countermeasures.cut_out import CutOut
from fl_sim.countermeasures.grey import Grey
from fl_sim.data.partition import Iid, Partition
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.bucketing import Bucketing
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.trimmed_mean import TrimmedMean

BASE = Experiment(name="a", client=SgdClient(), strategy=FedAvg())


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("strategy", "Krum", Krum()),
        ("strategy", "krum", Krum()),
        ("strategy", "trimmed_mean", TrimmedMean()),
        ("strategy", "trimmed-mean", TrimmedMean()),
        ("strategy", "FedAvg", FedAvg()),
        ("protection", "sem", StableErrorMinimizing()),
        ("protection", "EM", ErrorMinimizing()),
        ("protection", "ErrorMinimizing", ErrorMinimizing()),
        ("client", "SgdClient", SgdClient()),
        ("client", "sgd", SgdClient()),
        ("partition", "iid", Iid()),
        ("client.countermeasures", "CutOut", (CutOut(),)),
        ("client.countermeasures", "CutOut,grey", (CutOut(), Grey())),
    ],
)
def test_a_name_stands_for_the_plug_in(path: str, name: str, value: Any) -> None:
    owner: Any = BASE.with_value(path, name)
    for part in path.split("."):
        owner = getattr(owner, part)
    assert owner == value


def test_names_reach_into_plug_ins_and_json() -> None:
    inner = BASE.with_value("strategy", Bucketing()).with_value("strategy.rule", "krum")
    assert inner.strategy == Bucketing(rule=Krum())
    described = {**BASE.describe(), "strategy": "krum", "protection": "sem"}
    assert type(BASE).from_json(__import__("json").dumps(described)).strategy == Krum()


def test_a_strategy_that_only_flower_has_is_found_by_its_name() -> None:
    assert type(BASE.with_value("strategy", "FedMedian").strategy) is flower.FedMedian


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("strategy", "Kurm", r"strategy: expected AggregationRule or Strategy: did you mean 'Krum'"
         r"\? One of .*Bulyan.*; got 'Kurm'"),
        ("protection", "sme", r"did you mean 'sem'\? One of .*StableErrorMinimizing \(sem\)"),
        ("client", "FedAvg", r"client: expected Client: .*FedProxClient.*SgdClient"),
        ("partition", "x", r"partition: expected Partition: one of ByOwner, ClassesPerClient, Di"),
        ("client.countermeasures", "CutOut,x", r"client.countermeasures: .*CutMix, CutOut"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_those_there_are(path: str, name: str, words: str) -> None:
    with pytest.raises(FieldError, match=words):
        BASE.with_value(path, name)


@pytest.mark.parametrize(
    ("kind", "field", "base"),
    [
        ("strategies", "strategy", AggregationRule),
        ("clients", "client", Client),
        ("protections", "protection", Protection),
        ("countermeasures", "countermeasures", Countermeasure),
        ("partitions", "partition", Partition),
    ],
)
def test_every_name_that_is_listed_is_taken(kind: Any, field: str, base: Any) -> None:
    bases = (base, flower.Strategy) if kind == "strategies" else (base,)
    for entry in list_entries(kind):
        assert choose_plugin(entry.name, field, bases).__name__ == entry.name
        assert choose_plugin(entry.name.lower(), field, bases).__name__ == entry.name
