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

from worker.engine.embedding import Outcome, embed
from worker.engine.gear import FULL, Governor, Verdict
from worker.engine.leases import Leases
from worker.engine.models import Limits, Model, Models, OpenEmbedder, Provider
from worker.engine.patience import PATIENCE, PatientQueue
from worker.engine.progress import Progress, Tally
from worker.engine.writing import Writer
from worker.errors import Busy, WorkerError
from worker.queue import Claim, Completion, Job, Queue, Report, Scope, WorkerState

LOCKED_PATIENCE = 30.0  # seconds to wait for a table that is locked as a whole
LOCKED_PAUSE = 0.2  # seconds between two looks at it
LONGEST_PAUSE = 10.0  # seconds after a batch, where thinned out
SIGN_OF_LIFE = 5.0  # seconds, at least, also while it pauses
ATTENTION = 0.25  # seconds between two looks at heartbeat and `stop` while a model works

TEXTS_A_REQUEST = 100
CLAIMED_AT_ONCE = 400  # jobs: a row costs half as much as with 100, and with more no less
# Nothing more is claimed beside so many; jobs that wait for the text of another take no request.
MOST_JOBS = 10_000  # or four batches
MOST_CHARACTERS = 64_000_000  # of text

Text = tuple[int, str, bytes]
"""Target, model and hash: jobs of the same text are embedded once."""


