"""Base classes and vector operations shared by the aggregation rules."""
