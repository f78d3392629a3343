"""Data types of a run, and the abstract classes of plug-ins.

Axis letters, project-wide: `n` samples (or updates, in a rule), `c h w` channels, height and
width, `d` features, `k` clients, `p` trainable parameters, `y` classes. Pixels are stored as
`uint8` and are floats in [0, 1] everywhere else; radii have the same unit, such as 8/255. A
plug-in is one final frozen dataclass in one file, with a default for every field and a line
`Source:` in its docstring.
"""

from fl_sim.contracts.clients import Client, ColludingClient, Collusion, SgdConfig
from fl_sim.contracts.corruptions import Corruption
from fl_sim.contracts.countermeasures import (
    Augmentation,
    Countermeasure,
    Filter,
    Pipeline,
    WorstCase,
)
from fl_sim.contracts.domains import DomainTransform
from fl_sim.contracts.metrics import Metric
from fl_sim.contracts.nouns import Dataset, Failure, Images, Labels, Row, Shard, Update
from fl_sim.contracts.privacy import NO_SAMPLING, Draw, Release, Releases, Sampling
from fl_sim.contracts.protections import Protection
from fl_sim.contracts.round_record import RoundRecord, Triggered
from fl_sim.contracts.rules import (
    AggregationResult,
    AggregationRule,
    InformedRule,
    LinearRule,
    LowRankPlace,
    RoundContext,
    Updates,
    Weights,
)

__all__ = [
    "NO_SAMPLING",
    "AggregationResult",
    "AggregationRule",
    "Augmentation",
    "Client",
    "ColludingClient",
    "Collusion",
    "Corruption",
    "Countermeasure",
    "Dataset",
    "DomainTransform",
    "Draw",
    "Failure",
    "Filter",
    "Images",
    "InformedRule",
    "Labels",
    "LinearRule",
    "LowRankPlace",
    "Metric",
    "Pipeline",
    "Protection",
    "Release",
    "Releases",
    "RoundContext",
    "RoundRecord",
    "Row",
    "Sampling",
    "SgdConfig",
    "Shard",
    "Triggered",
    "Update",
    "Updates",
    "Weights",
    "WorstCase",
]
