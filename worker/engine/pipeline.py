"""The loop: claim ahead while requests are in flight, write behind, and stop when asked.

One thread talks to the database. Requests to the models run in pools beside it, so no transaction
is ever open while a model works. What is in flight is bounded, whatever the length of the queue.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from threading import Event

from worker.engine.availability import Availability
from worker.engine.breaker import waiting_for
from worker.engine.cache import VectorCache
from worker.engine.claiming import ClaimBudget, Claimer
from worker.engine.collecting import Collector, column_of
from worker.engine.dispatching import Dispatcher
from worker.engine.documents import Documents
from worker.engine.enhancing import Enhancer
from worker.engine.heartbeat import Activity, Heartbeat, Leases
from worker.engine.in_flight import ATTENTION, InFlight
from worker.engine.models import Models, OpenChatModel, OpenEmbedder
from worker.engine.options import RunOptions
from worker.engine.progress import Progress, RunStats
from worker.engine.providers import Limiters
from worker.engine.retrying import RECONNECT_TIMEOUT, RetryingQueue, pause
from worker.engine.splitting import Split, Splitter
from worker.engine.throttling import FULL, RunThrottle, Throttle, ThrottleDecision
from worker.engine.writing import STOPPED, Release, Writer
from worker.errors import WorkerError
from worker.queue import Claim, Command, Queue, Scope, WorkerState

__all__ = ["Pipeline", "RunOptions"]

SHORT_WORK = 1.0  # seconds; an edit that is embedded within this time does not wait for a heartbeat


@dataclass(slots=True)
class Pipeline:
    """One run over the jobs in `scope`. Set `stop` to end it early and cleanly.

    Jobs of a target whose model cannot be used are released, and `errors` says why. The other
    targets go on. `reconnect_timeout`: seconds to wait for a database that is out of reach.
    `open_chat_model` is needed if a target has an enhancement. `limiters` are given if others share
    them.
    """

    queue: InitVar[Queue]
    open_embedder: InitVar[OpenEmbedder]
    split: InitVar[Split]
    scope: Scope
    options: RunOptions
    progress: Progress
    stop: Event
    stats: RunStats = field(default_factory=RunStats)
    throttle: InitVar[Throttle] = lambda: FULL
    reconnect_timeout: InitVar[float] = RECONNECT_TIMEOUT
    open_chat_model: InitVar[OpenChatModel | None] = None
    limiters: InitVar[Limiters | None] = None
    activity: Activity = field(init=False)
    retrying_queue: RetryingQueue = field(init=False)
    _throttle: RunThrottle = field(init=False)
    _heartbeat: Heartbeat = field(init=False)
    _models: Models = field(init=False)
    _availability: Availability = field(init=False)
    _in_flight: InFlight = field(default_factory=InFlight)
    _budget: ClaimBudget = field(init=False)
    _claimer: Claimer = field(init=False)
    _writer: Writer = field(init=False)
    _documents: Documents = field(init=False)
    _splitter: Splitter = field(init=False)
    _collector: Collector = field(init=False)
    _enhancer: Enhancer = field(init=False)
    _dispatcher: Dispatcher = field(init=False)
    _is_turn_of_claims: bool = False
    _stopped_at: float | None = None

    def __post_init__(
        self,
        queue: Queue,
        open_embedder: OpenEmbedder,
        split: Split,
        throttle: Throttle,
        reconnect_timeout: float,
        open_chat_model: OpenChatModel | None,
        limiters: Limiters | None,
    ) -> None:
        self._throttle = RunThrottle(throttle, self.progress, self.options.delay)
        self.activity = Activity(self.stats, self._throttle, self.progress, self.stop)
        self._heartbeat = Heartbeat(queue, self.scope, Leases(), self.activity.report)
        self.retrying_queue = RetryingQueue(
            queue,
            self.progress,
            self.stop,
            # the next heartbeat finds jobs that were claimed by a call whose answer was lost
            on_outage=self._heartbeat.beat_soon,
            reconnect_timeout=reconnect_timeout,
            attend=self._attend,
        )
        limiters = limiters or Limiters(self.options.limits)
        self._models = Models(open_embedder, limiters, open_chat_model)
        self._availability = Availability(self._models, self.retrying_queue, self.progress)
        self._connect_steps(split)

    def _connect_steps(self, split: Split) -> None:
        """Create the steps of a job: claim, split, enhance, dispatch, collect, write."""
        queue, heartbeat, stats, stop = self.retrying_queue, self._heartbeat, self.stats, self.stop
        models, availability, in_flight = self._models, self._availability, self._in_flight
        cache = VectorCache(queue, self.options.cache_mb)
        writer = self._writer = Writer(queue, heartbeat.leases, stats, stop)
        documents = self._documents = Documents(writer, availability)
        collector = self._collector = Collector(
            in_flight, availability, cache, writer, documents, stats, self.progress
        )
        cap_mb = self.options.enhancement_cache_mb
        enhancer = self._enhancer = Enhancer(models, queue, collector, cap_mb, stop, self.beat)
        dispatcher = self._dispatcher = Dispatcher(
            models,
            availability,
            in_flight,
            cache,
            collector,
            enhancer,
            writer,
            self.options,
            stop,
            self.beat,
        )
        self._splitter = Splitter(split, dispatcher, documents, writer, self._collect)
        budget = self._budget = ClaimBudget(
            self.options, self._throttle, models, in_flight, documents, stats, stop
        )
        self._claimer = Claimer(
            queue, self.scope, budget, availability, heartbeat, stats, stop, self.beat
        )

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
        """Keep the worker in the list of workers, and close its models at the end.

        If it `retries`, a model that cannot be used is tried again after a pause.
        """
        if retries:
            self._availability.enable_retries()
        try:
            self.beat()
            yield
            self.enter("stopping", "asked to stop")
            self.retrying_queue.deregister(self.scope)
        finally:
            if self._in_flight.has_requests:  # the database is lost: do not wait for the model too
                self.stop.set()
            self._models.close()

    def work(self) -> None:
        """Work as `drain` does, within `attended`. May be called again when more is due."""
        while self._send_ahead() or self._in_flight.has_requests:
            self._write_behind()

    def _send_ahead(self) -> bool:
        """Claim, and send chunks of documents that are in hand, in turns until requests are full.
        False if nothing is due, or nothing may be claimed."""
        self._update_throttle()
        is_due = has_chunks = True
        while self._budget.has_room and (is_due or has_chunks):
            self._is_turn_of_claims = not self._is_turn_of_claims
            if self._is_turn_of_claims:
                is_due = self._claim()
            else:
                has_chunks = self._send_chunks()
        return is_due and self._budget.jobs > 0

    def _claim(self) -> bool:
        """Claim once. Returns whether anything was due, and might be claimed."""
        began = time.monotonic()
        claim = self._claimer.claim() if self._budget.jobs > 0 else None
        if claim:
            self._report_claim(claim, time.monotonic() - began)
            self._take_up(claim)
            self._update_throttle()
        return bool(claim)

    def _send_chunks(self) -> bool:
        """Send chunks of documents in hand, if any wait, or release these documents if nothing may
        be sent. Returns whether any were sent."""
        if not self._budget.is_allowed:
            paused = Release(self._throttle.decision.cause or "its worker was paused")
            self._documents.release_waiting(STOPPED if self.stop.is_set() else paused)
            return False
        return self._documents.feed(self._dispatcher.send, self._budget.chunks)

    def _take_up(self, claim: Claim) -> None:
        if not claim.jobs:
            self.progress.update(self.stats)
            return
        if self.activity.state != "working":
            self.activity.enter("working", "there is something to do")
            self._heartbeat.beat_soon(within=SHORT_WORK)
        is_isolated = claim.jobs[0].isolated
        if is_isolated:  # jobs in flight beside it would be lost with it if it kills the process
            self._write_all()
        if claim.jobs[0].chunking:
            self._splitter.take_up(claim.jobs)
        else:
            self._dispatcher.dispatch(claim.jobs)
        if is_isolated:
            self._write_all()

    def _report_claim(self, claim: Claim, seconds: float) -> None:
        self.progress.event(
            "jobs_claimed",
            **column_of(claim.jobs[0] if claim.jobs else None),
            jobs=len(claim.jobs),
            settled=claim.settled.total(),
            seconds=seconds,
        )

    def _write_all(self) -> None:
        while (self._budget.has_room and self._send_chunks()) or self._in_flight.has_requests:
            self._write_behind()

    def _write_behind(self) -> None:
        """Wait a moment for a request to end, and write its results."""
        has_ended = self._collect(ATTENTION) and not self._in_flight.has_requests
        has_more = self._documents.have_chunks or self._budget.jobs > 0
        if has_ended and self._throttle.is_slow and has_more:
            seconds = self._throttle.pause_after(time.monotonic() - self._in_flight.began)
            pause(seconds, self.stop, self.beat)
        if self._is_out_of_grace():
            self._writer.release_all()
            self._in_flight.abandon()
            self._documents.abandon()

    def _collect(self, seconds: float = 0.0) -> bool:
        """Write the results of requests that end within some seconds. Returns whether any did."""
        ended = self._in_flight.wait(seconds)
        self.beat()
        self._collector.collect(ended.answers)
        for ready in self._enhancer.collect(ended.replies):
            self._dispatcher.embed(ready)
        return bool(ended.answers or ended.replies)

    def _update_throttle(self) -> None:
        self.retrying_queue.until_answered(self._throttle.update)

    def _is_out_of_grace(self) -> bool:
        if not self.stop.is_set():
            return False
        self._stopped_at = self._stopped_at or time.monotonic()
        return time.monotonic() > self._stopped_at + self.options.grace

    def listen(self) -> bool:
        """Let notifications reach the worker. Returns whether they do."""
        self.activity.set_listening(self.retrying_queue.listen())
        return self.activity.listens

    def poll(self) -> tuple[Command, bool]:
        """Return the command for the worker, and whether a claim would find a job."""
        return self.retrying_queue.poll(self.scope, self._availability.skipped_targets)

    def enter(self, state: WorkerState, cause: str) -> None:
        """Enter a state, and report it to the queue."""
        self.activity.enter(state, cause)
        self._heartbeat.beat_soon()
        self.beat()

    def beat(self) -> None:
        """Send a heartbeat if it is due. Waits for a database that is out of reach."""
        self.retrying_queue.until_answered(lambda: None)  # which begins with a heartbeat

    def _attend(self) -> None:
        self.progress.pulse()
        self._heartbeat.beat_if_due()

    @property
    def decision(self) -> ThrottleDecision:
        """The latest decision of the throttle."""
        return self._throttle.decision

    @property
    def errors(self) -> list[WorkerError]:
        """Why targets are skipped: one error for each."""
        return [error for _, error in self._availability.errors]

    @property
    def waits_for(self) -> str | None:
        """Why jobs that are due are not claimed; None: no such jobs are known."""
        return waiting_for(self._availability.errors) or self._claimer.locked

    def unload(self) -> None:
        """Close the models to free memory. They are opened again when they are needed."""
        self._models.close()
        self._budget.reset()

    def retry_now(self) -> None:
        """Try all models and providers again at once."""
        self._models.retry_now()
