"""The nouns of a run, and the abstract plug-ins.

Axis letters, project-wide: `n` samples (or updates, in a rule), `c h w` channels, height
and width, `d` features, `k` clients, `p` trainable parameters, `y` classes.
Pixels are `uint8` in storage and floats in [0, 1] everywhere else; radii are in the same
unit, such as 8 / 255. Each plug-in is one final frozen dataclass in one file, with a default
for every field and a line `Source:` in its docstring.
"""

from fl_sim.contracts.clients import Client, ColludingClient, Collusion, Descent
from fl_sim.contracts.countermeasures import (
    Augmentation,
    Countermeasure,
    Filter,
    Pipeline,
    WorstCase,
)
from fl_sim.contracts.metrics import Metric, Observation, Triggered
from fl_sim.contracts.nouns import Dataset, Failure, Row, Shard, Update
from fl_sim.contracts.privacy import EVERYBODY, Draw, Release, Releases, Sampling
from fl_sim.contracts.protections import Protection
from fl_sim.contracts.rules import (
    AggregationRule,
    Decision,
    InformedRule,
    LinearRule,
    Senders,
)

__all__ = [
    "EVERYBODY",
    "AggregationRule",
    "Augmentation",
    "Client",
    "ColludingClient",
    "Collusion",
    "Countermeasure",
    "Dataset",
    "Decision",
    "Descent",
    "Draw",
    "Failure",
    "Filter",
    "InformedRule",
    "LinearRule",
    "Metric",
    "Observation",
    "Pipeline",
    "Protection",
    "Release",
    "Releases",
    "Row",
    "Sampling",
    "Senders",
    "Shard",
    "Triggered",
    "Update",
    "WorstCase",
]
