"""The throttle level of a run, the functions that decide it, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from worker.engine.progress import Progress

LONGEST_PAUSE = 10.0  # seconds after a batch, at the throttle level `slow`

ThrottleLevel = Literal["full", "slow", "paused", "stop"]
"""full: as much as the provider bears. slow: one batch at a time, then a pause as long as it took.
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
"""Asked before every claim, so it answers from what it knows and looks only every so often.
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
        """Ask for the throttle level, and tell the observers if it is another."""
        decision = self.ask()
        if decision.level != self.decision.level:
            self.progress.event(
                "throttle_changed",
                throttle_level=decision.level,
                cause=decision.cause or "nothing is in the way",
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
    """The one that asks for most restraint; the first of several."""
    return max(decisions, key=lambda decision: _BY_STRENGTH.index(decision.level), default=FULL)


def together(throttles: Sequence[Throttle]) -> Throttle:
    """One that has asked all of them: the slowest throttle level, and the least in hand."""

    def decision() -> ThrottleDecision:
        decisions = [throttle() for throttle in throttles]
        most = [decision.at_most for decision in decisions if decision.at_most is not None]
        return replace(slowest(decisions), at_most=min(most, default=None))

    return decision
