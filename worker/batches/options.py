"""The settings of batches."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """`poll`: the time between two looks at a batch under way. `most_tokens`: how many the account
    lets be enqueued for a model; None: not known. `cache_mb`: of the cache of vectors."""

    poll: timedelta = timedelta(seconds=60)
    most_tokens: int | None = None
    cache_mb: int = 0
