"""What a round costs, beside a plain loop, Flower and pfl: `make bench`, docs/benchmarks.md."""
