"""A good guest: how busy the machine and the database are, and what a worker makes of it."""
