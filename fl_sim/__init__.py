"""Federated learning simulations in which some participants protect their data.

Importing this package turns off the telemetry and update checks of its dependencies, so import it
before `flwr`, `mlflow` or `wandb`.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("fl_sim runs on Linux and macOS; on Windows, use it in WSL 2")

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

if os.environ.get("FL_SIM_PORTABLE") == "1":  # before any library that reads the switches
    from fl_sim.core.portable import choose_portable_instructions

    choose_portable_instructions()

if TYPE_CHECKING:
    from fl_sim.core.device import use_device
    from fl_sim.core.precision import use_precision
    from fl_sim.data.layout import Layout, Protects
    from fl_sim.experiment import Data, EarlyStop, Evaluation, Experiment, FailurePolicy
    from fl_sim.model import Model
    from fl_sim.participants import Absent, Adversary, AvailabilityWindow, Participation
    from fl_sim.results import load_results
    from fl_sim.rounds.callbacks import Callback
    from fl_sim.runs.runner import run, sweep
    from fl_sim.scenario import Scenario, find_clients

__all__ = [
    "Absent",
    "Adversary",
    "AvailabilityWindow",
    "Callback",
    "Data",
    "EarlyStop",
    "Evaluation",
    "Experiment",
    "FailurePolicy",
    "Layout",
    "Model",
    "Participation",
    "Protects",
    "Scenario",
    "find_clients",
    "load_results",
    "run",
    "sweep",
    "use_device",
    "use_precision",
]

_HOMES = {
    "fl_sim.core.device": ("use_device",),
    "fl_sim.core.precision": ("use_precision",),
    "fl_sim.data.layout": ("Layout", "Protects"),
    "fl_sim.model": ("Model",),
    "fl_sim.participants": ("Absent", "Adversary", "Participation", "AvailabilityWindow"),
    "fl_sim.results": ("load_results",),
    "fl_sim.rounds.callbacks": ("Callback",),
    "fl_sim.runs.runner": ("run", "sweep"),
    "fl_sim.scenario": ("Scenario", "find_clients"),
}


def __dir__() -> list[str]:
    """Return all names of the package, including those that are imported on first use."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that workers start fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = [home for home, names in _HOMES.items() if name in names]
    return getattr(importlib.import_module(homes[0] if homes else "fl_sim.experiment"), name)
