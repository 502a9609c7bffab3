"""A job is held for as long as its worker is alive, and not a moment longer than a lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from threading import Event, Lock, Semaphore
from typing import LiteralString

import pytest

from tests import conftest
from tests.acceptance.conftest import Held, statuses
from tests.conftest import Database, rows, value
from tests.integration.jobs import SCOPE, claim, claim_one, complete, expire_leases, insert
from tests.integration.runs import LONG, MODEL, Runs, under_way
from tests.integration.runs import SCOPE as SCOPE_OF_RUNS
from tests.integration.tables import Connect, jobs
from tests.openai_server import OpenAIServer, answers
from worker.embedders.base import Embedder, Embeddings, Role
from worker.engine import in_flight, retrying
from worker.engine.heartbeat import FIRST_SILENCE, LONGEST_SILENCE, Heartbeat, Leases
from worker.engine.pipeline import Pipeline
from worker.engine.progress import RunStats
from worker.errors import Unreachable
from worker.queue import (
    AdminQueue,
    Claim,
    Completion,
    Job,
    LeaseKey,
    Refusal,
    Report,
    Scope,
    WorkerState,
)
from worker.queue.jobs import Leased
from worker.queue.postgres import PostgresQueue

OTHER = replace(SCOPE, worker="other", default_model=MODEL)
SHORT = replace(SCOPE_OF_RUNS, lease=timedelta(seconds=0.3))
NEVER = 3600.0  # seconds
eventually = partial(conftest.eventually, within=LONG)


class Watched(PostgresQueue):
    """A queue that says when a heartbeat has gone through it, and with what state."""

    def __init__(self, url: str, application_name: str) -> None:
        super().__init__(url, application_name)
        self.beats = Semaphore(0)
        self.states: list[WorkerState] = []

    def heartbeat(self, scope: Scope, report: Report) -> None:
        super().heartbeat(scope, report)
        self.states.append(report.state)
        self.beats.release()

    def wait_for_further_beats(self, count: int) -> None:
        """Wait for this many beats from now on."""
        while self.beats.acquire(blocking=False):
            pass
        self.wait_for_beats(count)

    def wait_for_beats(self, count: int) -> None:
        for _ in range(count):
            assert self.beats.acquire(timeout=LONG)


@pytest.fixture
def watched(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(in_flight, "ATTENTION", 0.01)
    queue = Watched(database_url, "tests")
    with queue:
        yield queue


@pytest.fixture
def other(database_url: str) -> Iterator[PostgresQueue]:
    """The connection of another worker."""
    with PostgresQueue(database_url, "other") as queue:
        yield queue


def tickets(held: Sequence[Job]) -> set[LeaseKey]:
    return {job.lease_key for job in held}


# -- the heartbeat


def heartbeat_of(queue: AdminQueue, held: Sequence[Job] = (), scope: Scope = SCOPE) -> Heartbeat:
    """The heartbeat of a worker that holds these jobs."""
    leases = Leases()
    leases.hold(held)
    return Heartbeat(queue, scope, leases, lambda: Report("working"))


def test_a_beat_holds_on_to_what_is_held(
    docs: Database, queue: AdminQueue, other: PostgresQueue
) -> None:
    insert(docs, 2)
    held = claim(queue)
    heartbeat = heartbeat_of(queue, held)
    expire_leases(docs)  # and nobody has noticed yet
    heartbeat.beat_if_due()
    assert not other.claim(OTHER, 10)
    assert value(docs, "select min(lease_expires_at) > now() + '4 min' from embedding_queue")
    assert heartbeat.leases.lost(held) == set()
    assert complete(queue, held) == []


def test_beats_are_a_third_of_a_lease_apart_unless_one_is_wanted(
    docs: Database, queue: AdminQueue, other: PostgresQueue
) -> None:
    insert(docs, 1)
    heartbeat = heartbeat_of(queue, claim(queue))
    heartbeat.beat_if_due()
    expire_leases(docs)
    heartbeat.beat_if_due()
    assert value(docs, "select lease_expires_at <= now() from embedding_queue"), "too soon to beat"
    heartbeat.beat_soon()
    heartbeat.beat_if_due()
    assert not other.claim(OTHER, 10)


@pytest.mark.parametrize(("lease", "interval"), [(9, 3), (90, 30), (300, LONGEST_SILENCE)])
def test_the_next_beat_is_due_after_a_third_of_a_lease_and_half_a_minute_at_most(
    queue: AdminQueue, lease: int, interval: float
) -> None:
    an_hour_ago = time.monotonic() - 3600
    heartbeat = heartbeat_of(queue, scope=replace(SCOPE, lease=timedelta(seconds=lease)))
    heartbeat.changed_at = an_hour_ago
    before = time.monotonic()
    heartbeat.beat_if_due()
    assert before + interval <= heartbeat._next_beat <= time.monotonic() + interval


def test_after_a_change_beats_follow_closely_and_then_further_and_further_apart(
    queue: AdminQueue,
) -> None:
    heartbeat = heartbeat_of(queue)
    for ago, interval in ((0.0, FIRST_SILENCE), (4.0, 4.0), (100.0, LONGEST_SILENCE)):
        heartbeat.beat_soon()
        heartbeat.changed_at -= ago
        heartbeat.beat_if_due()
        assert heartbeat._next_beat - time.monotonic() == pytest.approx(interval, abs=0.5)


def test_what_a_beat_finds_lost_is_not_handed_in(
    docs: Database, queue: AdminQueue, other: PostgresQueue
) -> None:
    insert(docs, 3)
    held = claim(queue)
    heartbeat = heartbeat_of(queue, held)
    docs.execute("update embedding_queue set lease_expires_at = now() where record_id = '2'")
    taken = claim(other, scope=OTHER)
    heartbeat.beat_if_due()
    assert {job_id for job_id, _ in heartbeat.leases.lost(held)} == {job.id for job in taken}


def test_leases_outlast_a_call_that_is_longer_than_they_are(
    docs: Database, watched: Watched, openai: OpenAIServer, held: Held
) -> None:
    insert(docs, 10)
    run = Runs(watched, openai).new(scope=SHORT)
    with under_way(run, held) as ending:
        first = value(docs, "select min(lease_expires_at) from embedding_queue")
        watched.wait_for_further_beats(5)  # a third of a lease apart
        assert value(docs, "select now() > %s", first), "without them it would be over"
        assert value(docs, "select min(lease_expires_at) > %s from embedding_queue", first)
    stats = ending.result()
    assert (stats.completed, stats.stale) == (10, 0)


# -- whatever the worker waits for


@contextmanager
def running(run: Pipeline) -> Iterator[Future[RunStats]]:
    """A run in a thread of its own, which ends after what is done inside."""
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run.drain)
        try:
            yield ending
        finally:
            run.stop.set()


def test_it_beats_while_a_model_is_opened(
    docs: Database, watched: Watched, openai: OpenAIServer
) -> None:
    insert(docs, 10)
    runs, opened = Runs(watched, openai), Event()

    def open_slowly(model: str, width: int | None, prompt: str | None = None) -> Embedder:
        assert opened.wait(LONG)
        return runs.open(model, width, prompt)

    runs.open_embedder = open_slowly
    with running(runs.new(scope=SHORT)) as ending:
        watched.wait_for_further_beats(8)  # in more than twice the time of a lease
        assert value(docs, "select min(lease_expires_at) > now() from embedding_queue")
        opened.set()
        assert ending.result(LONG).completed == 10


def test_it_beats_while_a_table_is_locked(
    docs: Database, watched: Watched, openai: OpenAIServer, connect: Connect
) -> None:
    insert(docs, 10)
    writer = connect()
    writer.execute("begin")
    writer.execute("lock table docs in access exclusive mode")
    with running(Runs(watched, openai).new(scope=SHORT)) as ending:
        watched.wait_for_further_beats(8)
        writer.execute("rollback")
        assert ending.result(LONG).completed == 10


def test_it_beats_and_gives_signs_of_life_between_two_batches(
    docs: Database, watched: Watched, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "ATTEND_EVERY", 0.02)
    insert(docs, 20)
    run = Runs(watched, openai).new(scope=SHORT, delay=NEVER)
    pulses = Semaphore(0)
    monkeypatch.setattr(run.progress, "pulse", pulses.release)
    with running(run) as ending:
        eventually(lambda: statuses(docs) == {"completed": 10, "pending": 10})
        watched.wait_for_further_beats(5)
        while pulses.acquire(blocking=False):
            pass
        for _ in range(5):
            assert pulses.acquire(timeout=LONG)
        assert statuses(docs) == {"completed": 10, "pending": 10}
        run.stop.set()
        assert ending.result(LONG).completed == 10


class Stubborn(Watched):
    """A queue of which one method fails, as if the database were away, until some beats later."""

    method = ""
    calls = 0

    def until_beaten(self, method: str) -> None:
        if method != self.method:
            return
        self.calls += 1
        if self.calls == 1:
            self.until = len(self.states) + 5
        if len(self.states) < self.until:
            raise Unreachable("a function of theirs raised what looks like an outage")

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        self.until_beaten("claim")
        return super().claim(scope, batch_size, except_targets)

    def complete(self, model: str, completions: Sequence[Completion]) -> list[Refusal]:
        self.until_beaten("complete")
        return super().complete(model, completions)

    def fail(
        self,
        jobs: Sequence[Leased],
        error_class: str,
        message: str,
        retry_in: timedelta | None = None,
    ) -> int:
        self.until_beaten("fail")
        return super().fail(jobs, error_class, message, retry_in)

    def release(
        self,
        jobs: Sequence[Leased],
        retry_in: timedelta = timedelta(0),
        reason: str | None = None,
        error_class: str | None = None,
        *,
        embedded: bool = False,
    ) -> None:
        self.until_beaten("release")
        super().release(jobs, retry_in, reason, error_class, embedded=embedded)


@pytest.mark.parametrize("method", ["claim", "complete", "fail", "release"])
def test_it_beats_while_one_statement_fails_and_loses_nothing_it_holds(
    docs: Database,
    database_url: str,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """What is about to be handed in is held until it is: a beat gives back what is not."""
    monkeypatch.setattr(retrying, "ATTEND_EVERY", 0.02)
    insert(docs, 20)
    openai.reject = lambda text: method == "fail" and text == "text 7"
    queue = Stubborn(database_url, "tests")
    queue.method = method
    with queue:
        run = Runs(queue, openai).new(scope=SHORT)
        if method == "release":
            monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.05)
            openai.faults.extend([answers(404, {})] * 100)
        stats = run.drain()
        assert queue.calls > 1
    if method == "release":
        assert "404" in value(docs, "select min(error_message) from embedding_queue")
    else:
        failed = int(method == "fail")
        assert (stats.completed, stats.failed, stats.stale) == (20 - failed, failed, 0)


def test_a_beat_that_does_not_reach_the_database_is_made_again(
    docs: Database, forgetful_beats: Watched, openai: OpenAIServer
) -> None:
    insert(docs, 20)
    assert Runs(forgetful_beats, openai).drain(10).completed == 20
    assert forgetful_beats.states


def test_a_pause_is_made_of_short_ones() -> None:
    waits: list[float] = []
    signs: list[int] = []

    class Stop(Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    began = time.monotonic()
    retrying.pause(0.01, Stop(), lambda: signs.append(1))
    assert time.monotonic() - began >= 0.01
    assert 0 < max(waits) <= retrying.ATTEND_EVERY
    assert len(signs) == len(waits)


def test_who_takes_over_an_expired_lease_has_the_last_word(
    docs: Database, runs: Runs, held: Held, other: PostgresQueue
) -> None:
    insert(docs, 10)
    with under_way(runs.new(limit=10), held) as ending:  # and claims no more itself
        expire_leases(docs)
        taken = claim(other, scope=OTHER)
        assert len(taken) == 10
    stats = ending.result()
    assert (stats.stale, stats.completed) == (10, 0)
    assert value(docs, "select count(embedding) from docs") == 0
    assert rows(docs, "select distinct worker, abandoned_claims from embedding_queue") == [
        ("other", 2)
    ]
    assert complete(other, taken) == [], "of another model: what counts is whose lease it is"


# -- what extend_embeddings answers


LOSSES: dict[str, LiteralString] = {
    "edited": "update docs set body = 'edited' where id = 2",
    "deleted": "delete from docs where id = 2",
    "requeued": "select requeue_embeddings(null, only_record => '2')",
    "by hand": "update embedding_queue set status = 'pending' where record_id = '2'",
    "taken over": "update embedding_queue set lease = gen_random_uuid() where record_id = '2'",
    "unwatched": "select unwatch_embeddings('docs', 'embedding')",
}


@pytest.mark.parametrize("loss", LOSSES.items(), ids=list(LOSSES))
def test_a_worker_is_told_which_of_its_leases_are_lost(
    docs: Database, queue: AdminQueue, loss: tuple[str, LiteralString]
) -> None:
    name, statement = loss
    insert(docs, 3)
    held = claim(queue)
    assert queue.extend(SCOPE, held) == set()
    docs.execute(statement)
    lost = held if name == "unwatched" else [job for job in held if job.record_id == "2"]
    assert queue.extend(SCOPE, held) == tickets(lost)


def test_a_lease_whose_job_is_just_locked_is_not_lost_and_not_waited_for(
    docs: Database, queue: AdminQueue, connect: Connect
) -> None:
    insert(docs, 2)
    held = claim(queue)
    writer = connect()
    with writer.transaction():
        writer.execute("update docs set body = 'edited' where id = 2")
        assert queue.extend(SCOPE, held) == set(), "the writer has not committed"
    assert queue.extend(SCOPE, held) == tickets([held[1]])


def test_what_stands_under_a_workers_name_beyond_what_it_knows_of_goes_back(
    docs: Database, queue: AdminQueue, other: PostgresQueue
) -> None:
    insert(docs, 6)
    docs.execute("update embedding_queue set abandoned_claims = 3 where record_id = '3'")
    known, unknown, theirs = claim(queue, 2), claim(queue, 2), claim(other, 2, OTHER)
    assert queue.extend(SCOPE, known) == set()
    assert rows(
        docs,
        "select record_id, status, abandoned_claims, worker, error_message, available_at <= now()"
        "  from embedding_queue order by 1",
    ) == [
        *[(job.record_id, "processing", 1, "test", None, True) for job in known],
        # the claim that did not arrive does not count, those before it do
        ("3", "pending", 3, None, "claimed, but the answer was lost", True),
        ("4", "pending", 0, None, "claimed, but the answer was lost", True),
        *[(job.record_id, "processing", 1, "other", None, True) for job in theirs],
    ]
    assert queue.extend(SCOPE, unknown) == tickets(unknown)


class ForgetfulBeats(Watched):
    """A queue whose first beat does not reach the database."""

    lost = False

    def extend(self, scope: Scope, jobs: Sequence[Leased]) -> set[LeaseKey]:
        if not self.lost:
            self.lost = True
            raise Unreachable("the database is away")
        return super().extend(scope, jobs)


@pytest.fixture
def forgetful_beats(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.0)
    queue = ForgetfulBeats(database_url, "tests")
    with queue:
        yield queue


class Forgetful(PostgresQueue):
    """A queue over a line that loses the answer to the first claim."""

    lost = False

    def claim(self, scope: Scope, batch_size: int, except_targets: Collection[int] = ()) -> Claim:
        claimed = super().claim(scope, batch_size, except_targets)
        if not self.lost:
            self.lost = True
            raise Unreachable("the answer was lost")
        return claimed


@pytest.fixture
def forgetful(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forgetful]:
    monkeypatch.setattr(retrying, "LONGEST_WAIT", 0.0)
    queue = Forgetful(database_url, "tests")
    with queue:
        yield queue


def test_jobs_whose_claim_was_not_answered_are_done_by_the_same_run(
    docs: Database, forgetful: Forgetful, openai: OpenAIServer
) -> None:
    insert(docs, 20)
    assert Runs(forgetful, openai).drain(10).completed == 20
    assert value(docs, "select max(attempts + abandoned_claims) from embedding_queue") == 0


def test_so_are_they_if_they_were_the_last(
    docs: Database, forgetful: Forgetful, openai: OpenAIServer
) -> None:
    insert(docs, 10)
    assert Runs(forgetful, openai).drain(10).completed == 10


# -- what is never answered


def dying_over(docs: Database, queue: AdminQueue, record: str) -> list[list[Job]]:
    """What workers claim that die over a record, and complete all else that is handed out alone."""
    claims = []
    while taken := queue.claim(SCOPE, 10):
        claims.append(taken.jobs)
        if len(taken.jobs) == 1 and taken.jobs[0].record_id != record:
            assert complete(queue, taken.jobs) == []
        expire_leases(docs)
    return claims


def test_what_kills_its_worker_is_given_up_and_its_neighbours_are_not(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 10)
    claims = dying_over(docs, queue, "4")
    together, isolated = claims[:4], [batch for batch in claims[4:] if batch]
    assert [len(batch) for batch in together] == [10] * 4
    assert [len(batch) for batch in isolated] == [1] * 10
    assert {batch[0].record_id for batch in isolated} == {str(number) for number in range(1, 11)}
    assert [job.isolated for batch in together for job in batch] == [False] * 40
    assert all(job.isolated for batch in isolated for job in batch)
    assert rows(
        docs, "select record_id, error_class, attempts from embedding_queue where status = 'failed'"
    ) == [("4", "no_answer", 0)]
    assert statuses(docs) == {"completed": 9, "failed": 1}
    assert (
        value(docs, "select max(abandoned_claims) from embedding_queue where status <> 'failed'")
        == 0
    )


@dataclass
class Counting:
    """Notes of each call how many are under way with it, and does something at the second.

    The first waits for it, however slow the claims of this machine are.
    """

    embedder: Embedder
    at_second: Callable[[], object]
    calls: list[tuple[list[str], int]] = field(default_factory=list)
    under_way: int = 0
    lock: Lock = field(default_factory=Lock)
    second: Event = field(default_factory=Event)

    def __getattr__(self, name: str) -> object:
        return getattr(self.embedder, name)

    def embed(self, texts: Sequence[str], role: Role) -> Embeddings:
        with self.lock:
            self.under_way += 1
            self.calls.append((list(texts), self.under_way))
            if len(self.calls) == 2:
                self.at_second()
                self.second.set()
        self.second.wait(timeout=30)
        try:
            return self.embedder.embed(texts, role)
        finally:
            with self.lock:
                self.under_way -= 1


def test_a_job_that_comes_alone_is_alone_in_its_process(
    docs: Database, runs: Runs, other: PostgresQueue, openai: OpenAIServer
) -> None:
    insert(docs, 300)
    openai.latency = 0.01
    [suspect] = claim(other, 1, OTHER)
    docs.execute("update embedding_queue set abandoned_claims = 4 where status = 'processing'")
    expire: LiteralString = (
        "update embedding_queue set lease_expires_at = now() where abandoned_claims = 4"
    )
    opened: list[Counting] = []

    def open_counting(model: str, width: int | None, prompt: str | None = None) -> Embedder:
        # another worker has died over it, and it turns up while the rest is under way
        opened.append(Counting(runs.open(model, width, prompt), lambda: docs.execute(expire)))
        return opened[-1]  # type: ignore[return-value]

    runs.open_embedder = open_counting
    assert runs.drain().completed == 300
    [embedder] = opened
    calls = embedder.calls
    assert max(beside for _, beside in calls) > 1, "calls overlap"
    place = [suspect.content in texts for texts, _ in calls].index(True)
    assert 1 < place < len(calls) - 1
    assert calls[place] == ([suspect.content], 1), "nothing is under way beside it"
    assert calls[place + 1][1] == 1, "and nothing begins before it has ended"


ANSWERS: dict[str, Callable[[PostgresQueue, Job], object]] = {
    "released": lambda queue, job: queue.release([job]),
    "set back": lambda queue, job: queue.fail([job], "provider_error", "why", timedelta(0)),
    "failed": lambda queue, job: queue.fail([job], "rejected", "why"),
    "completed": lambda queue, job: complete(queue, [job]),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_whatever_is_answered_the_silence_before_it_is_forgotten(
    docs: Database, queue: AdminQueue, answer: Callable[[AdminQueue, Job], object]
) -> None:
    insert(docs, 1)
    for _ in range(3):
        claim_one(queue)
        expire_leases(docs)
    job = claim_one(queue)
    assert value(docs, "select abandoned_claims from embedding_queue") == 4
    answer(queue, job)
    assert rows(docs, "select abandoned_claims, lease from embedding_queue") == [(0, None)]


# -- who is at work


AT_WORK: LiteralString = "select worker, state, completed, failed from embedding_workers"


def test_a_worker_is_on_the_list_while_it_runs_and_not_afterwards(
    docs: Database, watched: Watched, openai: OpenAIServer, held: Held
) -> None:
    insert(docs, 10)
    run = Runs(watched, openai).new(scope=SHORT)
    with under_way(run, held) as ending:
        assert rows(docs, AT_WORK) == [("test", "working", 0, 0)]
        assert value(docs, "select pid from embedding_workers") > 0
        seen = value(docs, "select seen_at from embedding_workers")
        run.stop.set()
        while watched.states[-1:] != ["stopping"]:
            watched.wait_for_beats(1)
        assert rows(docs, AT_WORK) == [("test", "stopping", 0, 0)]
        assert value(docs, "select seen_at > %s from embedding_workers", seen)
    assert ending.result().completed == 10
    assert rows(docs, AT_WORK) == []


def test_a_worker_that_said_nothing_for_a_day_is_forgotten_by_the_next_that_speaks(
    docs: Database, queue: AdminQueue
) -> None:
    for name in ("killed yesterday", "killed this morning"):
        queue.heartbeat(replace(SCOPE, worker=name), Report("working", 5, 1))
    docs.execute(
        "update embedding_workers set seen_at = now() - interval '25 hours' where worker ~ 'yes'"
    )
    queue.heartbeat(SCOPE, Report("working"))
    assert sorted(rows(docs, AT_WORK)) == [
        ("killed this morning", "working", 5, 1),
        ("test", "working", 0, 0),
    ]


# -- a stop


def test_a_stop_does_not_wait_longer_for_a_silent_model_than_its_grace(
    docs: Database, runs: Runs, held: Held
) -> None:
    insert(docs, 30)
    run = runs.new(grace=0.1, limit=10)
    with under_way(run, held) as ending:
        run.stop.set()
        began = time.monotonic()
        stats = ending.result(LONG)
        assert time.monotonic() - began < 2
        assert not held.let_go.is_set(), "the model is still silent"
    assert (stats.released, stats.taken) == (10, 10)
    assert rows(
        docs,
        "select distinct status, attempts, abandoned_claims, lease, available_at <= now(),"
        "       error_message from embedding_queue order by error_message",
    ) == [
        ("pending", 0, 0, None, True, "its worker was stopped"),
        ("pending", 0, 0, None, True, None),
    ]
    assert rows(docs, AT_WORK) == []
    assert runs.drain().completed == 30


def test_a_stop_lets_a_model_that_answers_within_the_grace_finish(
    docs: Database, runs: Runs, held: Held
) -> None:
    insert(docs, 30)
    run = runs.new(limit=10)
    with under_way(run, held) as ending:
        run.stop.set()
    assert ending.result().completed == 10
    assert sorted(status for _, status in jobs(docs)) == ["completed"] * 10 + ["pending"] * 20
