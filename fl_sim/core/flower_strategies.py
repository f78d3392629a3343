"""Flower's strategies as parts of an experiment: their names, arguments and checks."""

import inspect
import math
from typing import Any, get_type_hints

from fl_sim.core.errors import FieldError, require
from fl_sim.core.flower_types import Strategy

FLOWER = "flwr.serverapp.strategy"
# Strategies that need code in the clients, and one that stores values computed from its arguments
# instead of the arguments, so that it cannot be rebuilt from JSON.
NEED_CLIENTS = (
    "DifferentialPrivacyClientSideAdaptiveClipping",
    *("DifferentialPrivacyClientSideFixedClipping", "FedXgbBagging", "FedXgbCyclic"),
)
NOT_REBUILDABLE = ("DifferentialPrivacyServerSideAdaptiveClipping",)
FUNCTIONS = ("selection_rule", "accountant")  # of Flower strategies: no plain values

# Arguments that divide or make every update vanish at 0; decay factors; shares of the clients.
ABOVE_ZERO = ("clipping_norm", "client_learning_rate", "tau", "initial_clipping_norm")
BELOW_ONE = ("beta_1", "beta_2", "server_momentum")
SHARES = ("fraction_train", "fraction_evaluate", "target_clipped_quantile")
COUNTED = "num-examples"  # the one weight that the server can count by itself
AT_LEAST_ONE = ("num_nodes_to_select", "num_sampled_clients")


def list_strategies() -> list[str]:
    """Return the names of the strategies that an experiment can use, sorted."""
    unusable = ("Strategy", "Result", *NEED_CLIENTS, *NOT_REBUILDABLE)
    return sorted(name for name in _import_module().__all__ if name not in unusable)


def find_strategy(name: str) -> Any:
    """Return the object of this name in Flower's module of strategies; None if there is none."""
    return getattr(_import_module(), name, None)


def _import_module() -> Any:
    from flwr.serverapp import strategy  # a second to import

    return strategy


def argument_names(cls: type) -> list[str]:
    """Return the names of a strategy's arguments that are plain values, or another strategy."""
    known = inspect.signature(cls).parameters
    return [n for n in known if not n.endswith("_fn") and n not in FUNCTIONS]


def check_arguments(strategy: Strategy) -> None:
    """Raise a `FieldError` for the first argument of a wrong type or out of range.

    Flower itself checks only a few of them, some not before a round is aggregated.
    """
    hints = get_type_hints(type(strategy).__init__)
    for name in argument_names(type(strategy)):
        if not hasattr(strategy, name):
            continue  # of those in FORGETFUL, which are refused elsewhere
        value = getattr(strategy, name)
        _check_type(name, value, hints.get(name))
        if isinstance(value, Strategy):
            _check_inner(name, value)
        elif name == "weighted_by_key":
            allowed = f"{COUNTED!r}, which the server counts: what else there is, clients claim"
            require(value == COUNTED, name, allowed, value)
        elif isinstance(value, int | float):
            _check_range(name, value)


def _check_type(name: str, value: object, hint: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float:
        finite = is_number and math.isfinite(value)  # type: ignore[arg-type]
        require(finite, name, "expected a finite number", value)
    elif hint is int:
        require(is_number and isinstance(value, int), name, "expected int", value)
    elif hint is str:
        require(isinstance(value, str) and value != "", name, "expected str", value)
    elif isinstance(hint, type) and issubclass(hint, Strategy):
        allowed = "expected a strategy of Flower's, without privacy of its own"
        require(isinstance(value, Strategy), name, allowed, value)


def _check_inner(name: str, strategy: Strategy) -> None:
    """Check a strategy that another one wraps."""
    inner_name = type(strategy).__name__
    usable = inner_name in list_strategies() and "strategy" not in argument_names(type(strategy))
    allowed = "expected a strategy of Flower's, without privacy of its own"
    require(usable, name, allowed, inner_name)
    try:
        check_arguments(strategy)
    except FieldError as error:
        raise error.with_prefix(name) from None


def _check_range(name: str, value: int | float) -> None:
    if name in SHARES:
        # Without a single client to train, no round can be aggregated.
        above = value > 0 or name != "fraction_train"
        allowed = "in (0, 1]" if name == "fraction_train" else "between 0 and 1"
        require(above and 0 <= value <= 1, name, allowed, value)
    elif name in BELOW_ONE:
        require(0 <= value < 1, name, "in [0, 1)", value)
    elif name in ABOVE_ZERO:
        require(value > 0, name, "above 0", value)
    elif name in AT_LEAST_ONE:
        require(value >= 1, name, "at least 1", value)
    else:
        require(value >= 0, name, "at least 0", value)
