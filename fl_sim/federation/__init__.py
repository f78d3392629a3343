"""The federation before its first round: records, shards, noise and the initial model."""
