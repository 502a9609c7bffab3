"""How much a provider bears is found out, in a time of our own: nothing here waits."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Protocol

import pytest

from tests.conftest import rest_in_full
from worker.engine.limiter import FIRST_PAUSE
from worker.engine.limiter import LONGEST_PAUSE as LONGEST_PAUSE_UNTOLD
from worker.engine.rate_control import (
    FIRST_PROBE_AFTER,
    SHRINK,
    AdaptiveRate,
    ConcurrencyWindow,
    Pacer,
)

LATENCY = 0.1

# -- how many at once


def a_window_of_answers(
    window: ConcurrencyWindow,
    now: float,
    was_full: bool = True,
    latency: float = LATENCY,
    size: int = 1000,
) -> None:
    """As many answers as may be under way."""
    for _ in range(math.ceil(window.limit)):
        window.answered(now - latency, now, size, was_full)


def test_a_window_grows_by_one_for_each_window_of_answers() -> None:
    window = ConcurrencyWindow(2, 100)
    limits = []
    for now in range(1, 5):
        a_window_of_answers(window, now)
        limits.append(window.limit)
    assert limits == [3, 4, 5, 6]
    window.answered(9.9, 10, 1000, True)
    assert window.limit == 6, "one answer is no window"


def test_a_window_that_is_not_used_up_does_not_grow() -> None:
    window = ConcurrencyWindow(2, 100)
    a_window_of_answers(window, 1, was_full=False)
    assert window.limit == 2


def test_a_window_never_grows_above_the_most() -> None:
    window = ConcurrencyWindow(2, 4)
    for now in range(1, 20):
        a_window_of_answers(window, now)
    assert window.limit == 4


def test_of_many_who_are_pushed_back_at_once_the_first_counts() -> None:
    window = ConcurrencyWindow(16, 100)
    for late in range(16):
        window.pushed_back(sent=1.0, now=1.1 + late / 100)
    assert window.limit == 16 * SHRINK
    window.pushed_back(sent=1.2, now=1.3)
    assert window.limit == 16 * SHRINK**2


def test_a_window_never_shrinks_below_one() -> None:
    window = ConcurrencyWindow(4, 100)
    for now in range(1, 20):
        window.pushed_back(now - 0.5, now)
    assert window.limit == 1
    for now in range(20, 30):
        a_window_of_answers(window, now, latency=0.1 * 4.0 ** (now - 20))
    assert window.limit >= 1


def seconds_until_more_is_tried(window: ConcurrencyWindow, now: float, ceiling: float) -> float:
    """From a push-back at `ceiling` until there are more again."""
    window.pushed_back(now, now)
    for tenths in range(1, 1000):
        a_window_of_answers(window, now + tenths / 10)
        if window.limit > ceiling:
            return tenths / 10
    raise AssertionError("never")


def test_a_limit_that_proves_true_is_tried_again_after_a_longer_while_each_time() -> None:
    window, now = ConcurrencyWindow(8, 100), 0.0
    waited = []
    for _ in range(8):
        while window.limit > 8:  # it is always at eight that the provider pushes back
            window.limit -= 1
        waited.append(seconds_until_more_is_tried(window, now, 8))
        now += 100
    assert waited == sorted(waited)
    assert waited[0] == pytest.approx(FIRST_PROBE_AFTER, abs=0.2)


def test_a_provider_of_which_all_answers_take_twice_as_long_gets_less() -> None:
    window = ConcurrencyWindow(8, 100)
    a_window_of_answers(window, 1)
    assert window.limit == 9
    a_window_of_answers(window, 2, latency=1.9 * LATENCY)
    assert window.limit == 10
    a_window_of_answers(window, 3, latency=2.1 * LATENCY)
    assert window.limit == 10 * SHRINK


def test_a_few_slow_answers_shrink_nothing() -> None:
    window = ConcurrencyWindow(9, 100)
    for number in range(9):
        window.answered(1 - LATENCY * (10 if number < 4 else 1), 1, 1000, True)
    assert window.limit == 10


def test_a_request_that_takes_longer_since_it_is_larger_is_not_slow() -> None:
    window = ConcurrencyWindow(8, 100)
    a_window_of_answers(window, 1)
    a_window_of_answers(window, 20, latency=10 * LATENCY, size=100_000)
    assert window.limit == 10


def test_differences_too_small_to_matter_shrink_nothing() -> None:
    window = ConcurrencyWindow(8, 100)
    a_window_of_answers(window, 1, latency=0.001)
    a_window_of_answers(window, 2, latency=0.049)
    assert window.limit == 10


# -- turns


def test_without_a_rate_every_turn_is_at_once() -> None:
    spacing = Pacer()
    for _ in range(100):
        spacing.take(1.0, 1e9)
        assert spacing.wait(1.0) == 0
    spacing.charge(1e9)
    assert spacing.wait(1.0) == 0


def turns(spacing: Pacer, until: float, step: float = 0.001, amount: float = 1.0) -> list[float]:
    """When turns were taken by somebody who takes each as soon as he may."""
    taken = []
    for tick in range(int(until / step)):
        now = tick * step
        if spacing.wait(now) <= 0:
            spacing.take(now, amount)
            taken.append(now)
    return taken


def test_turns_come_at_an_even_pace() -> None:
    taken = turns(Pacer(20.0), 10)
    assert len(taken) == pytest.approx(200, abs=2)
    gaps = [later - sooner for sooner, later in pairwise(taken[2:])]
    assert 0.048 <= min(gaps) <= max(gaps) <= 0.052


def test_a_large_amount_waits_for_its_share_of_the_rate() -> None:
    spacing = Pacer(1000.0)
    spacing.take(0.0, 500)
    assert spacing.wait(0.0) == pytest.approx(0.5, abs=0.051)
    assert spacing.wait(0.6) == 0


def test_turns_that_were_missed_are_not_made_up_for() -> None:
    spacing = Pacer(10.0)
    spacing.take(0.0)
    spacing.take(60.0)  # an hour later there is one turn, and a little for clocks that differ
    spacing.take(60.0)
    assert spacing.wait(60.0) >= 0.1


def test_what_cost_more_than_was_taken_is_waited_for_and_what_cost_less_is_given_back() -> None:
    spacing = Pacer(100.0)
    spacing.take(0.0, 50)
    due = spacing.wait(0.0)
    spacing.charge(20)
    assert spacing.wait(0.0) == pytest.approx(due + 0.2)
    spacing.charge(-40)
    assert spacing.wait(0.0) == pytest.approx(due - 0.2)


# -- a rate that nobody tells


class Limit(Protocol):
    """What a server allows."""

    def takes(self, now: float) -> bool:
        """Let a request through, or refuse it."""

    def seconds_to_wait(self, now: float) -> float:
        """Until one more would be let through."""


@dataclass
class Bucket:
    """A token bucket: `rate` a second, `burst` at once."""

    rate: float
    burst: float = 10.0
    left: float = 10.0
    seen: float = 0.0

    def takes(self, now: float) -> bool:
        self.left = min(self.burst, self.left + (now - self.seen) * self.rate)
        self.seen = now
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def seconds_to_wait(self, now: float) -> float:
        return max(1 - self.left, 0) / self.rate


@dataclass
class FixedWindow:
    """`most` in each span of `seconds`."""

    most: int
    seconds: float
    number: int = -1
    used: int = 0

    def takes(self, now: float) -> bool:
        if (number := int(now / self.seconds)) != self.number:
            self.number, self.used = number, 0
        self.used += 1
        return self.used <= self.most

    def seconds_to_wait(self, now: float) -> float:
        return self.seconds - now % self.seconds


@dataclass
class Client:
    """Asks as often and as much at once as the limiter does."""

    limit: Limit
    tells: bool
    window: ConcurrencyWindow = field(default_factory=lambda: ConcurrencyWindow(8, 64))
    learned: AdaptiveRate = field(default_factory=AdaptiveRate)
    spacing: Pacer = field(default_factory=Pacer)
    random: Random = field(default_factory=lambda: Random(7))
    now: float = 0.0
    paused_until: float = 0.0
    pauses: int = 0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    under_way: list[tuple[float, float, float | None]] = field(default_factory=list)
    """When they end, when they were sent, and for how long to wait if they are refused."""

    def run(self, until: float, meanwhile: Callable[[float], None] = lambda now: None) -> None:
        while self.now < until:
            meanwhile(self.now)
            while self.under_way and self.under_way[0][0] <= self.now:
                _, sent, wait = heapq.heappop(self.under_way)
                self.hear(sent, wait)
            while len(self.under_way) < int(self.window.limit) and self.may_send():
                self.send()
            self.now += 0.002

    def may_send(self) -> bool:
        self.spacing.set_rate(self.learned.at(self.now))
        return self.now >= self.paused_until and self.spacing.wait(self.now) <= 0

    def send(self) -> None:
        self.spacing.take(self.now)
        is_taken = self.limit.takes(self.now)
        (self.accepted if is_taken else self.refused).append(self.now)
        wait = None if is_taken else self.limit.seconds_to_wait(self.now)
        ends = self.now + LATENCY * self.random.uniform(0.7, 1.5)
        heapq.heappush(self.under_way, (ends, self.now, wait))

    def hear(self, sent: float, wait: float | None) -> None:
        if wait is None:
            self.pauses = 0
            self.learned.answered(sent)
            was_full = len(self.under_way) + 1 >= int(self.window.limit)
            self.window.answered(sent, self.now, 1000, was_full)
            return
        if sent >= self.paused_until:
            self.pauses += 1
        pause = FIRST_PAUSE * 2.0 ** (self.pauses - 1)
        pause = wait if self.tells else min(pause, LONGEST_PAUSE_UNTOLD)
        self.window.pushed_back(sent, self.now)
        self.learned.refused(sent, self.now, pause)
        pause *= self.random.uniform(1.0, 1.1)
        self.paused_until = max(self.paused_until, self.now + pause)


def between(times: list[float], start: float, end: float) -> int:
    return sum(start <= time < end for time in times)


LIMITS: dict[str, Callable[[], Limit]] = {
    "a bucket": lambda: Bucket(10.0),
    "a bucket for a minute": lambda: Bucket(10.0, burst=600, left=600),
}


@pytest.mark.parametrize("tells", [True, False], ids=["told when", "not told when"])
@pytest.mark.parametrize("limit", rest_in_full(LIMITS.values(), first=2), ids=list(LIMITS))
def test_of_six_hundred_a_minute_nearly_all_are_used_and_few_refused(
    limit: Callable[[], Limit], tells: bool
) -> None:
    client = Client(limit(), tells)
    client.run(600)
    used = between(client.accepted, 60, 600)
    refused = between(client.refused, 60, 600)
    assert used >= 0.95 * 5400
    assert refused < 0.01 * (used + refused)


@pytest.mark.parametrize("tells", [True, False], ids=["told when", "not told when"])
def test_of_a_window_of_a_minute_nearly_all_is_used_though_more_is_refused(tells: bool) -> None:
    client = Client(FixedWindow(600, 60.0), tells)
    client.run(600)
    used = between(client.accepted, 60, 600)
    refused = between(client.refused, 60, 600)
    assert used >= 0.85 * 5400
    assert refused < 0.12 * (used + refused)


@pytest.mark.parametrize("tells", [True, False], ids=["told when", "not told when"])
def test_a_server_that_goes_down_to_a_tenth_is_followed_down_and_up_again(tells: bool) -> None:
    bucket = Bucket(50.0)

    def falter(now: float) -> None:
        bucket.rate = 5.0 if 60 <= now < 70 else 50.0

    client = Client(bucket, tells)
    client.run(90, falter)
    assert between(client.accepted, 50, 60) >= 0.6 * 500
    assert between(client.refused, 64, 70) <= 20, "it is followed down"
    spans = [between(client.accepted, second, second + 2) for second in range(70, 79)]
    assert max(spans) >= 0.5 * 100, "and up"


class Out:
    def takes(self, now: float) -> bool:
        return False

    def seconds_to_wait(self, now: float) -> float:
        return 1.0


@pytest.mark.parametrize("tells", [True, False], ids=["told when", "not told when"])
def test_an_outage_that_refuses_everything_teaches_no_rate(tells: bool) -> None:
    client = Client(Out(), tells)
    client.run(60)
    assert client.refused
    assert client.learned.at(client.now) is None
