"""Engines: each module has a function `run(pacer, experiment, ...)` with one round per turn."""
