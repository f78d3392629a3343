"""Runs and sweeps: options, checkpoints, callbacks, replays and profiling."""
