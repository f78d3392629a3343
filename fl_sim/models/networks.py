"""All networks of this project, by name."""

from fl_sim.models.architectures import ARCHITECTURES, Architecture
from fl_sim.models.large import LARGE

NETWORKS: dict[str, Architecture] = ARCHITECTURES | LARGE
