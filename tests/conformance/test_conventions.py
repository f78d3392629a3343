"""Every plug-in of every kind is one final frozen dataclass that can be built and cites."""

import dataclasses
import inspect
import pickle

import pytest
from flwr.serverapp import strategy as flower

from fl_sim.cli import catalogue
from fl_sim.contracts import (
    AggregationRule,
    Client,
    Corruption,
    Countermeasure,
    DomainTransform,
    Metric,
    Protection,
)
from fl_sim.contracts.attacks import MembershipAttack
from fl_sim.core.plugins import discover, summary_of
from fl_sim.data.partition import Partition
from fl_sim.data.sources import Source
from fl_sim.planted import Planted
from fl_sim.samplers import Sampler
from fl_sim.triggers import Trigger

KINDS: dict[str, type] = {
    "strategies": AggregationRule,
    "clients": Client,
    "fl_sim.protections": Protection,
    "fl_sim.countermeasures": Countermeasure,
    "fl_sim.metrics": Metric,
    "fl_sim.attacks": MembershipAttack,
    "fl_sim.data": Partition,
    "fl_sim.data.corruptions": Corruption,
    "fl_sim.planted": Planted,
    "fl_sim.data.domains": DomainTransform,
    "fl_sim.triggers": Trigger,
    "fl_sim.samplers": Sampler,
}
PLUGINS = [cls for package, base in KINDS.items() for cls in discover(package, base)]
SOURCES = discover("fl_sim.data.sources", Source)  # type: ignore[type-abstract]
every_plugin = pytest.mark.parametrize("cls", PLUGINS, ids=lambda cls: cls.__name__)
whatever_cites = pytest.mark.parametrize("cls", PLUGINS + SOURCES, ids=lambda cls: cls.__name__)


@pytest.mark.parametrize("package", KINDS)
def test_every_kind_has_plug_ins(package: str) -> None:
    assert discover(package, KINDS[package])


@every_plugin
def test_a_plug_in_can_be_built_without_arguments(cls: type) -> None:
    assert dataclasses.is_dataclass(cls)
    assert cls() == cls()


@every_plugin
def test_a_plug_in_cannot_be_changed(cls: type) -> None:
    plugin = cls()
    for name in [field.name for field in dataclasses.fields(plugin)] or ["anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(plugin, name, None)


@every_plugin
def test_a_plug_in_is_final_so_that_others_wrap_it(cls: type) -> None:
    assert getattr(cls, "__final__", False)


@every_plugin
def test_a_plug_in_has_no_constructor_of_its_own(cls: type) -> None:
    lines = inspect.getsource(cls)
    assert "def __init__(" not in lines


@whatever_cites
def test_the_first_line_says_what_it_does(cls: type) -> None:
    summary, _ = summary_of(cls)
    assert summary == summary.strip()
    assert 10 < len(summary) <= 100
    assert summary.endswith((".", ":")) or ". " in summary


@whatever_cites
def test_the_docstring_names_its_source(cls: type) -> None:
    _, source = summary_of(cls)
    assert "http" in source or "this project" in source or "usual definition" in source


@whatever_cites
def test_the_summary_stands_apart_from_what_follows(cls: type) -> None:
    lines = (inspect.getdoc(cls) or "").splitlines()
    assert len(lines) > 2
    assert lines[1] == ""


@every_plugin
def test_fields_are_explained_where_there_are_any(cls: type) -> None:
    bases = (base for base in cls.__mro__ if dataclasses.is_dataclass(base))
    text = " ".join(inspect.getdoc(base) or "" for base in bases)
    for field in dataclasses.fields(cls):
        assert field.name in text or cls.__module__.startswith("fl_sim.data")


@every_plugin
def test_a_plug_in_pickles(cls: type) -> None:
    assert pickle.loads(pickle.dumps(cls())) == cls()


@every_plugin
def test_wrong_types_of_numbers_are_refused(cls: type) -> None:
    numbers = [f for f in dataclasses.fields(cls) if isinstance(f.default, int | float)]
    for field in numbers:
        with pytest.raises((ValueError, TypeError), match=field.name):
            cls(**{field.name: "many"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@every_plugin
def test_numbers_that_are_not_finite_are_refused(cls: type, value: float) -> None:
    for field in dataclasses.fields(cls):
        if isinstance(field.default, float):
            with pytest.raises(ValueError, match=f"^{field.name}: "):
                cls(**{field.name: value})


@pytest.mark.parametrize("kind", catalogue.PACKAGES)
def test_the_catalogue_lists_exactly_what_is_found(kind: catalogue.Kind) -> None:
    package, base = catalogue.PACKAGES[kind]
    entries = catalogue.list_entries(kind)
    ours = [entry.name for entry in entries if not entry.source.startswith("built into Flower")]
    assert ours == [cls.__name__ for cls in discover(package, base)]


def test_flowers_strategies_are_listed_apart_from_ours() -> None:
    entries = catalogue.list_entries("strategies")
    theirs = {entry.name for entry in entries if entry.source.startswith("built into Flower")}
    assert {"FedAvg", "FedMedian", "Bulyan"} <= theirs <= set(flower.__all__)


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_the_catalogue_lists_data_and_models_with_a_line_each(kind: catalogue.Kind) -> None:
    entries = catalogue.list_entries(kind)
    assert {entry.name for entry in entries} >= (
        {"digits", "fashion_mnist"} if kind == "datasets" else {"small_cnn", "efficientnet_lite0"}
    )
    assert all(entry.text and entry.source for entry in entries)
