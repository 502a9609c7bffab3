"""Has chat models write what is embedded with texts, or instead of them.

A text that is written for is in flight like others. What a chat model wrote is kept in the database
as soon as it is there, since it is paid for. If the model fails, a text waits, or is embedded as it
is and asked for again later, as its target says.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import Event

from worker.embedders.base import chat_cost
from worker.engine.asking import Question, Reply, data_of
from worker.engine.chats import Chat, tokens_of
from worker.engine.collecting import Collector
from worker.engine.embedding import Outcome
from worker.engine.in_flight import wait_for_result
from worker.engine.models import Model, Models
from worker.engine.writing import NOT_OPENED
from worker.errors import ProviderError, ProviderRefused, Rejected, Transient, WorkerError
from worker.queue import Enhanced, Enhancement, Job, Queue, enhancement_key

# Seconds from a failure until a text is asked about again: at random, so that not all are at once.
ASKED_AGAIN_AFTER = (300.0, 600.0)


@dataclass(frozen=True, slots=True)
class Ready:
    """Jobs of one target that can be embedded now."""

    model: Model
    jobs: list[Job]
    is_trial: bool


@dataclass(frozen=True, slots=True)
class Enhancer:
    """Asks chat models, and decides what becomes of texts for which they fail."""

    models: Models
    queue: Queue
    collector: Collector
    cache_mb: int
    stop: Event
    attend: Callable[[], None]

    def ask(self, model: Model, jobs: Sequence[Job], *, is_trial: bool) -> Ready:
        """Ask the chat model of some jobs of one target to write for them. Return those that need
        not wait for it."""
        enhancement = jobs[0].enhancement if jobs else None
        if not enhancement:
            return Ready(model, list(jobs), is_trial)
        ready, unknown = self._known(enhancement, jobs)
        asked, failure = self._may_be_asked(enhancement, unknown)
        try:
            self._send(model, enhancement, asked, is_trial=is_trial or failure is not None)
        except WorkerError as error:  # the chat model cannot be opened
            asked, failure = [], error
            self.models.postpone(enhancement.model)
        if failure:
            ready += self._without(unknown[len(asked) :], failure)
        if is_trial and not (ready or asked):
            self.collector.availability.end_trial(jobs[0])
        return Ready(model, ready, is_trial)

    def _send(
        self, model: Model, enhancement: Enhancement, jobs: Sequence[Job], *, is_trial: bool
    ) -> None:
        """Ask a chat model for some jobs. Raises WorkerError if it cannot be opened."""
        if not jobs:
            return
        chat = self.models.chat(
            enhancement.model, lambda opening: wait_for_result(opening, self.attend)
        )
        for job in jobs:
            self.collector.in_flight.ask(Question(chat, model, job, is_trial), self.stop)

    def collect(self, replies: Iterable[Reply]) -> list[Ready]:
        """Count and keep what chat models wrote. Return the jobs that can be embedded now."""
        groups: dict[tuple[int, type[Job], int, int], list[Reply]] = defaultdict(list)
        for reply in replies:
            question = reply.question
            models = id(question.model), id(question.chat)
            groups[question.job.target_id, type(question.job), *models].append(reply)
        return [self._collect(group) for group in groups.values()]

    def _collect(self, replies: list[Reply]) -> Ready:
        question = replies[0].question
        ready = [_enhanced(reply) for reply in replies if reply.answer]
        self._keep([reply for reply in replies if reply.answer])
        for reply in replies:
            self._count(question.chat, reply)
            if reply.failure:
                ready += self._without(
                    [reply.question.job], reply.failure, of_the_text=reply.is_of_the_text
                )
            elif not reply.answer:
                job = reply.question.job
                self.collector.write_unembedded([job], Outcome(job.model, unfinished=[job]))
        is_trial = any(reply.question.is_trial for reply in replies)
        if is_trial:
            self.models.postpone(question.chat.chat_model.model)
        if is_trial and not ready:
            self.collector.availability.end_trial(question.job)
        self.collector.availability.report_provider(question.chat.provider)
        return Ready(question.model, ready, is_trial)

    def _known(self, enhancement: Enhancement, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Return the jobs that were written for before, with what was written, and the others."""
        if not self.cache_mb:
            return [], list(jobs)
        keys = [_key(enhancement, job) for job in jobs]
        found = self.queue.cached_enhancements(keys)
        known = [
            job.with_enhancement(Enhanced(found[key]))
            for key, job in zip(keys, jobs, strict=True)
            if key in found
        ]
        return known, [job for key, job in zip(keys, jobs, strict=True) if key not in found]

    def _keep(self, replies: Sequence[Reply]) -> None:
        """Keep what was written for whole texts."""
        contents = {
            _key(reply.question.job.enhancement, reply.question.job): reply.answer.text
            for reply in replies
            if reply.answer and reply.question.job.enhancement and not reply.truncated_to
        }
        if self.cache_mb and contents:
            self.queue.cache_enhancements(contents, self.cache_mb)

    def _may_be_asked(
        self, enhancement: Enhancement, jobs: Sequence[Job]
    ) -> tuple[Sequence[Job], WorkerError | None]:
        """Return the jobs for which a chat model is asked, and why it cannot be used for others.

        Jobs that need not wait for it try it now and then: whether it can be used again.
        """
        name = enhancement.model
        failure = self.models.error_of(name)
        if enhancement.on_failure == "wait" or not failure:
            return jobs, None
        if not (jobs and self.models.may_try(name)):
            return [], failure[1]
        self.models.try_again(name)
        return jobs[:1], failure[1]

    def _without(
        self, jobs: Sequence[Job], error: WorkerError, *, of_the_text: bool = False
    ) -> list[Job]:
        """Return the jobs that are embedded as they are after a failure; write why others are not.

        A text that was embedded as it is before is not embedded so again, but tried later: unless
        the model rejects it for good.
        """
        plain = [job for job in jobs if _is_embedded_without(job, error)]
        others = [job for job in jobs if not _is_embedded_without(job, error)]
        if others:
            self.collector.write_unembedded(
                others, _outcome(others, error, of_the_text=of_the_text)
            )
        if plain:
            self._report(plain, error)
        again_in = None if isinstance(error, Rejected) else _asked_again_in()
        failure = error.error_class if isinstance(error, ProviderError) else NOT_OPENED
        enhanced = Enhanced(None, failure=failure, again_in=again_in)
        return [job.with_enhancement(enhanced) for job in plain]

    def _report(self, jobs: Sequence[Job], error: WorkerError) -> None:
        job = jobs[0]
        self.collector.progress.event(
            "not_enhanced",
            table=job.table_name,
            column=job.embedding_column,
            model=job.enhancement.model if job.enhancement else None,
            texts=len(jobs),
            cause=error.cause,
            hint=error.hint,
        )

    def _count(self, chat: Chat, reply: Reply) -> None:
        """Report the calls for a reply, and count what its answer cost."""
        self.collector.report_calls("chat", chat.chat_model.model, reply.question.job, reply.calls)
        if answer := reply.paid:
            cost = chat_cost(answer, chat.chat_model.price)
            self.collector.stats.add_requests(
                chat.chat_model.model, 1, tokens_of(answer), cost, reply.calls.times
            )


