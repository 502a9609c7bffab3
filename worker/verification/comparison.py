"""Compares stored vectors with those that a model gives for the same texts now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

CANARIES = (
    "Refunds are paid within five days of the return of the goods.",
    "The harbour freezes in January, and ships wait for the icebreaker.",
)
"""Texts whose vectors show how much a model differs from itself."""

# Equal texts get vectors that differ a little: those of OpenAI in the 4th decimal, sometimes in the
# 3rd, which at 1536 dimensions gives a cosine of 0.99997. Two texts do not show the largest
# difference there is. So the gate is as far below the noise floor as that is below 1, and at least
# by this margin. The vector of another text, model or prompt has a cosine below 0.99.
MARGIN = 0.001
LEAST_NOISE_FLOOR = 0.9  # below it, the vectors of a model vary too much to be compared


@dataclass(frozen=True, slots=True)
class Comparison:
    """The cosines of stored and new vectors by record, and the `noise_floor` of the model.

    `noise_floor` is the lowest cosine of two vectors of one text. `lengths`: those of the stored
    vectors, as shares of the lengths of the new ones. `refused`: how many texts the model did not
    embed again.
    """

    noise_floor: float
    cosines: Mapping[str, float]
    refused: int = 0
    lengths: Mapping[str, float] = field(default_factory=dict)

    @property
    def gate(self) -> float:
        """The cosine that the vectors of one text reach."""
        return self.noise_floor - max(MARGIN, 1 - self.noise_floor)

    @property
    def below(self) -> list[str]:
        """The records whose vectors are not those of their texts, the most different first."""
        below = [record for record, cosine in self.cosines.items() if cosine < self.gate]
        return sorted(below, key=lambda record: self.cosines[record])


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of the angle between two vectors; 0 if they cannot be compared."""
    if one.shape != other.shape:
        return 0.0
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return min(float(a @ b) / lengths, 1.0) if lengths else 0.0


def share_of_length(one: Vector, other: Vector) -> float:
    """Return the length of a vector as a share of that of another one."""
    length = float(np.linalg.norm(other.astype(np.float64)))
    return float(np.linalg.norm(one.astype(np.float64))) / length if length else 0.0


def lowest_cosine(first: Sequence[Vector], second: Sequence[Vector]) -> float:
    """Return the lowest cosine of the vectors that two requests gave for the same texts."""
    return min(cosine(one, other) for one, other in zip(first, second, strict=True))


def overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of records that two rankings have in common."""
    longest = max(len(set(one)), len(set(other)))
    return len(set(one) & set(other)) / longest if longest else 1.0
