"""Experiment files, overrides, sweeps and validation."""
