"""A worker that keeps pgvector columns in step with text."""

__version__ = "0.1.0"