def _key(enhancement: Enhancement, job: Job) -> bytes:
    return enhancement_key(enhancement.model, enhancement.prompt, data_of(job))


def _enhanced(reply: Reply) -> Job:
    assert reply.answer
    cost = chat_cost(reply.answer, reply.question.chat.chat_model.price)
    return reply.question.job.with_enhancement(
        Enhanced(reply.answer.text, cost, reply.truncated_to)
    )


def _is_embedded_without(job: Job, error: WorkerError) -> bool:
    is_wanted = job.enhancement is not None and job.enhancement.on_failure == "raw"
    return is_wanted and (isinstance(error, Rejected) or not job.unenhanced)


def _outcome(jobs: Sequence[Job], error: WorkerError, *, of_the_text: bool) -> Outcome:
    """Return the outcome of jobs for which nothing was written, and that are not embedded so."""
    enhancement = jobs[0].enhancement
    model = enhancement.model if enhancement else jobs[0].model
    if of_the_text and isinstance(error, Rejected):
        refusal = Rejected(f"{model}: {error.cause}", error_class=error.error_class)
        return Outcome(jobs[0].model, rejected=[(job, refusal) for job in jobs])
    if of_the_text and isinstance(error, Transient | ProviderRefused):
        return Outcome(jobs[0].model, failed=[(job, error) for job in jobs])
    is_raw = enhancement is not None and enhancement.on_failure == "raw"
    pause = _asked_again_in() if is_raw else timedelta(0)
    return Outcome(jobs[0].model, unfinished=list(jobs), error=error, retry_in=pause)


def _asked_again_in() -> timedelta:
    return timedelta(seconds=random.uniform(*ASKED_AGAIN_AFTER))
