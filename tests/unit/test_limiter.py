"""When requests to a provider may be sent, in real time and by real threads, for a moment each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from threading import Event

import pytest

from worker.embedders.base import Concurrency, RateLimitStatus
from worker.engine import limiter as limiters
from worker.engine.limiter import OUTAGE_AFTER, Limiter, Stopped
from worker.errors import ProviderError, ProviderRefused, Rejected, Transient

GO_ON = Event()


def fails(failure: ProviderError) -> Callable[[], None]:
    def request() -> None:
        raise failure

    return request


def fail(limiter: Limiter, failure: ProviderError) -> None:
    with pytest.raises(type(failure)):
        limiter.call(fails(failure), GO_ON)


def sent_at(limiter: Limiter, count: int, threads: int = 8, tokens: int = 0) -> list[float]:
    """When so many requests were sent, by threads that all wait for their turn."""
    with ThreadPoolExecutor(threads) as pool:
        calls = [
            pool.submit(limiter.call, time.monotonic, GO_ON, tokens=tokens) for _ in range(count)
        ]
        return sorted(call.result() for call in calls)


@contextmanager
def waiting(limiter: Limiter, stop: Event) -> Iterator[Callable[[], None]]:
    """A request that waits for its turn; what is yielded waits for it."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(limiter.call, lambda: None, stop)
        time.sleep(0.05)
        assert not call.done()
        yield lambda: call.result(timeout=2)


def test_no_more_requests_are_under_way_than_the_limit() -> None:
    limiter = Limiter(Concurrency(3, 5))
    under_way: list[int] = []
    most: list[int] = []

    def request() -> None:
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.01)
        under_way.pop()

    with ThreadPoolExecutor(16) as pool:
        for call in [pool.submit(limiter.call, request, GO_ON) for _ in range(60)]:
            call.result()
    assert 3 <= max(most) <= 5


def test_the_settings_bound_what_a_provider_would_bear() -> None:
    assert Limiter(Concurrency(8, 32), most=2).limit == 2


@pytest.mark.parametrize(
    ("limiter", "tokens"),
    [
        (Limiter(Concurrency(8, 8), rpm=6000), 0),
        (Limiter(Concurrency(8, 8), tpm=600_000), 100),
    ],
    ids=["requests", "tokens"],
)
def test_no_more_is_sent_in_a_time_than_the_settings_allow(limiter: Limiter, tokens: int) -> None:
    times = sent_at(limiter, 40, tokens=tokens)
    assert all(later - times[at] > 0.08 for at, later in enumerate(times[10:]))
    assert times[-1] - times[0] < 0.6


def test_what_an_answer_says_is_allowed_is_kept_to_from_then_on() -> None:
    limiter = Limiter(Concurrency(8, 8))
    limiter.apply({"requests": RateLimitStatus(limit=6000, remaining=5999, reset=0.01)}, 0, 0)
    times = sent_at(limiter, 20)
    assert times[-1] - times[0] > 0.15


def test_what_others_have_used_up_is_waited_for() -> None:
    limiter = Limiter(Concurrency(8, 8))
    began = time.monotonic()
    limiter.apply({"tokens": RateLimitStatus(limit=1000, remaining=0, reset=2.0)}, 100, 100)
    [sent] = sent_at(limiter, 1)
    assert 0.2 <= sent - began < 1.0, "a tenth of what comes back in two seconds"


def test_a_pause_that_a_provider_asks_for_is_a_pause_for_all() -> None:
    limiter = Limiter(Concurrency(8, 8))
    began = time.monotonic()
    fail(limiter, Transient("slow down", error_class="rate_limited", retry_after=0.9))
    assert min(sent_at(limiter, 8)) - began >= 0.9, "not only the first pause of its own"


