"""Numbers about a round: pure functions, and the families that every run records."""
