"""Judged queries, and how well a ranking agrees with their judgments."""
