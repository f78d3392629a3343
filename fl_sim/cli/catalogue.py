"""Catalogue of all plug-ins, datasets, models and result columns, with their sources."""

from typing import Any, NamedTuple

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
from fl_sim.core.flower_strategies import FLOWER, find_strategy, list_strategies
from fl_sim.core.literals import Kind as Kind
from fl_sim.core.plugins import discover, summary_of
from fl_sim.core.serialization import argument_names_of, format_field, make_default
from fl_sim.data.partition import Partition
from fl_sim.data.sources import discover_sources
from fl_sim.models.backbones import discover_backbones
from fl_sim.models.networks import NETWORKS
from fl_sim.planted import Planted
from fl_sim.results.columns import TABLES
from fl_sim.samplers import Sampler
from fl_sim.triggers import Trigger

PACKAGES: dict[str, tuple[str, type[Any]]] = {
    "protections": ("fl_sim.protections", Protection),
    "countermeasures": ("fl_sim.countermeasures", Countermeasure),
    "strategies": ("strategies", AggregationRule),
    "clients": ("clients", Client),
    "metrics": ("fl_sim.metrics", Metric),
    "attacks": ("fl_sim.attacks", MembershipAttack),
    "partitions": ("fl_sim.data", Partition),
    "corruptions": ("fl_sim.data.corruptions", Corruption),
    "domains": ("fl_sim.data.domains", DomainTransform),
    "planted": ("fl_sim.planted", Planted),
    "triggers": ("fl_sim.triggers", Trigger),
    "samplers": ("fl_sim.samplers", Sampler),
}


BASES = tuple(base for _, base in PACKAGES.values())


class Item(NamedTuple):
    """An entry of a list; `use` gives the module of a plug-in and its fields."""

    name: str
    text: str
    source: str
    use: str = ""


def list_entries(kind: Kind) -> list[Item]:
    """Return all entries of a kind; plug-ins are found by walking their package."""
    if kind == "datasets":
        return [Item(name, *summary_of(cls)) for name, cls in list_classes(kind).items()]
    if kind == "models":
        return _list_models()
    if kind == "columns":
        return [
            Item(c.name, c.meaning, table.place) for table in TABLES.values() for c in table.columns
        ]
    classes = list_classes(kind)
    plugins = [Item(name, *summary_of(cls), describe_use(cls)) for name, cls in classes.items()]
    if kind == "strategies":  # and those of Flower itself, which can be used as they are
        for name in list_strategies():
            text = summary_of(find_strategy(name))[0]
            plugins.append(Item(name, text, f"built into Flower: {FLOWER}.{name}"))
    return plugins


def list_classes(kind: str) -> dict[str, type[Any]]:
    """Return the classes of a kind, datasets included, by name."""
    if kind == "datasets":
        return {name: type(source) for name, source in discover_sources().items()}
    package, base = PACKAGES[kind]
    return {cls.__name__: cls for cls in discover(package, base)}


def describe_use(cls: type[Any]) -> str:
    """Return the module of a plug-in, and its fields with their defaults.

    >>> from fl_sim.data.partition import Dirichlet
    >>> describe_use(Dirichlet)
    'fl_sim.data.partition: Dirichlet(alpha=0.5, min_size=10, capped=False)'
    """
    default = make_default(cls)
    names = argument_names_of(cls)
    fields = ", ".join(f"{name}={write_value(getattr(default, name))}" for name in names)
    return f"{cls.__module__}: {cls.__name__}({fields})"


def write_value(value: Any) -> str:
    """Return a value as it is written in a list: text in quotes, a part by its name."""
    return repr(value) if isinstance(value, str) else format_field(value)


def _list_models() -> list[Item]:
    ours = [
        Item(name, (build.__doc__ or "").split("\n")[0].removeprefix("Return "), "random start")
        for name, build in NETWORKS.items()
    ]
    others = [
        Item(name, source.text, source.describe_origin(name))
        for source in discover_backbones().values()
        for name in source.list_networks()
    ]
    more = [
        Item(
            source.pattern or f"{name}:NAME",
            source.text,
            f"such as {source.example}; {source.describe_origin('')}",
        )
        for name, source in discover_backbones().items()
        if not source.list_networks()
    ]
    return [*ours, *others, *more]
