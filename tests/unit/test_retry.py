"""Waiting: seconds within a request, minutes between two claims."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any, TypeVar

import pytest

from worker.embedders.base import Concurrency
from worker.engine import retry
from worker.engine.limiter import Limiter
from worker.engine.retry import backoff
from worker.errors import ProviderRefused, Rejected, Transient, WorkerError
from worker.settings import RETRY_SECONDS

Result = TypeVar("Result")


class Pauses(Event):
    """An event nobody waits for: it notes how long one would have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return self.is_set()


class Calls:
    """A provider that fails in the given ways, one a call, and then works."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.failures:
            raise self.failures.pop(0)
        return "an answer"


class Unlimited(Limiter):
    """Lets everything through at once: test_limiter.py is about when it does not."""

    def call(self, request: Callable[[], Result], stop: Event, **_: int) -> Result:
        return request()


def with_retries(calls: Callable[[], str], stop: Event) -> str:
    return retry.with_retries(calls, Unlimited(Concurrency(1, 1)), stop)


def outages(count: int, **details: Any) -> list[Transient]:
    return [Transient(f"outage {number}", **details) for number in range(count)]


def test_what_works_is_called_once() -> None:
    pauses, calls = Pauses(), Calls()
    assert with_retries(calls, pauses) == "an answer"
    assert (calls.count, pauses.seconds) == (1, [])


def test_what_passes_is_tried_again() -> None:
    pauses, calls = Pauses(), Calls(*outages(2))
    assert with_retries(calls, pauses) == "an answer"
    assert calls.count == 3
    assert len(pauses.seconds) == 2


@pytest.mark.parametrize("error", [ProviderRefused("key"), Rejected("text"), ValueError("bug")])
def test_nothing_else_is_tried_again(error: Exception) -> None:
    calls = Calls(error)
    with pytest.raises(type(error)) as caught:
        with_retries(calls, Pauses())
    assert caught.value is error
    assert calls.count == 1


def test_a_refusal_after_an_outage_ends_the_tries() -> None:
    calls = Calls(*outages(1), ProviderRefused("key"))
    with pytest.raises(ProviderRefused):
        with_retries(calls, Pauses())
    assert calls.count == 2


def test_the_time_the_provider_asked_for_is_waited() -> None:
    pauses = Pauses()
    with_retries(Calls(*outages(1, retry_after=7.5), *outages(1, retry_after=0.0)), pauses)
    assert pauses.seconds == [7.5, 0.0]


def test_without_such_a_time_the_wait_is_random_and_its_limit_doubles_up_to_eight_seconds() -> None:
    waits = []
    for _ in range(50):
        pauses = Pauses()
        with_retries(Calls(*outages(6)), pauses)
        waits.append(pauses.seconds)
    for tries, limit in zip(zip(*waits, strict=True), [1, 2, 4, 8, 8, 8], strict=True):
        assert 0 <= min(tries) < max(tries) <= limit
    assert max(max(tries) for tries in waits) > 4


def test_a_wait_beyond_the_budget_is_not_begun() -> None:
    pauses, calls = Pauses(), Calls(*outages(1, retry_after=RETRY_SECONDS + 1))
    with pytest.raises(Transient, match="outage 0"):
        with_retries(calls, pauses)
    assert (calls.count, pauses.seconds) == (1, [])


def test_the_tries_end_with_the_budget_and_with_the_last_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.03)
    calls = Calls(*outages(100, retry_after=0.005))
    with pytest.raises(Transient) as caught:
        with_retries(calls, Event())
    assert caught.value.cause == f"outage {calls.count - 1}"
    assert 2 <= calls.count <= 7


def test_nothing_is_tried_again_once_the_run_is_to_stop() -> None:
    stop = Pauses()
    stop.set()
    calls = Calls(*outages(1))
    with pytest.raises(Transient, match="outage 0"):
        with_retries(calls, stop)
    assert (calls.count, stop.seconds) == (1, [])


def test_a_call_under_way_may_end_though_the_run_is_to_stop() -> None:
    stop = Event()

    def call() -> str:
        stop.set()
        return "an answer"

    assert with_retries(call, stop) == "an answer"


class StopsWhileWaiting(Pauses):
    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return super().wait(timeout)


def test_a_stop_during_a_wait_ends_the_tries() -> None:
    calls = Calls(*outages(5))
    with pytest.raises(Transient, match="outage 0"):
        with_retries(calls, StopsWhileWaiting())
    assert calls.count == 1


# Minutes


@pytest.mark.parametrize(
    ("error_class", "failures", "limit"),
    [
        ("changed", 1, 2),
        ("changed", 2, 4),
        ("changed", 5, 32),
        ("changed", 9, 300),
        ("provider_error", 1, 30),
        ("provider_error", 3, 120),
        ("provider_error", 32_767, 3600),
    ],
)
def test_backoff_is_anything_up_to_a_limit_that_doubles(
    error_class: str, failures: int, limit: float
) -> None:
    waits = [backoff(error_class, failures).total_seconds() for _ in range(200)]
    assert 0 <= min(waits) < limit / 4
    assert limit * 3 / 4 < max(waits) <= limit


def test_errors_tell_the_cause_and_the_cure() -> None:
    error: WorkerError = Transient("the cause")
    assert (str(error), error.exit_code) == ("the cause", 1)
    assert error.hint == "Nothing is lost: the jobs are due again by themselves."
