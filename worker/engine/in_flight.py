"""The jobs that are being embedded, and the requests in other threads that embed them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import TypeVar

from worker.engine.embedding import Outcome, embed
from worker.engine.models import Key, Model, key_of
from worker.queue import Chunk, Job, TextKey

ATTENTION = 0.25  # seconds between two checks of heartbeat and `stop` while a model works

Result = TypeVar("Result")
Text = tuple[int, Key, bytes]
"""Target, model and hash: jobs of the same text are embedded once."""


@dataclass(frozen=True, slots=True)
class Request:
    """Jobs of one column whose texts are embedded together."""

    model: Model
    jobs: list[Job]
    is_trial: bool
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that has ended, and the results of its jobs."""

    request: Request
    outcome: Outcome


@dataclass(slots=True)
class InFlight:
    """The jobs that are in flight, and their requests.

    If several jobs have the same text, the first is sent, and the others wait for its vector. A job
    that is claimed again while its old text is in flight is here twice, under two leases.
    """

    jobs: int = 0
    """Without documents, whose chunks are here instead."""
    characters: int = 0
    began: float = 0.0
    """When the oldest batch was sent that may still be in flight."""
    _requests: dict[Future[Outcome], Request] = field(default_factory=dict)
    _duplicates: dict[Text, list[Job]] = field(default_factory=dict)
    """For each text, the jobs that wait for its vector beside the first."""

    @property
    def has_requests(self) -> bool:
        return bool(self._requests)

    def take_in(self, jobs: Sequence[Job]) -> list[Job]:
        """Add jobs. Return those whose text is not in flight yet; the others wait for theirs."""
        if not self._requests:
            self.began = time.monotonic()
        self._count(jobs, 1)
        first = []
        for job in jobs:
            text = _text_of(job)
            if text in self._duplicates:
                self._duplicates[text].append(job)
            else:
                self._duplicates[text] = []
                first.append(job)
        return first

    def take_out(self, first: Sequence[Job]) -> dict[TextKey, list[Job]]:
        """Remove jobs that `take_in` returned, and all jobs that wait for their texts.

        Return the jobs that waited, by the job whose text they waited for.
        """
        self._count(first, -1)
        duplicates = {}
        for job in first:
            if waiting := self._duplicates.pop(_text_of(job)):
                duplicates[job.text_key] = waiting
                self._count(waiting, -1)
        return duplicates

    def send(self, request: Request, stop: Event) -> None:
        """Embed the jobs of a request in another thread, until `stop` is set."""
        embedding = partial(embed, request.model, request.jobs, stop, is_trial=request.is_trial)
        self._requests[request.model.provider.submit(embedding)] = request

    def wait(self, seconds: float = ATTENTION) -> list[Answer]:
        """Wait a moment for a request to end. Returns all that have ended."""
        finished, _ = wait(self._requests, seconds, FIRST_COMPLETED)
        return [self._answer(future) for future in finished]

    def abandon(self) -> None:
        """Abandon the requests that are in flight."""
        self._requests.clear()

    def _answer(self, future: Future[Outcome]) -> Answer:
        request = self._requests.pop(future)
        request.model.provider.returned()
        return Answer(request, future.result())

    def _count(self, jobs: Sequence[Job], sign: int) -> None:
        self.jobs += sign * sum(not isinstance(job, Chunk) for job in jobs)
        self.characters += sign * sum(len(job.content) for job in jobs)


def wait_for_result(future: Future[Result], attend: Callable[[], object]) -> Result:
    """Wait for the result of another thread, and call `attend` meanwhile."""
    while not future.done():
        wait([future], ATTENTION)
        attend()
    return future.result()


def _text_of(job: Job) -> Text:
    return job.target_id, key_of(job), job.content_hash
