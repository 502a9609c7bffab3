"""The loop: claim ahead while requests are under way, write behind, and stop when asked.

One thread talks to the database. Requests to the models run in pools beside it, so no transaction
is ever open while a model works. What is under way is bounded, whatever the length of the queue.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from datetime import timedelta
from threading import Event
from typing import TypeVar

from worker.engine.breaker import waiting_for
from worker.engine.embedding import Outcome, embed
from worker.engine.leases import Leases
from worker.engine.models import Key, Model, Models, OpenEmbedder, Provider, ProviderLimits, key_of
from worker.engine.progress import Progress, RunStats
from worker.engine.retrying import RECONNECT_TIMEOUT, RetryingQueue, pause
from worker.engine.throttling import FULL, Throttle, ThrottleDecision
from worker.engine.writing import Writer
from worker.errors import Busy, WorkerError
from worker.queue import Claim, Completion, Job, Queue, Report, Scope, WorkerState

LOCKED_TIMEOUT = 30.0  # seconds to wait for a table that is locked as a whole
LOCKED_PAUSE = 0.2  # seconds between two looks at it
LONGEST_PAUSE = 10.0  # seconds after a batch, where slowed down
ATTENTION = 0.25  # seconds between two looks at heartbeat and `stop` while a model works

TEXTS_A_REQUEST = 100
CLAIMED_AT_ONCE = 400  # jobs: a row costs half as much as with 100, and with more no less
SLOW_CLAIM = 5.0  # seconds; no heartbeat is sent meanwhile, so the next claim is half as large
# Nothing more is claimed beside so many; jobs that wait for the text of another take no request.
MOST_JOBS = 10_000  # or four batches
MOST_CHARACTERS = 64_000_000  # of text

Result = TypeVar("Result")
Text = tuple[int, str, bytes]
"""Target, model and hash: jobs of the same text are embedded once."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run goes about it: so many jobs are claimed and embedded at once (None: requests hold
    TEXTS_A_REQUEST at most, and more is claimed at once, since that is cheaper).

    With a `delay` (seconds) batches go one at a time. `limit`: so many jobs are taken up in all.
    Once it is to stop, what is under way has `grace` seconds to end. Vectors are looked up in the
    database first, and kept there, if `cache_mb` is above zero.
    """

    batch_size: int | None = None
    delay: float = 0.0
    limit: int | None = None
    grace: float = 20.0
    limits: ProviderLimits = field(default_factory=ProviderLimits)
    cache_mb: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """Jobs of one column whose texts are under way together."""

    model: Model
    jobs: list[Job]
    is_trial: bool
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Pipeline:
    """One run over the jobs in `scope`. Set `stop` to end it early, with nothing left half done.

    The jobs of a target whose model cannot be used go back untouched, and `troubles` says why. The
    target is left alone for the rest of the run, or, if the run `retries`, for a pause: then it is
    tried with one job. The other targets go on.
    """

    queue: InitVar[Queue]
    open_embedder: InitVar[OpenEmbedder]
    scope: Scope
    options: RunOptions
    progress: Progress
    stop: Event
    stats: RunStats = field(default_factory=RunStats)
    throttle: Throttle = lambda: FULL
    reconnect_timeout: float = RECONNECT_TIMEOUT
    """Seconds to wait for a database that is out of reach."""
    retries: bool = False
    state: WorkerState = "working"
    """What its worker is said to do; between two works whoever makes it work says so."""
    cause: str | None = None
    since: float = field(default_factory=time.monotonic)
    listens: bool = False
    _queue: RetryingQueue = field(init=False)
    _leases: Leases = field(init=False)
    _writer: Writer = field(init=False)
    _models: Models = field(init=False)
    _under_way: dict[Future[Outcome], Request] = field(default_factory=dict)
    _duplicates: dict[Text, list[Job]] = field(default_factory=dict)
    """For each text that is under way, the jobs that wait for its vector beside the first."""
    _in_hand: int = 0
    _characters: int = 0
    _at_once: int = TEXTS_A_REQUEST
    """Jobs to claim at once; fewer where their texts are long, or claims take long."""
    _is_claiming_slowly: bool = False
    _keys: dict[int, Key] = field(default_factory=dict)
    """For each target of which jobs were claimed, its model."""
    _locked: str | None = None
    """What the database says of tables that are locked as a whole, if nothing else is due."""
    _stopped_at: float | None = None
    _decision: ThrottleDecision = FULL
    _batch_began: float = 0.0

    def __post_init__(self, queue: Queue, open_embedder: OpenEmbedder) -> None:
        self._queue = RetryingQueue(
            queue, self.progress, self.stop, reconnect_timeout=self.reconnect_timeout
        )
        self._queue.attend = self._attend
        self._leases = Leases(queue, self.scope)
        self._writer = Writer(self._queue, self._leases, self.stats, self.stop)
        self._models = Models(open_embedder, self.options.limits)
        # what was claimed by a call whose answer was lost is found out by the next heartbeat
        self._queue.on_outage = self._leases.beat_soon

    @property
    def errors(self) -> list[WorkerError]:
        """Why targets are left alone: one error for each of them."""
        return [error for _, error in self._errors]

    @property
    def waits_for(self) -> str | None:
        """Why jobs that are due are not taken up; None: nothing is known of such jobs."""
        return waiting_for(self._errors) or self._locked

    @property
    def _errors(self) -> list[tuple[str, WorkerError]]:
        return [error for key in self._keys.values() if (error := self._models.error_of(key))]

    def drain(self) -> RunStats:
        """Work until nothing is due, the limit is reached, or `stop` is set.

        Waits for a database that is out of reach. Raises Unreachable if it stays so; what was
        claimed is then due again when its lease runs out.
        """
        with self.attended():
            self.work()
        return self.stats

    @contextmanager
    def attended(self, *, retries: bool = False) -> Iterator[None]:
        """Keep the worker on the list of those at work, and let go of everything in the end.

        If it `retries`, a model that cannot be used is tried again after a pause.
        """
        self.retries = retries
        try:
            self.beat()
            yield
            self.enter("stopping", "asked to stop")
            self._queue.deregister(self.scope)
        finally:
            if self._under_way:  # the database is lost: do not wait for the model as well
                self.stop.set()
            self._models.close()

    def work(self) -> None:
        """Work as `drain` does, within `attended`; may be called again when there is more."""
        while self._claim_ahead() or self._under_way:
            self._write_behind()

    def unload(self) -> None:
        """Give back the memory of the models. They are opened again when they are needed."""
        self._models.close()
        self._at_once = TEXTS_A_REQUEST

    def retry_now(self) -> None:
        """Try again at once what could not be used."""
        self._models.retry_now()

    def listen(self) -> bool:
        """Let notifications reach the worker. Returns whether they do."""
        self.listens = self._queue.listen()
        return self.listens

    @property
    def retrying_queue(self) -> RetryingQueue:
        """The queue, which waits for its database."""
        return self._queue

    def enter(self, state: WorkerState, cause: str) -> None:
        """Tell the queue what the worker does from now on."""
        if state != self.state:
            self.progress.event("state_changed", state=state, cause=cause)
        self.state, self.cause, self.since = state, cause, time.monotonic()
        self._leases.beat_soon()
        self.beat()

    def beat(self) -> None:
        """Extend the leases and say that the worker is there, if it is time for that. Waits for a
        database that is out of reach."""
        self.progress.pulse()
        if self._leases.beat_is_due:
            self._queue.until_answered(lambda: None)  # which begins with a beat

    def _attend(self) -> None:
        self.progress.pulse()
        if self._leases.beat_is_due:
            self._leases.beat_if_due(self._report_of_itself())

    @property
    def decision(self) -> ThrottleDecision:
        """The throttle level it is in."""
        return self._decision

    # -- claiming

    def _claim_ahead(self) -> bool:
        """Fill the room for requests. False if there is nothing to claim, or none may be."""
        self._shift()
        while self._wanted() > 0 and self._has_room():
            claim = self._claim()
            if not claim:
                return False
            self._leases.hold(claim.jobs)
            self.stats.add_settled(claim.settled)
            if claim.jobs:
                self._take_up(claim.jobs)
            else:
                self.progress.update(self.stats)
            self._shift()
        return self._wanted() > 0

    def _wanted(self) -> int:
        """How many jobs may be claimed next."""
        if self.stop.is_set() or self._decision.level in ("paused", "stop"):
            return 0
        wanted = self.options.batch_size or (TEXTS_A_REQUEST if self._is_slow else self._at_once)
        if self._decision.at_most is not None:
            wanted = min(wanted, self._decision.at_most - self._in_hand)
        if self.options.limit is not None:
            wanted = min(wanted, self.options.limit - self.stats.taken - self._in_hand)
        return wanted

    @property
    def _is_slow(self) -> bool:
        """Whether batches go one at a time."""
        return self.options.delay > 0 or self._decision.level == "slow"

    def _shift(self) -> None:
        """Take the throttle level that is asked for, and say so if it is another."""
        decision = self._queue.until_answered(self.throttle)
        if decision.level != self._decision.level:
            self.progress.event(
                "throttle_changed",
                throttle_level=decision.level,
                cause=decision.cause or "nothing is in the way",
            )
        self._decision = decision

    def _has_room(self) -> bool:
        if not self._under_way:
            return True
        most = max(MOST_JOBS, 4 * (self.options.batch_size or 0))
        if self._is_slow or self._in_hand >= most or self._characters > MOST_CHARACTERS:
            return False
        return any(provider.has_room for provider in self._models.providers.values())

    def _claim(self) -> Claim | None:
        give_up_at = time.monotonic() + LOCKED_TIMEOUT
        while not self.stop.is_set():
            self.beat()
            if self._may_try() and (claim := self._claim_for_a_trial()):
                return claim
            try:
                began = time.monotonic()
                claim = self._queue.claim(self.scope, self._wanted(), self._left_alone())
                self._is_claiming_slowly = time.monotonic() - began > SLOW_CLAIM
                self._locked = None
                if claim or not self._leases.beat_is_due:
                    return claim
            except Busy as locked:
                if self._under_way:
                    return None
                if time.monotonic() > give_up_at:
                    if self.retries:
                        self._locked = locked.cause
                        return None
                    raise
                pause(LOCKED_PAUSE, self.stop, self.beat)
        return None

    def _claim_for_a_trial(self) -> Claim | None:
        """One job of a target whose model may be tried again. If there is none, nothing waits."""
        targets = self._may_try()
        try:
            claim = self._queue.claim(self.scope, 1, self._keys.keys() - targets)
        except Busy:
            claim = None
        if claim is None or not claim.jobs:
            for target in targets:
                self._models.postpone(self._keys[target])
        if claim is not None and not claim:
            for target in targets:
                del self._keys[target]
        return claim or None

    def _may_try(self) -> Collection[int]:
        """The targets whose model could not be used, and may be tried again now."""
        if not self.retries:
            return ()
        return {target for target, key in self._keys.items() if self._models.may_try(key)}

    def _left_alone(self) -> Collection[int]:
        """The targets of which nothing is claimed now: their model cannot be used, or is busy."""
        return {
            target
            for target, key in self._keys.items()
            if self._models.error_of(key) or not self._models.has_room(key)
        }

    # -- embedding

    def _take_up(self, jobs: list[Job]) -> None:
        if self.state != "working":
            self.enter("working", "there is something to do")
        # Otherwise jobs in flight beside it would be lost once more if it kills the process.
        isolated = jobs[0].isolated
        while isolated and self._under_way:
            self._write_behind()
        self._submit(jobs)
        while isolated and self._under_way:
            self._write_behind()

    def _submit(self, jobs: list[Job]) -> None:
        key = self._keys[jobs[0].target_id] = key_of(jobs[0])
        broken = self._models.error_of(key)
        if broken and not (self.retries and self._models.may_try(key)):
            self._writer.release_untried(jobs, broken[1])
            self._tell_of_trouble(jobs[0])
            return
        if broken:
            self._models.try_again(key)
            self._writer.release(jobs[1:], timedelta(0), "its model is tried with another job")
            jobs = jobs[:1]
        try:
            model = self._models.of(key, self._result_of)
        except WorkerError as error:
            self._writer.release_untried(jobs, error)
            self._tell_of_trouble(jobs[0])
            return
        if not self._send(model, jobs, is_trial=bool(broken)):
            self._models.postpone(key)

    def _result_of(self, future: Future[Result]) -> Result:
        """What comes of something that goes on in another thread."""
        while not future.done():
            wait([future], ATTENTION)
            self.beat()
        return future.result()

    def _send(self, model: Model, jobs: list[Job], *, is_trial: bool) -> int:
        """Returns how many requests that takes."""
        if not self._under_way:
            self._batch_began = time.monotonic()
        characters = sum(len(job.content) for job in jobs)
        self._in_hand += len(jobs)
        self._characters += characters
        at_once = self._at_once // 2 if self._is_claiming_slowly else 2 * self._at_once
        self._at_once = max(min(at_once, CLAIMED_AT_ONCE, _fit(jobs, characters)), 1)
        unknown = self._without_cached(model, self._first_of_their_text(jobs))
        requests = model.requests(unknown, self.options.batch_size or TEXTS_A_REQUEST)
        for texts in requests:
            future = model.provider.pool.submit(embed, model, texts, self.stop, is_trial=is_trial)
            self._under_way[future] = Request(model, texts, is_trial)
            model.provider.under_way += 1
        return len(requests)

    def _first_of_their_text(self, jobs: Iterable[Job]) -> list[Job]:
        """Jobs whose text is not under way; the others wait for the vector of the first."""
        first = []
        for job in jobs:
            text = _text_of(job)
            if text in self._duplicates:
                self._duplicates[text].append(job)
            else:
                self._duplicates[text] = []
                first.append(job)
        return first

    def _without_cached(self, model: Model, jobs: list[Job]) -> list[Job]:
        """Jobs whose vector is not in the cache; the others are completed."""
        width = model.embedder.dimensions or (jobs[0].dimensions if jobs else None)
        if not (self.options.cache_mb and jobs and width):
            return jobs
        found = self._queue.cached(jobs[0].model, width, [job.content_hash for job in jobs])
        known = [job for job in jobs if job.content_hash in found]
        if known:
            self.stats.add_cached(len(known))
            vectors = ((job, *found[job.content_hash]) for job in known)
            self._hand_in(known, Outcome([Completion(*given, cost=0.0) for given in vectors]))
        return [job for job in jobs if job.content_hash not in found]

    # -- writing

    def _write_behind(self) -> None:
        """Wait a moment for a request to end, and write what came of it."""
        finished, _ = wait(self._under_way, ATTENTION, FIRST_COMPLETED)
        self.beat()
        for column in self._by_column(finished):
            self._write(column)
        if finished and self._is_slow and not self._under_way and self._wanted() > 0:
            self._pause_after_batch()
        if self._out_of_grace():
            self._writer.release(self._leases.jobs, timedelta(0), "its worker was stopped")
            self._under_way.clear()

    def _pause_after_batch(self) -> None:
        seconds = self.options.delay
        if self._decision.level == "slow":
            took = time.monotonic() - self._batch_began
            seconds = max(seconds, min(took, LONGEST_PAUSE))
        pause(seconds, self.stop, self.beat)

    def _by_column(self, finished: Iterable[Future[Outcome]]) -> Iterable[list[Future[Outcome]]]:
        """Requests of a column that ended at once are written at once: some hold one text each."""
        columns: dict[tuple[int, str], list[Future[Outcome]]] = defaultdict(list)
        for future in finished:
            job = self._under_way[future].jobs[0]
            columns[job.target_id, job.model].append(future)
        return columns.values()

    def _write(self, finished: list[Future[Outcome]]) -> None:
        outcome = Outcome()
        jobs: list[Job] = []
        for future in finished:
            request = self._under_way.pop(future)
            outcome.add(future.result())
            self._tell_of(request, future.result())
            request.model.provider.under_way -= 1
            jobs += request.jobs
        model = request.model
        spent = self.stats.models[jobs[0].model]
        spent.add(outcome.requests, outcome.tokens, model.embedder.price)
        spent.request_times.add(outcome.request_times)
        if self.options.cache_mb and outcome.completions:  # paid for, whatever becomes of the row
            self._queue.cache(jobs[0].model, outcome.completions, self.options.cache_mb)
        self._hand_in(jobs, outcome)
        if request.is_trial:
            self._models.postpone(key_of(jobs[0]))
        self._report(model.provider)
        self._tell_of_trouble(jobs[0])

    def _tell_of_trouble(self, job: Job) -> None:
        """Once for each column that is left alone, and again if that goes on after it was tried."""
        for breaker in self._models.open_breakers(key_of(job))[:1]:
            if breaker.is_news_for(job.target_id) and (error := breaker.error):
                where = {"table": job.table_name, "column": job.embedding_column}
                self.progress.event("model_unusable", **where, cause=error.cause, hint=error.hint)

    def _tell_of(self, request: Request, outcome: Outcome) -> None:
        job = request.jobs[0]
        self.progress.event(
            "batch_done",
            table=job.table_name,
            column=job.embedding_column,
            model=job.model,
            jobs=len(request.jobs),
            requests=outcome.requests,
            tokens=outcome.tokens,
            seconds=time.monotonic() - request.began,
        )

    def _hand_in(self, first: list[Job], outcome: Outcome) -> None:
        """Write what became of these texts, for all jobs that have them."""
        duplicates = {job.lease_key: self._duplicates.pop(_text_of(job)) for job in first}
        jobs = first + [twin for same in duplicates.values() for twin in same]
        self._in_hand -= len(jobs)
        self._characters -= sum(len(job.content) for job in jobs)
        self._writer.write(jobs, outcome.shared(duplicates))
        self.progress.update(self.stats)

    def _report(self, provider: Provider) -> None:
        """Tell the queue whether the provider can be used, whenever there is news of it."""
        breaker = provider.breaker
        error, before = breaker.error, breaker.reported
        if error is before:
            return
        breaker.reported = error
        cause, hint = (error.cause, error.hint) if error else (None, None)
        self._queue.report_provider(provider.name, cause, hint)
        if error and not isinstance(before, WorkerError):
            fields = {"provider": provider.name, "cause": cause, "hint": hint}
            self.progress.event("provider_stopped", **fields)
        elif not error and isinstance(before, WorkerError):
            self.progress.event("provider_back", provider=provider.name)

    def _out_of_grace(self) -> bool:
        if not self.stop.is_set():
            return False
        self._stopped_at = self._stopped_at or time.monotonic()
        return time.monotonic() > self._stopped_at + self.options.grace

    def _report_of_itself(self) -> Report:
        return Report(
            state="stopping" if self.stop.is_set() else self.state,
            completed=self.stats.completed,
            failed=self.stats.failed,
            usage=self.stats.usage,
            throttle_level=self._decision.level,
            cause=self._decision.cause or self.cause,
            # nobody needs to wake who may not work
            listens=self.listens and self._decision.level != "paused",
        )


def _fit(jobs: Sized, characters: int) -> int:
    """How many jobs like these may be in hand."""
    return MOST_CHARACTERS * len(jobs) // max(characters, 1)


def _text_of(job: Job) -> Text:
    return job.target_id, job.model, job.content_hash
