"""Base classes and helpers shared by the aggregation rules."""
