"""Finds out how many requests a provider can handle, at once and per second.

Nothing here waits or locks. The caller passes the time of a monotonic clock, in seconds. The method
is the congestion control of TCP, by which every client of a shared server finds its share (additive
increase, multiplicative decrease; Chiu and Jain, 1989).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

SHRINK = 0.75
FIRST_PROBE_AFTER = 1.0  # seconds at a limit, until more is tried
LONGEST_PROBE_WAIT = 8.0  # seconds, however often the limit was confirmed
SLOW = 2.0  # times the best latency: more at once would only wait longer
LEAST_LATENCY = 0.05  # seconds; below it, differences are noise
MARGIN = 0.98  # of what is allowed: clocks differ, and requests overtake each other
SLACK = 0.05  # seconds by which a turn that was missed may be made up for
RECOVERY = 2.0  # seconds from a refusal until the pace is nearly back at where it was refused
LONGEST_BELIEF = 60.0  # seconds at a rate limit, until more is tried
QUICK = 8.0  # answers a second: a slower client waits longer, since it is refused as often per wait
LONGEST_DELAY = 6.0  # times as long, however slow it is
PROBE_BACKOFF = 2.0  # times as long until more is tried, each time a limit is confirmed
GROWTH = 0.05  # of what is tried beyond a limit: nearly twice as much after three seconds
ENOUGH_TO_MEASURE = 5  # answers
FORGOTTEN_AT = 10.0  # e to the power of this, times the refused rate: the limit no longer exists


@dataclass(slots=True)
class ConcurrencyWindow:
    """How many requests may be in flight: one more for each window of answers, a quarter less when
    the provider pushes back. That limit is tried again only after a while, and after twice as long
    each time it is confirmed."""

    limit: float
    most: int
    _ceiling: float = math.inf
    _shrunk_at: float = -math.inf
    _probe_after: float = FIRST_PROBE_AFTER
    _answers: list[float] = field(default_factory=list)  # latencies, as multiples of the best
    _best: dict[int, float] = field(default_factory=dict)  # latency by magnitude of the request

    def answered(self, sent: float, now: float, size: int, was_full: bool) -> None:
        """A request of `size` bytes got an answer; `was_full` if no more could be in flight."""
        latency = max(now - sent, LEAST_LATENCY)
        magnitude = size.bit_length() // 2
        best = self._best[magnitude] = min(latency, self._best.get(magnitude, latency))
        self._answers.append(latency / best)
        if len(self._answers) < self.limit:
            return
        slowness = median(self._answers)
        self._answers.clear()
        if slowness > SLOW and self.limit > 1:
            self.pushed_back(sent, now)
        elif was_full:
            self._grow(now)

    def pushed_back(self, sent: float, now: float) -> None:
        """The provider is overloaded. Of many such answers at once, only the first counts."""
        if sent < self._shrunk_at:
            return
        is_confirmed = self.limit >= 0.9 * self._ceiling
        self._probe_after = PROBE_BACKOFF * self._probe_after if is_confirmed else FIRST_PROBE_AFTER
        self._ceiling = self.limit
        self._shrunk_at = now
        self.limit = max(self.limit * SHRINK, 1.0)
        self._answers.clear()

    def keep_to(self, most: int) -> None:
        """Never have more than `most` requests in flight."""
        self.most = min(self.most, most)
        self.limit = min(self.limit, self.most)

    def _grow(self, now: float) -> None:
        if self.limit >= self._ceiling:
            if now < self._shrunk_at + min(self._probe_after, LONGEST_PROBE_WAIT):
                return
            self._ceiling = math.inf
        self.limit = min(self.limit + 1, self._ceiling, self.most)


@dataclass(slots=True)
class Pacer:
    """Spaces requests or tokens at a given rate per second (None: no spacing)."""

    rate: float | None = None
    _next: float = -math.inf

    def set_rate(self, rate: float | None) -> None:
        """Use this rate from now on."""
        self.rate = rate

    def wait(self, now: float) -> float:
        """Seconds until the next turn."""
        return 0.0 if self.rate is None else max(0.0, self._next - now)

    def take(self, now: float, amount: float = 1.0) -> None:
        """Take a turn."""
        if self.rate is not None:
            interval = amount / self.rate
            self._next = max(self._next, now - min(interval, SLACK)) + interval

    def charge(self, amount: float) -> None:
        """Correct the amount of a turn: it cost more than was taken for it, or less."""
        if self.rate is not None and self._next > -math.inf:
            self._next += amount / self.rate


@dataclass(slots=True)
class AdaptiveRate:
    """Finds the rate limit of a provider that does not report it.

    After a refusal the rate drops, and rises within RECOVERY to nearly where it was refused. It
    stays there for a while, longer each time the limit is confirmed. Then it rises, slowly at first
    and ever faster, so that an old limit is soon forgotten (the shape of TCP CUBIC, RFC 9438).
    """

    _ceiling: float | None = None
    _refused_at: float = -math.inf
    _resumed_at: float = -math.inf
    _probe_after: float = FIRST_PROBE_AFTER
    _counted_from: float = 0.0
    _answers: int = 0  # since then

    def at(self, now: float) -> float | None:
        """Requests a second, or None if no limit is known."""
        if self._ceiling is None:
            return None
        top = MARGIN * self._ceiling
        recovered = min(max(now - self._resumed_at, 0.0) / RECOVERY, 1.0)
        if recovered < 1.0:
            return top * (SHRINK + (1.0 - SHRINK) * recovered)
        probing = self._probing(now)
        growth = GROWTH * probing * (1.0 + probing)
        if growth > FORGOTTEN_AT:
            self._ceiling = None
            return None
        return top * math.exp(growth)

    def answered(self, sent: float) -> None:
        """Note that a request was let through."""
        if not self._answers and self._ceiling is None:
            self._counted_from = sent
        self._answers += 1

    def refused(self, sent: float, now: float, pause: float) -> None:
        """Note that a request was refused for its rate, and that a pause (seconds) follows.

        Of many at once, only the first counts. A refusal before any success says nothing about a
        rate.
        """
        if sent < self._refused_at or not self._answers:
            return
        pace = self.at(now) or 0.0
        is_confirmed = self._ceiling is not None and self._probing(now) > 0
        self._refused_at = now
        self._resumed_at = now + pause
        if self._ceiling is None or self._answers >= ENOUGH_TO_MEASURE:
            # includes the pause: it is the rest of a window whose share is used up
            span = max(now + pause - self._counted_from, LEAST_LATENCY)
            measured = self._answers / span
            self._believe(measured, pace, is_confirmed)
            if pause > span / 2:
                self._probe_after = max(self._probe_after, span)
            self._answers = 0
            self._counted_from = now + pause

    def _believe(self, measured: float, pace: float, is_confirmed: bool) -> None:
        """Use the measured rate as the limit."""
        if self._ceiling is None:
            self._ceiling = max(measured, 1.0)
            return
        is_near = 0.5 * self._ceiling < measured < 3.0 * self._ceiling  # else it has changed
        self._probe_after = PROBE_BACKOFF * self._probe_after if is_near else FIRST_PROBE_AFTER
        if is_confirmed:
            self._ceiling = max(self._ceiling, min(measured, pace))
        else:  # the limit was too high
            self._ceiling = min(max(measured, 0.25 * pace), 0.95 * pace)

    def _probing(self, now: float) -> float:
        """For how many seconds a higher rate than the limit has been tried, as counted by a client
        that gets QUICK answers a second."""
        waited = max(0.0, now - self._resumed_at - RECOVERY)
        counted = min(waited, max(self._answers / QUICK, waited / LONGEST_DELAY))
        return max(0.0, counted - min(self._probe_after, LONGEST_BELIEF))
