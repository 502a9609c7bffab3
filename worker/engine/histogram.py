"""Histograms of durations with fixed buckets, so that those of several workers can be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, log10

BUCKETS = 28  # four to a decade; the last has all that took longer than 53 minutes


@dataclass(slots=True)
class Histogram:
    """Counts of durations. Bucket i has those up to 10**(i/4) ms, and above the bucket before.

    `embedding.percentile` in the SQL API reads them.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def count(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[find_bucket(seconds)] += 1

    def add(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self.counts = [
            ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)
        ]

    @property
    def trimmed(self) -> Sequence[int]:
        """The counts, without the empty buckets at the end."""
        used = max((place + 1 for place, count in enumerate(self.counts) if count), default=0)
        return self.counts[:used]


def find_bucket(seconds: float) -> int:
    """Return the bucket of a duration."""
    milliseconds = 1000 * seconds
    return min(ceil(4 * log10(milliseconds)), BUCKETS - 1) if milliseconds > 1 else 0
