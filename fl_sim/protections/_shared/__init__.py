"""Optimisation shared by the protections."""
