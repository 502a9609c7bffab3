"""Embeds what people search for, with the model of the column that they search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from threading import BoundedSemaphore, Event, Thread
from typing import TypeVar

import numpy as np

from worker.embedders.base import Embedder, Role, Vectors, cost_of, full_model
from worker.embedders.packing import pack
from worker.engine.breaker import Breaker
from worker.engine.calls import Calls
from worker.engine.embedding import are_usable
from worker.engine.models import Model
from worker.engine.providers import Limiters, bad_answer
from worker.engine.retry import always, never
from worker.errors import (
    DatabaseError,
    ProviderRefused,
    Rejected,
    SettingsError,
    Transient,
)
from worker.operations.opening import ModelKey, OpenModels, key_of
from worker.operations.processing import run_options
from worker.queue import AdminQueue, Cached, Target
from worker.settings import Settings

MOST_TEXTS = 2048
MOST_CHARACTERS = 1_000_000  # of all texts together
MOST_AT_ONCE = 64  # calls with a deadline

Lend = Callable[[], AbstractContextManager[AdminQueue]]
"""Lends a queue for a moment."""
Answer = tuple[Vectors, int | None]
"""The vector of a text, and its tokens (None: not known)."""
Found = dict[int, Answer]
"""By the place of a text."""
Retry = Callable[[Transient], bool]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Embedded:
    """Texts as vectors. Tokens and cost are None if they are not known."""

    model: str
    vectors: Vectors
    tokens: int | None
    cost: float | None


@dataclass(slots=True)
class QueryEmbedder:
    """Keeps models open, and embeds by them. It may be used by several threads at once.

    `limiters` are those of a run in the same process, if there is one: queries go ahead of its
    documents. With `lend` vectors are looked up in the cache of the database, if the settings have
    one. A call takes at most `deadline` seconds (None: as long as the provider lets it).
    """

    settings: Settings
    limiters: Limiters | None = None
    lend: Lend | None = None
    deadline: float | None = None
    _opened: OpenModels = field(init=False)
    _room: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(MOST_AT_ONCE))

    def __post_init__(self) -> None:
        limiters = self.limiters or Limiters(run_options(self.settings).limits)
        self._opened = OpenModels(self.settings, limiters)

    def embed(
        self,
        texts: Sequence[str],
        target: Target | str,
        role: Role = "query",
        *,
        width: int | None = None,
    ) -> Embedded:
        """Embed texts with the model, the width and the prompts of a column; or with the model of
        this name and its own prompts, in this `width` if it has several.

        Raises SettingsError if there are too many texts, a blank one, or no such model, Rejected if
        the model does not take a text, ProviderRefused, and Transient, also after the deadline.
        """
        check_texts(texts)
        if isinstance(target, str):
            key = ModelKey(target, width, None, None)
        else:
            key = key_of(target, self.settings)
        stop = Event()
        work = partial(self._embed, key, texts, role, stop)
        try:
            embedded = self._within_deadline(key.model, work, stop) if self.deadline else work()
        except Transient as error:
            raise _for_now(error) from None
        if isinstance(target, Target):
            check_width(target, key.model, embedded.vectors.shape[1])
        return embedded

    def close(self) -> None:
        """Close all models."""
        self._opened.close()

    def _within_deadline(self, model: str, work: Callable[[], Result], stop: Event) -> Result:
        """Do the work in a thread, which is abandoned after the deadline: a request that was sent
        cannot be taken back."""
        assert self.deadline
        cause = f"{model} did not answer within {self.deadline:g} s"
        late = Transient(cause, error_class="timed_out")
        until = time.monotonic() + self.deadline
        if not self._room.acquire(timeout=self.deadline):
            raise late
        future = Future[Result]()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            finally:
                self._room.release()

        Thread(target=run, name="query", daemon=True).start()
        try:
            return future.result(until - time.monotonic())
        except TimeoutError:
            stop.set()
            raise late from None

    def _embed(self, key: ModelKey, texts: Sequence[str], role: Role, stop: Event) -> Embedded:
        with (
            self._opened.lent(key) as model,
            _admitted(model.provider.breaker) as retry,
        ):
            model.probe(stop, retry, ahead=True)
            embedder = model.embedder
            hashes = [_hash_of(text, role, embedder) for text in texts]
            found = self._find(embedder, hashes)
            missing = [place for place in range(len(texts)) if place not in found]
            asked: Found = {}
            if missing:
                answers = ask(model, [texts[place] for place in missing], role, stop, retry)
                asked = dict(zip(missing, answers, strict=True))
                self._keep(embedder, {hashes[place]: each for place, each in asked.items()})
        tokens = total([count for _, count in asked.values()])
        vectors = found | asked
        return Embedded(
            key.model,
            np.stack([vectors[place][0] for place in range(len(texts))]),
            total([count for _, count in vectors.values()]),
            cost_of(tokens, embedder.price) if missing else 0.0,
        )

    def _find(self, embedder: Embedder, hashes: Sequence[bytes]) -> Found:
        """Look vectors up in the cache. Without the database there is none."""
        if not (self.lend and self.settings.embedding_cache_mb and embedder.dimensions):
            return {}
        with suppress(DatabaseError), self.lend() as queue:
            known = queue.cached(full_model(embedder), embedder.dimensions, hashes)
            return {place: known[each] for place, each in enumerate(hashes) if each in known}
        return {}

    def _keep(self, embedder: Embedder, vectors: Cached) -> None:
        cap_mb = self.settings.embedding_cache_mb
        if self.lend and cap_mb:
            with suppress(DatabaseError), self.lend() as queue:
                queue.cache_vectors(full_model(embedder), vectors, cap_mb)


def check_texts(texts: Sequence[str]) -> None:
    """Raise SettingsError unless the texts can be embedded in one call."""
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise SettingsError(
            f"there are {len(texts)} texts to embed", f"Give 1 to {MOST_TEXTS} in one call."
        )
    if not all(map(str.strip, texts)):
        raise SettingsError("a text to embed is blank", "Leave it out.")
    if sum(map(len, texts)) > MOST_CHARACTERS:
        raise SettingsError(
            f"the texts to embed have more than {MOST_CHARACTERS} characters together",
            "Embed them in several calls.",
        )


def check_width(target: Target, model: str, width: int) -> None:
    """Raise ProviderRefused if the vectors of a model do not fit the column."""
    if target.dimensions not in (None, width):
        raise ProviderRefused(
            f"{model} gives {width} dimensions, but {target.embedding_column} of"
            f" {target.table_name} holds {target.dimensions}",
            "Search with the model the column was embedded with: set EMBEDDING_MODEL.",
        )


def ask(
    model: Model, texts: Sequence[str], role: Role, stop: Event, retry: Retry = always
) -> list[Answer]:
    """Return the vector of each text and its tokens, in as few requests as the model allows.

    Raises Rejected if the model does not take one of them, and what `Model.ask` raises.
    """
    embedder = model.embedder
    limits = embedder.request_limits
    packing = pack(embedder.prompts.before(texts, role), limits, embedder.count)
    for place, tokens in packing.too_long.items():
        cause = f"the model takes {limits.tokens_per_text} tokens, and the text has {tokens}"
        raise Rejected(f"{cause}: {texts[place][:40]}…", error_class="too_long")
    answers: Found = {}
    for places in packing.requests:
        given = _ask_once(model, [texts[place] for place in places], role, stop, retry)
        answers.update(zip(places, given, strict=True))
    return [answers[place] for place in range(len(texts))]


def _ask_once(
    model: Model, texts: Sequence[str], role: Role, stop: Event, retry: Retry
) -> list[Answer]:
    answer = model.ask(texts, stop, Calls(), retry, role)
    if not are_usable(answer.vectors).all():
        raise bad_answer(f"{model.embedder.model} gives a vector of zeros, NaN or infinity")
    tokens: Sequence[int | None] = answer.tokens or [None] * len(texts)
    return list(zip(answer.vectors, tokens, strict=True))


@contextmanager
def _admitted(breaker: Breaker) -> Iterator[Retry]:
    """Let what is sent be the trial of a provider that could not be used, if its pause is over.
    Yield when to retry.

    Only the failure of a trial counts: the cause of others may be in their texts, and the documents
    of a run are not to wait for that.
    """
    if not breaker.is_due:
        yield always
        return
    breaker.try_again()
    try:
        yield never
    except (Transient, ProviderRefused) as error:
        breaker.fail(error)
        raise
    finally:
        breaker.postpone()


def total(tokens: Sequence[int | None]) -> int | None:
    """Return the sum of tokens; None if one of them is not known."""
    known = [count for count in tokens if count is not None]
    return sum(known) if len(known) == len(tokens) else None


def _hash_of(text: str, role: Role, embedder: Embedder) -> bytes:
    """The key of a text in the cache. A document has that of its job; no text begins like the key
    of a query, since none in the database holds a NUL."""
    key = text if role == "document" else f"query\0{embedder.prompts.query}\0{text}"
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _for_now(error: Transient) -> Transient:
    """The same error, with a hint for somebody who searches."""
    told = Transient(error.cause, error_class=error.error_class, retry_after=error.retry_after)
    told.hint = "Try again soon."
    return told
