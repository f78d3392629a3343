"""Metrics: pure functions, and the families of numbers that every run records per round."""
