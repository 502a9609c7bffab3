"""Automatic throttling: a worker slows down when the host or the database is busy."""
