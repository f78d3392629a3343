"""Who runs the rounds: each module has `run(turns, experiment, ...)`, which does one a turn."""