def test_after_three_failures_in_a_row_one_request_at_a_time_looks_whether_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiters, "FIRST_PAUSE", 0.01)
    limiter = Limiter(Concurrency(8, 8))
    for _ in range(OUTAGE_AFTER):
        fail(limiter, Transient("gone", error_class="unreachable"))
    assert limiter.is_out
    entered, let_go = threading.Semaphore(0), Event()

    def probe() -> None:
        entered.release()
        assert let_go.wait(5)

    with ThreadPoolExecutor(4) as pool:
        probes = [pool.submit(limiter.call, probe, GO_ON) for _ in range(4)]
        assert entered.acquire(timeout=2)
        assert not entered.acquire(timeout=0.3), "a second one while the first is under way"
        let_go.set()
        for call in probes:
            call.result(timeout=5)
    assert not limiter.is_out


@pytest.mark.parametrize(
    "answer", [None, Rejected("not this text")], ids=["a vector", "a refused text"]
)
def test_an_answer_of_any_kind_ends_the_row_of_failures(answer: Rejected | None) -> None:
    limiter = Limiter(Concurrency(8, 8))
    for _ in range(OUTAGE_AFTER - 1):
        fail(limiter, Transient("gone", error_class="unreachable"))
    if answer:
        fail(limiter, answer)
    else:
        limiter.call(lambda: None, GO_ON)
    fail(limiter, Transient("gone", error_class="unreachable"))
    assert not limiter.is_out


def test_a_key_that_is_refused_for_good_ends_every_request_that_waits() -> None:
    limiter = Limiter(Concurrency(1, 1))
    refusal = ProviderRefused("wrong key", "check it", error_class="unauthorized")
    entered, let_go = Event(), Event()

    def request() -> None:
        entered.set()
        assert let_go.wait(5)
        raise refusal

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(limiter.call, request, GO_ON)
        assert entered.wait(2)
        with waiting(limiter, GO_ON) as ended:
            limiter.give_up(refusal)
            with pytest.raises(ProviderRefused, match="wrong key"):
                ended()
        let_go.set()
        with pytest.raises(ProviderRefused):
            first.result()
    assert limiter.breaker.error is refusal


@pytest.mark.parametrize("of_the_model", [True, False])
def test_one_refusal_does_not_stop_a_provider(of_the_model: bool) -> None:
    limiter = Limiter(Concurrency(1, 1))
    fail(limiter, ProviderRefused("no", of_the_model=of_the_model))
    limiter.call(lambda: None, GO_ON)


@pytest.mark.parametrize(
    "answer",
    [None, Rejected("not this text"), ProviderRefused("no such model", of_the_model=True)],
    ids=["a vector", "a refused text", "a model that is not there"],
)
def test_an_answer_of_any_kind_shows_that_a_provider_can_be_used(
    answer: ProviderError | None,
) -> None:
    limiter = Limiter(Concurrency(1, 1))
    limiter.give_up(Transient("gone", error_class="unreachable"))
    limiter.breaker.try_again()
    if answer:
        fail(limiter, answer)
    else:
        limiter.call(lambda: None, GO_ON)
    assert not limiter.breaker.is_open


@pytest.mark.parametrize("error_class", ["rate_limited", "overloaded"])
@pytest.mark.parametrize("asked", [61.0, 90_000.0, 1e300])
def test_an_absurd_wait_does_not_stop_the_others(error_class: str, asked: float) -> None:
    limiter = Limiter(Concurrency(8, 8))
    fail(limiter, Transient("slow down", error_class=error_class, retry_after=asked))
    assert limiter._paused_until < time.monotonic() + limiters.LONGEST_PAUSE * 1.1


def test_absurd_limits_in_an_answer_do_not_stop_the_others() -> None:
    """As with a limit below what was just let through, and tokens beyond all that was sent."""
    limiter = Limiter(Concurrency(8, 8))
    limiter.apply({"tokens": RateLimitStatus(limit=1.0, remaining=0, reset=1e12)}, 500, 10**30)
    limiter.apply({"requests": RateLimitStatus(limit=0.001, remaining=0, reset=1e12)}, 500, 500)
    limiter.apply({"tokens": RateLimitStatus(limit=1.0, remaining=0, reset=1e12)}, 500, 10**30)
    assert limiter._seconds_to_wait(time.monotonic()) < 11 * 60
    limiter.apply(
        {"requests": RateLimitStatus(6000, 6000, 0), "tokens": RateLimitStatus(1e6, 1e6, 0)}, 5, 5
    )
    assert limiter._seconds_to_wait(time.monotonic()) < limiters.LONGEST_PAUSE * 1.1


