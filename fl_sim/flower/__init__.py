"""Flower integration: records, grids, apps and adapters for Flower's strategies.

Only this package imports `flwr`, except for the strategies that an experiment may name
(`fl_sim.core.flower_strategies`). It is imported only by runs that use Flower, since that takes a
second.
"""
