"""Reading and checking experiments: files, overrides, sweeps and validation."""
