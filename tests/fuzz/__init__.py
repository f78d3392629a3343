"""Damaged and hostile inputs, drawn from a seed: `make fuzz ARGS="--minutes 5 --seed 0"`."""
