"""How a run works, whatever is plugged in."""
