"""How hard a run may go at it, and who decides that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Gear = Literal["full", "thin", "hold", "end"]
"""full: as much as the provider bears. thin: one batch at a time, then a pause as long as it took.
hold: nothing is claimed. end: nothing is claimed any more. What is under way is finished in any."""

_BY_STRENGTH: tuple[Gear, ...] = ("full", "thin", "hold", "end")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A gear, and the figure that is the reason where it is not full."""

    gear: Gear
    cause: str | None = None
    at_most: int | None = None
    """So many jobs may be in hand at most, from now on; None: as many as fit."""


FULL = Verdict("full")

Governor = Callable[[], Verdict]
"""Asked before every claim, so it answers from what it knows and looks only every so often.
It runs in the thread of the pipeline, and may use the queue."""


def slowest(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that asks for most restraint; the first of several."""
    return max(verdicts, key=lambda verdict: _BY_STRENGTH.index(verdict.gear), default=FULL)


def together(governors: Sequence[Governor]) -> Governor:
    """One that has asked all of them: the slowest gear, and the least in hand."""

    def verdict() -> Verdict:
        verdicts = [governor() for governor in governors]
        most = [verdict.at_most for verdict in verdicts if verdict.at_most is not None]
        return replace(slowest(verdicts), at_most=min(most, default=None))

    return verdict