@dataclass(frozen=True, slots=True)
class Pace:
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
    limits: Limits = field(default_factory=Limits)
    cache_mb: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """Jobs of one column whose texts are under way together."""

    model: Model
    jobs: list[Job]
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Pipeline:
    """One run over the jobs in `scope`. Set `stop` to end it early, with nothing left half done.

    A target whose model is out or cannot be used is left alone for the rest of the run: its jobs go
    back untouched, and `troubles` says why. The others go on.
    """

    queue: InitVar[Queue]
    open_embedder: InitVar[OpenEmbedder]
    scope: Scope
    pace: Pace
    progress: Progress
    stop: Event
    tally: Tally = field(default_factory=Tally)
    govern: Governor = lambda: FULL
    patience: float = PATIENCE
    """Seconds to wait for a database that is out of reach."""
    state: WorkerState = "working"
    """What its worker is said to do; between two works whoever makes it work says so."""
    cause: str | None = None
    since: float = field(default_factory=time.monotonic)
    listens: bool = False
    _queue: PatientQueue = field(init=False)
    _leases: Leases = field(init=False)
    _writer: Writer = field(init=False)
    _models: Models = field(init=False)
    _under_way: dict[Future[Outcome], Request] = field(default_factory=dict)
    _twins: dict[Text, list[Job]] = field(default_factory=dict)
    """For each text that is under way, the jobs that wait for its vector beside the first."""
    _in_hand: int = 0
    _characters: int = 0
    _at_once: int = TEXTS_A_REQUEST
    """Jobs to claim at once; fewer where their texts are long."""
    _target_models: dict[int, Model] = field(default_factory=dict)
    _told_of: set[int] = field(default_factory=set)
    _stopped_at: float | None = None
    _verdict: Verdict = FULL
    _batch_began: float = 0.0

    def __post_init__(self, queue: Queue, open_embedder: OpenEmbedder) -> None:
        self._queue = PatientQueue(queue, self.progress, self.stop, patience=self.patience)
        self._leases = Leases(self._queue, self.scope)
        self._writer = Writer(self._queue, self._leases, self.tally, self.stop)
        self._models = Models(open_embedder, self.pace.limits)
        # what was claimed by a call whose answer was lost is found out by the next heartbeat
        self._queue.on_outage = self._leases.beat_soon

    @property
    def troubles(self) -> list[WorkerError]:
        """Why targets were left alone."""
        return list(self._writer.troubles.values())

    def drain(self) -> Tally:
        """Work until nothing is due, the limit is reached, or `stop` is set.

        Waits for a database that is out of reach. Raises Unreachable if it stays so; what was
        claimed is then due again when its lease runs out.
        """
        with self.attended():
            self.work()
        return self.tally

    @contextmanager
    def attended(self) -> Iterator[None]:
        """The worker is on the list of those at work, and in the end lets go of everything."""
        try:
            self.beat()
            yield
            self.enter("stopping", "asked to stop")
            self._queue.gone(self.scope)
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
        self._models = Models(self._models.open_embedder, self.pace.limits)
        self._target_models.clear()
        self._at_once = TEXTS_A_REQUEST

    def forgive(self) -> None:
        """Try again the targets that were left alone."""
        self._writer.troubles.clear()
        self._told_of.clear()

    @property
    def patient_queue(self) -> PatientQueue:
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
        """Extend the leases and say that the worker is there, if it is time for that."""
        self.progress.pulse()
        self._leases.beat_if_due(self._report_of_itself())

    @property
    def verdict(self) -> Verdict:
        """The gear it is in."""
        return self._verdict

    # -- claiming

    def _claim_ahead(self) -> bool:
        """Fill the room for requests. False if there is nothing to claim, or none may be."""
        self._shift()
        while self._wanted() > 0 and self._has_room():
            claim = self._claim()
            if not claim:
                return False
            self._leases.hold(claim.jobs)
            self.tally.add_settled(claim.settled)
            if claim.jobs:
                self._take_up(claim.jobs)
            else:
                self.progress.update(self.tally)
            self._shift()
        return self._wanted() > 0

    def _wanted(self) -> int:
        """How many jobs may be claimed next."""
        if self.stop.is_set() or self._verdict.gear in ("hold", "end"):
            return 0
        wanted = self.pace.batch_size or (TEXTS_A_REQUEST if self._is_slow else self._at_once)
        if self._verdict.at_most is not None:
            wanted = min(wanted, self._verdict.at_most - self._in_hand)
        if self.pace.limit is not None:
            wanted = min(wanted, self.pace.limit - self.tally.taken - self._in_hand)
        return wanted

    @property
    def _is_slow(self) -> bool:
        """Whether batches go one at a time."""
        return self.pace.delay > 0 or self._verdict.gear == "thin"

    def _shift(self) -> None:
        """Take the gear that is asked for, and say so if it is another."""
        verdict = self._queue.until_answered(self.govern)
        if verdict.gear != self._verdict.gear:
            self.progress.event(
                "gear_changed", gear=verdict.gear, cause=verdict.cause or "nothing is in the way"
            )
        self._verdict = verdict

    def _has_room(self) -> bool:
        if not self._under_way:
            return True
        most = max(MOST_JOBS, 4 * (self.pace.batch_size or 0))
        if self._is_slow or self._in_hand >= most or self._characters > MOST_CHARACTERS:
            return False
        return any(provider.has_room for provider in self._models.providers.values())

    def _claim(self) -> Claim | None:
        patience = time.monotonic() + LOCKED_PATIENCE
        while not self.stop.is_set():
            self.beat()
            try:
                claim = self._queue.claim(self.scope, self._wanted(), self._left_alone())
                if claim or not self._leases.beat_is_due:
                    return claim
            except Busy:
                if self._under_way:
                    return None
                if time.monotonic() > patience:
                    raise
                self.stop.wait(LOCKED_PAUSE)
        return None

    def _left_alone(self) -> Collection[int]:
        """The targets of which nothing is claimed now: their model cannot be used, or is busy."""
        busy = (t for t, model in self._target_models.items() if not model.provider.has_room)
        return {*self._writer.troubles, *busy}

    # -- embedding

    def _take_up(self, jobs: list[Job]) -> None:
        if self.state != "working":
            self.enter("working", "there is something to do")
        alone = jobs[0].alone  # or what is under way beside it would go down with it once more
        while alone and self._under_way:
            self._write_behind()
        self._submit(jobs)
        while alone and self._under_way:
            self._write_behind()

    def _submit(self, jobs: list[Job]) -> None:
        try:
            model = self._models.of(jobs[0])
        except WorkerError as trouble:
            self._writer.give_back(jobs, trouble)
            self._tell_of_trouble(jobs[0])
            return
        self._target_models[jobs[0].target_id] = model
        if not self._under_way:
            self._batch_began = time.monotonic()
        characters = sum(len(job.content) for job in jobs)
        self._in_hand += len(jobs)
        self._characters += characters
        self._at_once = max(min(2 * self._at_once, CLAIMED_AT_ONCE, _fit(jobs, characters)), 1)
        unknown = self._without_cached(model, self._first_of_their_text(jobs))
        for request in model.requests(unknown, self.pace.batch_size or TEXTS_A_REQUEST):
            future = model.provider.pool.submit(embed, model, request, self.stop)
            self._under_way[future] = Request(model, request)
            model.provider.under_way += 1

    def _first_of_their_text(self, jobs: Iterable[Job]) -> list[Job]:
        """Jobs whose text is not under way; the others wait for the vector of the first."""
        first = []
        for job in jobs:
            text = _text_of(job)
            if text in self._twins:
                self._twins[text].append(job)
            else:
                self._twins[text] = []
                first.append(job)
        return first

    def _without_cached(self, model: Model, jobs: list[Job]) -> list[Job]:
        """Jobs whose vector is not in the cache; the others are completed."""
        width = model.embedder.dimensions or (jobs[0].dimensions if jobs else None)
        if not (self.pace.cache_mb and jobs and width):
            return jobs
        found = self._queue.cached(jobs[0].model, width, [job.content_hash for job in jobs])
        known = [job for job in jobs if job.content_hash in found]
        if known:
            self.tally.cached += len(known)
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
        pause = self.pace.delay
        if self._verdict.gear == "thin":
            took = time.monotonic() - self._batch_began
            pause = max(pause, min(took, LONGEST_PAUSE))
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0 and not self.stop.is_set():
            self.stop.wait(min(left, SIGN_OF_LIFE))
            self.beat()

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
        spent = self.tally.models[jobs[0].model]
        spent.add(outcome.requests, outcome.tokens, model.embedder.price)
        spent.request_times.add(outcome.request_times)
        if self.pace.cache_mb and outcome.completions:  # paid for, whatever becomes of the row
            self._queue.cache(jobs[0].model, outcome.completions, self.pace.cache_mb)
        self._hand_in(jobs, outcome)
        self._report(model.provider)
        self._tell_of_trouble(jobs[0])

    def _tell_of_trouble(self, job: Job) -> None:
        """Once for each column that is left alone, and again if that goes on after it was tried."""
        trouble = self._writer.troubles.get(job.target_id)
        if trouble and job.target_id not in self._told_of:
            self._told_of.add(job.target_id)
            where = {"table": job.table_name, "column": job.embedding_column}
            self.progress.event("model_unusable", **where, cause=trouble.cause, hint=trouble.hint)

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
        twins = {job.id: self._twins.pop(_text_of(job)) for job in first}
        jobs = first + [twin for same in twins.values() for twin in same]
        self._in_hand -= len(jobs)
        self._characters -= sum(len(job.content) for job in jobs)
        self._writer.write(jobs, outcome.shared(twins))
        self.progress.update(self.tally)

    def _report(self, provider: Provider) -> None:
        """Tell the queue, once, whether the provider can be used, and again when that changes."""
        trouble = provider.limiter.trouble
        cause, hint = (trouble.cause, trouble.hint) if trouble else (None, None)
        if cause == provider.told:
            return
        self._queue.provider_seen(provider.name, cause, hint)
        if cause:
            fields = {"provider": provider.name, "cause": cause, "hint": hint}
            self.progress.event("provider_stopped", **fields)
        elif provider.told:
            self.progress.event("provider_back", provider=provider.name)
        provider.told = cause

    def _out_of_grace(self) -> bool:
        if not self.stop.is_set():
            return False
        self._stopped_at = self._stopped_at or time.monotonic()
        return time.monotonic() > self._stopped_at + self.pace.grace

    def _report_of_itself(self) -> Report:
        return Report(
            state="stopping" if self.stop.is_set() else self.state,
            completed=self.tally.completed,
            failed=self.tally.failed,
            usage=self.tally.usage,
            gear=self._verdict.gear,
            cause=self._verdict.cause or self.cause,
            # nobody needs to wake who may not work
            listens=self.listens and self._verdict.gear != "hold",
        )


def _fit(jobs: Sized, characters: int) -> int:
    """How many jobs like these may be in hand."""
    return MOST_CHARACTERS * len(jobs) // max(characters, 1)


def _text_of(job: Job) -> Text:
    return job.target_id, job.model, job.content_hash
