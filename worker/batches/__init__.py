"""Batches of a provider's Batch API: jobs leave in files, vectors come back in files."""
