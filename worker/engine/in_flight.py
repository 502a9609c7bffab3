"""The jobs that are being embedded, and the requests in other threads that embed them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Any, TypeVar

from worker.engine.asking import Question, Reply, ask
from worker.engine.embedding import Outcome, embed
from worker.engine.models import Key, Model, key_of
from worker.queue import Chunk, Enhancement, Job, TextKey

ATTENTION = 0.25  # seconds between two checks of heartbeat and `stop` while a model works

Result = TypeVar("Result")
Text = tuple[int, Key, Enhancement | None, bool, bytes]
"""Target, model, enhancement and hash: jobs of the same text are embedded once. Those that are
`unenhanced` go by themselves, since they are not embedded as they are again."""


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


@dataclass(frozen=True, slots=True)
class Ended:
    """What has ended: requests to models, and to chat models."""

    answers: list[Answer]
    replies: list[Reply]


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
    _questions: dict[Future[Reply], Question] = field(default_factory=dict)
    _jobs: dict[Text, list[Job]] = field(default_factory=dict)
    """For each text, the job that is sent, and those that wait for its vector."""

    @property
    def has_requests(self) -> bool:
        return bool(self._requests or self._questions)

    def take_in(self, jobs: Sequence[Job]) -> list[Job]:
        """Add jobs. Return those whose text is not in flight yet; the others wait for theirs."""
        if not self.has_requests:
            self.began = time.monotonic()
        self._count(jobs, 1)
        first = []
        for job in jobs:
            text = _text_of(job)
            if text not in self._jobs:
                self._jobs[text] = []
                first.append(job)
            self._jobs[text].append(job)
        return first

    def take_out(self, first: Sequence[Job]) -> dict[TextKey, list[Job]]:
        """Remove jobs that `take_in` returned, and all jobs that wait for their texts.

        Return the jobs that waited, by the job whose text they waited for.
        """
        duplicates = {}
        for job in first:
            jobs = self._jobs.pop(_text_of(job))  # as they were taken in: `job` may be enhanced
            self._count(jobs, -1)
            if waiting := jobs[1:]:
                duplicates[job.text_key] = waiting
        return duplicates

    def send(self, request: Request, stop: Event) -> None:
        """Embed the jobs of a request in another thread, until `stop` is set."""
        embedding = partial(embed, request.model, request.jobs, stop, is_trial=request.is_trial)
        self._requests[request.model.provider.submit(embedding)] = request

    def ask(self, question: Question, stop: Event) -> None:
        """Ask a chat model in another thread, until `stop` is set."""
        self._questions[question.chat.provider.submit(partial(ask, question, stop))] = question

    def wait(self, seconds: float = ATTENTION) -> Ended:
        """Wait a moment for a request to end. Returns all that have ended."""
        under_way: list[Future[Any]] = [*self._requests, *self._questions]
        finished, _ = wait(under_way, seconds, FIRST_COMPLETED)
        answers = [self._answer(future) for future in self._requests.keys() & finished]
        replies = [self._reply(future) for future in self._questions.keys() & finished]
        return Ended(answers, replies)

    def abandon(self) -> None:
        """Abandon the requests that are in flight."""
        self._requests.clear()
        self._questions.clear()

    def _answer(self, future: Future[Outcome]) -> Answer:
        request = self._requests.pop(future)
        request.model.provider.returned()
        return Answer(request, future.result())

    def _reply(self, future: Future[Reply]) -> Reply:
        question = self._questions.pop(future)
        question.chat.provider.returned()
        return future.result()

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
    return job.target_id, key_of(job), job.enhancement, job.unenhanced, job.content_hash
