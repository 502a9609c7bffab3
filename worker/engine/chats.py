"""Chat models, which write what is embedded with a text, or instead of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Event

from worker.embedders.base import ChatAnswer, ChatModel
from worker.embedders.packing import size_of, tokens_at_most
from worker.engine.calls import Calls
from worker.engine.providers import Opened, guarded
from worker.engine.retry import is_rate_limit, with_retries
from worker.errors import Rejected, Transient

TOKENS_WRITTEN = 200  # about, in an answer
PROBE = "Answer with one word."  # a prompt that makes no provider fail


@dataclass(slots=True, kw_only=True)
class Chat(Opened):
    """A chat model that is open."""

    chat_model: ChatModel

    def ask(
        self,
        prompt: str,
        data: str,
        stop: Event,
        calls: Calls,
        retry: Callable[[Transient], bool],
    ) -> ChatAnswer:
        """Return the answer to `data`, and retry if `retry` says so. `calls` records it.

        Raises ProviderRefused, Transient, Rejected or Stopped.
        """
        size = size_of(prompt) + size_of(data)
        estimated = tokens_at_most(size) + TOKENS_WRITTEN
        limiter = self.provider.limiter

        answer = guarded(self.chat_model.model, partial(self.chat_model.answer, prompt, data))
        with calls.call(1) as call:
            given = with_retries(
                call.observed(answer, calls.times),
                limiter,
                stop,
                size=size,
                tokens=estimated,
                retry=retry,
            )
            call.tokens, call.written = given.read, given.written
        taken = tokens_of(given)
        limiter.apply(given.allowances, estimated, estimated if taken is None else taken)
        self.answered()
        return given

    def probe(self, stop: Event, calls: Calls) -> None:
        """Ask a question that makes no provider fail. A rejection is an answer.

        Raises ProviderRefused, Transient or Stopped.
        """
        try:
            self.ask(PROBE, "a", stop, calls, is_rate_limit)
        except Rejected:
            self.answered()


def tokens_of(answer: ChatAnswer) -> int | None:
    """Return the tokens that were read and written; None: not reported."""
    if answer.read is None or answer.written is None:
        return None
    return answer.read + answer.written
