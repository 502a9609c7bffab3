"""Histograms of durations with fixed buckets, so that those of several workers can be added."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

BUCKETS = 28  # four to a decade; the last has all that took longer than 53 minutes
LIMITS = [10 ** (bucket / 4) for bucket in range(BUCKETS - 1)]  # milliseconds, of all but the last


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
    return bisect_left(LIMITS, 1000 * seconds)