def test_a_retry_at_once_ends_all_pauses() -> None:
    limiter = Limiter(Concurrency(1, 1))
    fail(limiter, Transient("slow down", error_class="rate_limited", retry_after=50.0))
    limiter.retry_now()
    limiter.call(lambda: None, GO_ON)


def test_who_waits_when_the_run_is_to_stop_is_told_at_once() -> None:
    limiter, stop = Limiter(Concurrency(1, 1)), Event()
    fail(limiter, Transient("slow down", error_class="rate_limited", retry_after=60.0))
    with waiting(limiter, stop) as ended:
        stop.set()
        with pytest.raises(Stopped):
            ended()


def test_an_outage_of_days_is_no_overflow() -> None:
    limiter = Limiter(Concurrency(1, 1))
    limiter._pauses = 10_000
    limiter.call(lambda: None, GO_ON)
    limiter._pauses = 10_000
    fail(limiter, Transient("slow down", error_class="rate_limited"))
    assert limiter._paused_until < time.monotonic() + 10


def test_turns_are_spread_evenly() -> None:
    times = sent_at(Limiter(Concurrency(8, 8), rpm=3000), 12)
    # Most of them: on a busy machine, a thread may get its turn late.
    assert 0.01 < median(later - sooner for sooner, later in pairwise(times)) < 0.06


def test_a_query_goes_before_all_documents_that_wait_and_puts_off_one() -> None:
    limiter = Limiter(Concurrency(1, 1))
    order: list[str] = []
    entered, let_go = Event(), Event()

    def block() -> None:
        entered.set()
        assert let_go.wait(5)

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(limiter.call, block, GO_ON)]
        assert entered.wait(2)
        calls += [
            pool.submit(limiter.call, lambda: order.append("document"), GO_ON) for _ in range(4)
        ]
        time.sleep(0.05)
        calls += [
            pool.submit(limiter.call, lambda: order.append("query"), GO_ON, ahead=True)
            for _ in range(2)
        ]
        time.sleep(0.05)
        let_go.set()
        for call in calls:
            call.result(timeout=5)
    assert order == ["query"] * 2 + ["document"] * 4


@pytest.mark.parametrize(
    "limiter",
    [Limiter(Concurrency(2, 2), rpm=6000), Limiter(Concurrency(1, 1))],
    ids=["the rate", "the window"],
)
def test_documents_are_sent_between_queries(limiter: Limiter) -> None:
    enough = Event()

    def search() -> int:
        count = 0
        while not enough.wait(0.005):
            limiter.call(lambda: time.sleep(0.005), GO_ON, ahead=True)
            count += 1
        return count

    with ThreadPoolExecutor(3) as pool:
        searching = pool.submit(search)
        documents = [pool.submit(limiter.call, lambda: time.sleep(0.005), GO_ON) for _ in range(20)]
        try:
            for call in documents:
                call.result(timeout=5)
        finally:
            enough.set()
        assert searching.result(timeout=5) > 0


def test_a_query_keeps_to_pauses_and_leaves_no_trace_if_it_gives_up() -> None:
    limiter = Limiter(Concurrency(8, 8))
    began = time.monotonic()
    fail(limiter, Transient("slow down", error_class="rate_limited", retry_after=0.4))
    stop = Event()
    with ThreadPoolExecutor(2) as pool:
        given_up = pool.submit(limiter.call, time.monotonic, stop, ahead=True)
        document = pool.submit(limiter.call, time.monotonic, GO_ON)
        stop.set()
        with pytest.raises(Stopped):
            given_up.result(timeout=2)
        assert document.result(timeout=5) - began >= 0.4
    assert limiter.call(time.monotonic, GO_ON, ahead=True) - began >= 0.4
