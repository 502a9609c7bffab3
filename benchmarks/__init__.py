"""What the worker reaches on this machine, and what the machine would reach: `scripts/bench`."""
