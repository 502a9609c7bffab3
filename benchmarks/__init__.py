"""Benchmarks of the worker, each with the limit of this machine: `scripts/bench`."""
