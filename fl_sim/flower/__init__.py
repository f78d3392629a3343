"""Flower integration: records, grids, apps and adapters for Flower's strategies.

Only this package imports `flwr`, except for the strategies that an experiment may name
(`fl_sim.core.flower_strategies`). Types that other packages need are re-exported.
"""

from flwr.app import ArrayRecord as ArrayRecord
from flwr.clientapp import ClientApp as ClientApp
from flwr.serverapp import Grid as Grid
