"""When a provider or a model that failed is tried again, in virtual time."""

from __future__ import annotations

import time

import pytest

from worker.engine.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker, waiting_for
from worker.errors import ProviderRefused, SettingsError, Transient, WorkerError

ERRORS = [
    Transient("gone", error_class="unreachable"),
    ProviderRefused("wrong key", error_class="unauthorized"),
    SettingsError("it cannot be opened"),
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as the only entry."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def pause_of(breaker: Breaker, clock: list[float]) -> float:
    """Let time pass until a try is due. Returns how long that took."""
    began = clock[0]
    while not breaker.is_due:
        clock[0] += 0.25
        assert clock[0] - began <= 10 * LONGEST_PAUSE
    return clock[0] - began


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_pauses_grow_up_to_a_minute_and_begin_again_after_an_answer(
    clock: list[float], error: WorkerError
) -> None:
    breaker = Breaker()
    for _ in range(2):
        breaker.fail(error)
        pauses = []
        for _ in range(8):
            pauses.append(pause_of(breaker, clock))
            breaker.try_again()
            assert not breaker.blocks
            breaker.fail(error)
            assert breaker.blocks
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
        breaker.try_again()
        breaker.close()
        assert (breaker.error, breaker.blocks, breaker.is_due) == (None, False, False)


def test_requests_that_were_sent_before_the_first_failed_say_nothing_new(
    clock: list[float],
) -> None:
    breaker = Breaker()
    for number in range(100):
        breaker.fail(Transient(f"failure {number}"))
    assert (breaker.error and breaker.error.cause) == "failure 0"
    assert pause_of(breaker, clock) == FIRST_PAUSE


@pytest.mark.parametrize(("asked", "waited"), [(0.0, 1.0), (30.0, 30.0), (1e300, LONGEST_PAUSE)])
def test_a_provider_is_left_alone_for_as_long_as_it_asks_and_a_minute_at_most(
    clock: list[float], asked: float, waited: float
) -> None:
    breaker = Breaker()
    breaker.fail(Transient("slow down", retry_after=asked))
    assert pause_of(breaker, clock) == waited


def test_a_retry_at_once_ends_the_pause_and_begins_with_the_shortest(clock: list[float]) -> None:
    breaker = Breaker()
    for _ in range(8):
        breaker.fail(ERRORS[0])
        breaker.try_again()
    breaker.fail(ERRORS[0])
    breaker.retry_now()
    assert breaker.is_due
    breaker.try_again()
    breaker.fail(ERRORS[0])
    assert pause_of(breaker, clock) == FIRST_PAUSE


def test_a_try_of_which_nothing_came_is_made_again_later(clock: list[float]) -> None:
    breaker = Breaker()
    breaker.fail(ERRORS[0])
    pause_of(breaker, clock)
    breaker.try_again()
    breaker.postpone()
    assert breaker.blocks
    assert pause_of(breaker, clock) == FIRST_PAUSE
    breaker.try_again()
    breaker.fail(Transient("slow down", retry_after=30))
    breaker.postpone()
    assert pause_of(breaker, clock) == 30, "the pause that runs is not made shorter"


def test_each_column_is_told_once_after_each_error() -> None:
    breaker = Breaker()
    assert not breaker.is_news_for(1), "there is no error"
    breaker.fail(ERRORS[0])
    assert [breaker.is_news_for(target) for target in (1, 2, 1, 2)] == [True, True, False, False]
    breaker.try_again()
    breaker.fail(ERRORS[0])
    assert breaker.is_news_for(1)


def test_columns_that_wait_are_counted_by_what_they_wait_for() -> None:
    assert waiting_for([]) is None
    assert waiting_for([("openai", WorkerError("gone"))]) == "1 column waits for openai: gone"
    errors = [("openai", WorkerError("gone"))] * 2 + [("local:x", WorkerError("no such model"))]
    assert waiting_for(errors) == (
        "2 columns wait for openai: gone; 1 column waits for local:x: no such model"
    )
