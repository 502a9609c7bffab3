"""Asks a chat model to write for one text: the part that runs without the database."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from json import dumps
from threading import Event

from worker.embedders.base import ChatAnswer
from worker.engine.calls import Calls
from worker.engine.chats import Chat
from worker.engine.embedding import beginning_of
from worker.engine.limiter import Stopped
from worker.engine.models import Model
from worker.engine.retry import always, never
from worker.errors import ProviderError, ProviderRefused, Rejected, Transient
from worker.queue import Chunk, Job


@dataclass(frozen=True, slots=True)
class Question:
    """A job for whose text `chat` writes, before `model` embeds it."""

    chat: Chat
    model: Model
    job: Job
    is_trial: bool


@dataclass(slots=True)
class Reply:
    """The answer to a question, or the failure; neither: it was not asked, since the run stops.

    `truncated_to`: how many characters of the text the model got, if not all of them.
    `is_of_the_text`: others are answered. `calls` are those that were made for it.
    """

    question: Question
    answer: ChatAnswer | None = None
    truncated_to: int | None = None
    failure: ProviderError | None = None
    is_of_the_text: bool = False
    calls: Calls = field(default_factory=Calls)

    @property
    def paid(self) -> ChatAnswer | None:
        """The answer, also one that cannot be used."""
        if isinstance(self.failure, Rejected) and self.failure.tokens:
            return ChatAnswer("", *self.failure.tokens)
        return self.answer


def data_of(job: Job) -> str:
    """Return what a chat model gets for a job. It is JSON: a text cannot end it."""
    return (job.data or "") if isinstance(job, Chunk) else text_data(job.content)


def ask(question: Question, stop: Event) -> Reply:
    """Ask a chat model, until `stop` is set. Of a text that is too long for it, as much of the
    beginning as it takes, if the job says so."""
    reply, chat = Reply(question), question.chat
    began = time.monotonic()
    try:
        _ask(reply, stop)
    except Stopped:
        pass
    except Rejected as refusal:
        reply.failure, reply.is_of_the_text = refusal, True
    except (Transient, ProviderRefused) as failure:
        reply.failure = failure
        with suppress(Stopped):
            reply.is_of_the_text = chat.answers_others(
                failure, lambda: chat.probe(stop, reply.calls)
            )
        if not (reply.is_of_the_text or stop.is_set()):
            chat.fail(failure, began)
    return reply


def _ask(reply: Reply, stop: Event) -> None:
    """Ask with the whole text, then with its beginning. Raises what a chat model raises."""
    question = reply.question
    job, prompt = question.job, question.job.enhancement.prompt if question.job.enhancement else ""
    retry = never if question.is_trial else always
    text, data = job.content, data_of(job)
    while True:
        try:
            reply.answer = question.chat.ask(prompt, data, stop, reply.calls, retry)
            return
        except Rejected as refusal:
            shorter = None if isinstance(job, Chunk) else beginning_of(text, refusal)
            if not (job.truncate and shorter):
                raise
            text, data = shorter, text_data(shorter)
            reply.truncated_to = len(text)


def text_data(text: str) -> str:
    """Return what a chat model gets for a whole text."""
    return dumps({"text": text}, ensure_ascii=False)
