"""Cost of a round beside a plain loop, Flower and pfl: `make bench`, docs/benchmarks.md."""
