"""Chat models: `openai:…` on OpenAI and the servers that speak its dialect, and `ollama:…` by
Ollama's own API. Its OpenAI-compatible API silently truncates what does not fit its context.

A model that reasons before it answers is not known by its name: it is noticed by its first answer,
or by what it refuses, and then gets room for its reasoning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from worker.embedders.answers import (
    END_OF_REASONING,
    counted,
    extract_message,
    read_json,
    written_text,
)
from worker.embedders.base import ChatAnswer, ChatPrice, Concurrency, well_formed
from worker.embedders.connection import Connection, Hints, Reply
from worker.embedders.dialects import DIALECTS
from worker.embedders.limits import allowances
from worker.embedders.models import chat_price
from worker.embedders.ollama import OllamaConnection
from worker.embedders.packing import size_of, tokens_at_most
from worker.embedders.vendor import MOST_AT_ONCE, vendor_connection
from worker.errors import ProviderRefused, Rejected
from worker.settings import Settings

# Tokens that a model may write. OpenAI counts them against its rate limit before they are written.
ROOM = 1000
ROOM_TO_REASON = 8000
# The tokens for which Ollama loads a model: it loads it again for each other number.
LEAST_CONTEXT = 4096
MOST_CONTEXT = 32_768

Ending = Literal["complete", "cut", "filtered"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is asked. It changes with what the model refuses, and with how it answers."""

    limit: str = "max_tokens"
    room: int = ROOM
    has_temperature: bool = True
    may_think: bool = True

    def with_room(self) -> Manner | None:
        """The manner in which a model may reason before it answers; None if it is this one."""
        return replace(self, room=ROOM_TO_REASON) if self.room < ROOM_TO_REASON else None

    def without(self, field: str | None) -> Manner | None:
        """The manner for a model that does not support a field; None if the field is needed."""
        if field == "temperature" and self.has_temperature:  # only models that reason refuse it
            return replace(self, has_temperature=False, room=ROOM_TO_REASON)
        if field == self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        return None


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, and how it ended: `cut` by the limit of tokens, or `filtered` for its content."""

    answer: ChatAnswer
    ending: Ending


class ServedChatModel(ABC):
    """What the dialects share: the model `name`, behind a connection."""

    provider: str
    price: ChatPrice | None
    concurrency: Concurrency

    def __init__(self, provider: str, name: str, connection: Connection) -> None:
        self.model = f"{provider}:{name}"
        self._name = name
        self._connection = connection
        self._manner = Manner()

    def answer(self, prompt: str, data: str) -> ChatAnswer:
        prompt, data = well_formed(prompt), well_formed(data)
        known = manner = self._manner
        while True:
            try:
                reading = self._ask(prompt, data, manner)
            except Rejected as refusal:
                better = manner.without(refusal.unsupported)
                if better is None:
                    raise
            else:
                is_lost = reading.ending == "cut" and not reading.answer.text
                better = self._with_room(manner) if is_lost else None
                if better is None:
                    answer = _checked(reading, self._connection.host)
                    if manner is not known:  # it is for every text, now that it helped one
                        self._manner = manner
                    return answer
            manner = better

    @abstractmethod
    def _ask(self, prompt: str, data: str, manner: Manner) -> Reading:
        """Send a request, and read its answer."""

    def _body(self, prompt: str, data: str) -> dict[str, object]:
        messages = [{"role": "system", "content": prompt}, {"role": "user", "content": data}]
        return {"model": self._name, "messages": messages}

    def _with_room(self, manner: Manner) -> Manner | None:
        """The manner for a model whose reasoning left no room for a text; None if there is none."""
        return manner.with_room()

    def close(self) -> None:
        self._connection.close()


class OpenAIChat(ServedChatModel):
    """The model `name` of OpenAI, or of the server at OPENAI_BASE_URL.

    Raises SettingsError if there is no usable key, and no server that might need none.
    """

    provider = "openai chat"
    concurrency = Concurrency(first=8, most=MOST_AT_ONCE)

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__("openai", name, vendor_connection("openai", DIALECTS["openai"], settings))
        self.price = chat_price(name)
        if not settings.openai_base_url:  # other servers know only the older name
            self._manner = Manner(limit="max_completion_tokens")

    def _ask(self, prompt: str, data: str, manner: Manner) -> Reading:
        body = self._body(prompt, data) | {manner.limit: manner.room}
        if manner.has_temperature:
            body["temperature"] = 0
        try:
            reply = self._connection.post("/chat/completions", body)
        except Rejected as refusal:
            if refusal.error_class == "too_large":
                raise Rejected(refusal.cause, error_class="too_long") from None
            raise
        return self._connection.decode(lambda: _read_completion(reply))


class OllamaChat(ServedChatModel):
    """The model `name` of the Ollama at OLLAMA_LLM_BASE_URL, or else at OLLAMA_HOST."""

    provider = "ollama chat"
    price: ChatPrice | None = ChatPrice(0.0, 0.0)
    concurrency = Concurrency(first=2, most=8)
    _connection: OllamaConnection

    def __init__(self, name: str, settings: Settings) -> None:
        address = settings.ollama_llm_base_url
        connection = OllamaConnection(
            address or settings.ollama_host,
            None,
            settings.embedding_timeout_seconds,
            Hints(address="OLLAMA_LLM_BASE_URL" if address else "OLLAMA_HOST", key=None),
        )
        super().__init__("ollama", name, connection)
        self._context = LEAST_CONTEXT

    def _ask(self, prompt: str, data: str, manner: Manner) -> Reading:
        context = self._fit(tokens_at_most(size_of(prompt) + size_of(data)) + manner.room)
        options = {"temperature": 0, "num_predict": manner.room, "num_ctx": context}
        more = {"stream": False, "truncate": False, "options": options}
        thinking = {} if manner.may_think else {"think": False}
        try:
            reply = self._connection.ask("/api/chat", self._body(prompt, data) | more | thinking)
        except Rejected as refusal:
            if refusal.cause.endswith("does not support chat"):
                hint = self._connection.hints.for_the_model()
                raise ProviderRefused(refusal.cause, hint, of_the_model=True) from None
            raise
        return self._connection.decode(lambda: self._read(reply))

    def _fit(self, tokens: int) -> int:
        """Return a context for this many tokens, never a smaller one than before.

        Raises Rejected if there is none.
        """
        if tokens > MOST_CONTEXT:
            cause = f"the text may have more tokens than a context of {MOST_CONTEXT} holds"
            raise Rejected(cause, error_class="too_long")
        context = LEAST_CONTEXT
        while context < tokens:
            context *= 2
        if context > self._context:
            self._context = context
            self._connection.loaded_until = 0.0
        return self._context

    def _read(self, reply: Reply) -> Reading:
        answer = _object_in(reply)
        match answer.get("message"):
            case {"content": str(content), **more}:
                is_cut = answer.get("done_reason") == "length"
                text = written_text(content, is_cut)
            case _:
                raise ValueError("no `message` with `content`")
        if text and (more.get("thinking") or END_OF_REASONING in content):
            self._manner = replace(self._manner, may_think=False)
        read, written = counted(answer.get("prompt_eval_count")), counted(answer.get("eval_count"))
        return Reading(ChatAnswer(text, read, written), "cut" if is_cut else "complete")

    def _with_room(self, manner: Manner) -> Manner | None:
        return replace(manner, may_think=False) if manner.may_think else manner.with_room()


def _checked(reading: Reading, host: str) -> ChatAnswer:
    """Return the answer. Raises Rejected if there is no text in it to use."""
    tokens = reading.answer.read, reading.answer.written
    if reading.ending == "filtered":
        raise Rejected(f"{host} refused to write about this text", tokens=tokens)
    if not reading.answer.text:
        cause = f"{host} sent an answer without visible text"
        raise Rejected(cause, error_class="empty_answer", tokens=tokens)
    return reading.answer


def _object_in(reply: Reply) -> Mapping[str, object]:
    """Return the JSON object of an answer. Raises ValueError, which does not repeat its texts."""
    try:
        answer = read_json(reply.content)
    except ValueError:
        if reply.content.lstrip()[:1] in (b"{", b"["):
            raise ValueError("not JSON, though it begins like it") from None
        raise
    match answer:
        case {"error": error} if error:
            raise ValueError(f"an error with status 200: {extract_message(error)}")
        case dict():
            return answer
    raise ValueError("JSON that is no object")


def _read_completion(reply: Reply) -> Reading:
    """Read an answer of OpenAI's dialect. Raises ValueError if it has another form."""
    answer = _object_in(reply)
    match answer.get("choices"):
        case [{"message": {**message}, **about}, *_]:
            finished = about.get("finish_reason")
        case _:
            raise ValueError("no `choices` with a `message`")
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise ValueError("`content` that is no text")
    is_cut = finished == "length"
    is_filtered = finished == "content_filter" or bool(message.get("refusal"))
    ending: Ending = "filtered" if is_filtered else "cut" if is_cut else "complete"
    read, written = _usage(answer.get("usage"))
    known = allowances(reply.headers)
    return Reading(ChatAnswer(written_text(content, is_cut), read, written, known), ending)


def _usage(usage: object) -> tuple[int | None, int | None]:
    """Return the tokens that were read and written, as far as they are stated."""
    given = usage if isinstance(usage, dict) else {}
    return counted(given.get("prompt_tokens")), counted(given.get("completion_tokens"))
