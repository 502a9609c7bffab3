"""The usual length (Euclidean norm) of the vectors of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.verification.comparison import Vector

FEWEST = 10  # vectors of a sample, to tell what is usual
SPREADS = 10  # times the median deviation: a model whose lengths vary has no vector beyond it
LEAST_TOLERANCE = 0.01  # of the length: halfvec and float16 servers round less than that
UNIFORM = 0.02  # of the length: vectors of a model that gives them one length differ less


@dataclass(frozen=True, slots=True)
class UsualLength:
    """The median length of vectors, and how far from it a length is not unusual."""

    median: float
    tolerance: float

    @property
    def is_uniform(self) -> bool:
        """Whether all vectors have about the same length, as those of most models do."""
        return self.tolerance <= UNIFORM * self.median


def usual_length(vectors: Sequence[Vector]) -> UsualLength | None:
    """Return the usual length of a sample of vectors; None: there are too few.

    Medians, so that wrong vectors in the sample do not count.
    """
    lengths = np.array([np.linalg.norm(vector.astype(np.float64)) for vector in vectors])
    lengths = lengths[lengths > 0]
    if len(lengths) < FEWEST:
        return None
    median = float(np.median(lengths))
    spread = float(np.median(np.abs(lengths - median)))
    return UsualLength(median, max(SPREADS * spread, LEAST_TOLERANCE * median))
