"""Decides what is claimed next: how many jobs, and of which targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event

from worker.engine.availability import Availability
from worker.engine.documents import MOST_ENHANCED, Documents
from worker.engine.heartbeat import Heartbeat
from worker.engine.in_flight import InFlight
from worker.engine.models import Models
from worker.engine.options import RunOptions
from worker.engine.progress import RunStats
from worker.engine.retrying import pause
from worker.engine.throttling import RunThrottle
from worker.errors import Busy
from worker.queue import Claim, Job, Queue, Scope

LOCKED_TIMEOUT = 30.0  # seconds to wait for a table that is locked as a whole
LOCKED_PAUSE = 0.2  # seconds between two attempts
CLAIMED_AT_ONCE = 400  # jobs: a row costs half as much as with 100; a larger claim saves no more
SLOW_CLAIM = 5.0  # seconds; no heartbeat is sent meanwhile, so the next claim is half as large
# Limits of what is in flight. Jobs that wait for the text of another job take no request.
MOST_JOBS = 10_000  # or four batches
MOST_CHARACTERS = 64_000_000  # of text


@dataclass(slots=True)
class ClaimBudget:
    """How many jobs may be claimed, beside those that are in flight."""

    options: RunOptions
    throttle: RunThrottle
    models: Models
    in_flight: InFlight
    documents: Documents
    stats: RunStats
    stop: Event
    _at_once: int = field(init=False)
    """Jobs to claim at once; fewer where their texts are long, or claims take long."""

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin again with small claims."""
        self._at_once = self.options.texts_a_request

    def adapt(self, jobs: Sequence[Job], seconds: float) -> None:
        """Adapt the size of the next claim to a claim of these jobs, which took `seconds`."""
        if jobs:
            at_once = self._at_once // 2 if seconds > SLOW_CLAIM else 2 * self._at_once
            characters = sum(len(job.content) for job in jobs)
            fitting = MOST_CHARACTERS * len(jobs) // max(characters, 1)
            if jobs[0].enhancement:
                fitting = min(fitting, MOST_ENHANCED)
            self._at_once = max(min(at_once, CLAIMED_AT_ONCE, fitting), 1)

    @property
    def jobs(self) -> int:
        """How many jobs may be claimed next; not above zero: none."""
        if not self.is_allowed or self.documents.are_enough:
            return 0
        jobs = self.options.texts_a_request if self._is_fixed else self._at_once
        in_hand = self.in_flight.jobs + self.documents.count
        if self.throttle.decision.at_most is not None:
            jobs = min(jobs, self.throttle.decision.at_most - in_hand)
        if self.options.limit is not None:
            jobs = min(jobs, self.options.limit - self.stats.taken - in_hand)
        return jobs

    @property
    def chunks(self) -> int:
        """How many chunks of documents may be sent next."""
        return self.options.texts_a_request if self._is_fixed else CLAIMED_AT_ONCE

    @property
    def is_allowed(self) -> bool:
        """Whether anything may be claimed or sent at all."""
        return self.throttle.allows_claims and not self.stop.is_set()

    @property
    def _is_fixed(self) -> bool:
        return bool(self.options.batch_size) or self.throttle.is_slow

    @property
    def has_room(self) -> bool:
        """Whether more may be in flight, and some provider accepts more."""
        if not self.in_flight.has_requests:
            return True
        most = max(MOST_JOBS, 4 * (self.options.batch_size or 0))
        in_hand = self.in_flight.jobs + self.documents.count
        is_full = in_hand >= most or self.in_flight.characters > MOST_CHARACTERS
        return not (self.throttle.is_slow or is_full) and self.models.have_room


@dataclass(slots=True)
class Claimer:
    """Claims jobs of one target after another, and holds their leases."""

    queue: Queue
    scope: Scope
    budget: ClaimBudget
    availability: Availability
    heartbeat: Heartbeat
    stats: RunStats
    stop: Event
    attend: Callable[[], None]
    """Called while waiting; sends the heartbeat."""
    locked: str | None = None
    """The error about tables that are locked as a whole, if nothing else is due."""

    def claim(self) -> Claim | None:
        """Claim jobs, hold them, and count what the claim settled. None or empty: nothing is due.

        Raises Busy if tables are locked as a whole for LOCKED_TIMEOUT, and the run does not retry.
        """
        claim = self._until_claimed()
        if claim:
            self.heartbeat.leases.hold(claim.jobs)
            self.stats.add_settled(claim.settled)
        return claim

    def _until_claimed(self) -> Claim | None:
        give_up_at = time.monotonic() + LOCKED_TIMEOUT
        while not self.stop.is_set():
            self.attend()
            try:
                claim = self._claim_for_trial() or self._claim_due()
                # a heartbeat that is due may release jobs of a claim whose answer was lost
                if claim or not self.heartbeat.is_due:
                    return claim
            except Busy as locked:
                if self.budget.in_flight.has_requests:
                    return None
                if time.monotonic() > give_up_at:
                    if not self.availability.retries:
                        raise
                    self.locked = locked.cause
                    return None
                pause(LOCKED_PAUSE, self.stop, self.attend)
        return None

    def _claim_due(self) -> Claim:
        began = time.monotonic()
        claim = self.queue.claim(self.scope, self.budget.jobs, self.availability.skipped_targets)
        self.budget.adapt(claim.jobs, time.monotonic() - began)
        self.locked = None
        return claim

    def _claim_for_trial(self) -> Claim | None:
        """Claim one job of a target whose model may be tried again, if there is one."""
        targets = self.availability.due_for_trial
        if not targets:
            return None
        try:
            claim = self.queue.claim(self.scope, 1, self.availability.all_but(targets))
        except Busy:
            self.availability.postpone(targets)
            return None
        if not claim.jobs:
            self.availability.postpone(targets)
        if not claim:
            self.availability.forget(targets)
        return claim
