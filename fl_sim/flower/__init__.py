"""Flower integration: records, grids, apps and adapters for Flower's strategies.

Everything that names `flwr` is here, but for the strategies that an experiment can be made of
(`fl_sim.core.flower_strategies`). The types that other packages need are re-exported.
"""

from flwr.app import ArrayRecord as ArrayRecord
from flwr.clientapp import ClientApp as ClientApp
from flwr.serverapp import Grid as Grid
