"""Federated learning when some participants protect their data.

Importing this package turns Flower's telemetry and update check off, so it has
to come before the first import of `flwr`; nothing here phones home.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from fl_sim.experiment import Data, Evaluation, Experiment, FailurePolicy, Model
from fl_sim.participants import Adversary, Participation, Stay
from fl_sim.results import load_results
from fl_sim.runner import run, sweep

__all__ = [
    "Adversary",
    "Data",
    "Evaluation",
    "Experiment",
    "FailurePolicy",
    "Model",
    "Participation",
    "Stay",
    "load_results",
    "run",
    "sweep",
]
