"""Backups of vectors: where they are, their files, and which of them are kept."""
