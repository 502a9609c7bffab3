"""The throttle level of a run, the functions that decide it, and its effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from worker.engine.progress import Progress

LONGEST_PAUSE = 10.0  # seconds after a batch, at the throttle level `slow`

ThrottleLevel = Literal["full", "slow", "paused", "stop"]
"""full: as much as the provider allows. slow: one batch at a time, then a pause as long as it took.
paused: nothing is claimed. stop: the run ends. Requests in flight are always finished."""

_BY_STRENGTH: tuple[ThrottleLevel, ...] = ("full", "slow", "paused", "stop")


@dataclass(frozen=True, slots=True)
class ThrottleDecision:
    """A throttle level, and the figure that is the reason where it is not full."""

    level: ThrottleLevel
    cause: str | None = None
    at_most: int | None = None
    """The maximum number of jobs in flight from now on; None: no limit."""


FULL = ThrottleDecision("full")

Throttle = Callable[[], ThrottleDecision]
"""Called before every claim, so it must be fast: it refreshes its figures only every few seconds.
It runs in the thread of the pipeline, and may use the queue."""


@dataclass(slots=True)
class RunThrottle:
    """The throttle level of a run, which `ask` decides; with a `delay` (seconds) after each batch,
    batches go one at a time whatever the level."""

    ask: Throttle
    progress: Progress
    delay: float = 0.0
    decision: ThrottleDecision = FULL
    """The latest."""

    def update(self) -> None:
        """Ask for the throttle level, and report it to the observers if it changed."""
        decision = self.ask()
        if decision.level != self.decision.level:
            self.progress.event(
                "throttle_changed",
                throttle_level=decision.level,
                cause=decision.cause or "back to full speed",
            )
        self.decision = decision

    @property
    def allows_claims(self) -> bool:
        return self.decision.level in ("full", "slow")

    @property
    def is_slow(self) -> bool:
        """Whether batches go one at a time."""
        return self.delay > 0 or self.decision.level == "slow"

    def pause_after(self, seconds: float) -> float:
        """Return for how many seconds to pause after a batch that took `seconds`."""
        if self.decision.level != "slow":
            return self.delay
        return max(self.delay, min(seconds, LONGEST_PAUSE))


def slowest(decisions: Sequence[ThrottleDecision]) -> ThrottleDecision:
    """Return the decision with the strictest level; of several, the first."""
    return max(decisions, key=lambda decision: _BY_STRENGTH.index(decision.level), default=FULL)


def together(throttles: Sequence[Throttle]) -> Throttle:
    """Combine throttles: the strictest level, and the lowest number of jobs in flight."""

    def decision() -> ThrottleDecision:
        decisions = [throttle() for throttle in throttles]
        most = [decision.at_most for decision in decisions if decision.at_most is not None]
        return replace(slowest(decisions), at_most=min(most, default=None))

    return decision
