"""Values of options as `Literal` types, importable by the command line without PyTorch."""

from typing import Literal

Engine = Literal["local", "ray", "flower"]
BatchMode = Literal["auto", "on", "off"]
Precision = Literal["float32", "tf32", "bf16"]
ProgressMode = Literal["bar", "json", "none"]
Kind = Literal[
    "protections",
    "countermeasures",
    "strategies",
    "clients",
    "metrics",
    "attacks",
    "datasets",
    "models",
    "partitions",
    "corruptions",
    "domains",
    "planted",
    "triggers",
    "samplers",
    "columns",
]
