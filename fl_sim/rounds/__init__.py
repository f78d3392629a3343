"""The training loop: rounds, aggregation, collusion and the metrics of each round."""
