"""Stop conditions of a run: a share of the rows, a time, an amount of money."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.engine.progress import Progress, RunStats
from worker.engine.throttling import FULL, Throttle, ThrottleDecision

LOOK_EVERY = 2.0  # seconds between two checks of what other workers have done


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many rows have something to embed, and how many of them have their vector."""

    rows: int
    vectors: int

    @property
    def percent(self) -> float:
        """100 where there is nothing to embed."""
        return 100.0 * self.vectors / self.rows if self.rows else 100.0


@dataclass(slots=True)
class UntilCovered:
    """A Throttle that ends the run when `percent` of the rows have vectors, also by other workers.

    Raises what `coverage` raises. It allows no more jobs in flight than rows are missing.
    """

    percent: float
    coverage: Callable[[], Coverage]
    stats: RunStats
    progress: Progress
    reached: float | None = None
    """The percentage with which it ended."""
    _missing: int = 0
    _done_then: int = 0
    _look_at: float = 0.0

    def __call__(self) -> ThrottleDecision:
        if self.reached is None and (self._is_time_to_look or self._left <= 0):
            self._take_stock()
        if self.reached is not None:
            return ThrottleDecision("stop", f"{self.reached:.1f}% of the rows have their vector")
        return ThrottleDecision("full", at_most=self._left)

    @property
    def _is_time_to_look(self) -> bool:
        return time.monotonic() >= self._look_at

    @property
    def _left(self) -> int:
        return self._missing - (self._done - self._done_then)

    @property
    def _done(self) -> int:
        return self.stats.completed + self.stats.unchanged

    def _take_stock(self) -> None:
        coverage = self.coverage()
        self._missing = math.ceil(coverage.rows * self.percent / 100) - coverage.vectors
        self._done_then = self._done
        self._look_at = time.monotonic() + LOOK_EVERY
        if self._missing <= 0:
            self.reached = coverage.percent
            self.progress.event("target_reached", percent=self.reached, wanted=self.percent)


@dataclass(slots=True)
class UntilLate:
    """A Throttle that ends the run after `seconds`."""

    seconds: float
    _began: float = field(default_factory=time.monotonic)

    def __call__(self) -> ThrottleDecision:
        if time.monotonic() < self._began + self.seconds:
            return FULL
        return ThrottleDecision("stop", f"{self.seconds / 60:g} minutes have passed")


@dataclass(slots=True)
class UntilSpent:
    """A Throttle that ends the run when it has cost `dollars`, or when its cost is unknown.

    Requests in flight at that time are finished, and paid for.
    """

    dollars: float
    stats: RunStats

    def __call__(self) -> ThrottleDecision:
        cost = self.stats.cost
        if cost is None:
            return ThrottleDecision("stop", "the price of the model is not known")
        if cost < self.dollars:
            return FULL
        return ThrottleDecision("stop", f"${cost:.4f} of ${self.dollars:g} are spent")


def as_end(throttle: Throttle) -> Throttle:
    """Make a throttle end the run where it would pause it, for a run that does not wait."""

    def ends() -> ThrottleDecision:
        decision = throttle()
        return ThrottleDecision("stop", decision.cause) if decision.level == "paused" else decision

    return ends
