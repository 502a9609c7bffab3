"""The models and providers of a run, with everything that their requests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event, Lock
from typing import NamedTuple, TypeVar

from worker.embedders.base import NO_CAP, ChatModel, Embedder, Embeddings, Role
from worker.embedders.packing import pack, size_of, tokens_at_most
from worker.engine.breaker import Breaker
from worker.engine.calls import Calls
from worker.engine.chats import Chat
from worker.engine.providers import Limiters, Opened, Provider, bad_answer, guarded
from worker.engine.retry import never, with_retries
from worker.errors import SettingsError, Transient, WorkerError
from worker.queue import Job

Client = TypeVar("Client", Embedder, ChatModel)


@dataclass(slots=True, kw_only=True)
class Model(Opened):
    """An embedder, which is probed once before its first use."""

    embedder: Embedder
    _is_probed: bool = False
    _probing: Lock = field(default_factory=Lock)

    def requests(self, jobs: Sequence[Job], most: int) -> list[list[Job]]:
        """Pack jobs of one column into requests, `most` in each, within the known limits."""
        request_limits = self.embedder.request_limits
        request_limits = replace(request_limits, items=min(request_limits.items, most))
        if self.embedder.count:  # `embed` counts tokens, and isolates only what is really too long
            request_limits = replace(request_limits, tokens_per_text=NO_CAP)
        packing = pack(self.texts_of(jobs), request_limits)
        return [[jobs[place] for place in request] for request in packing.requests]

    def texts_of(self, jobs: Sequence[Job]) -> list[str]:
        """The texts of jobs with their prompt, as the limits of a request count them."""
        return self.embedder.prompts.before([job.content for job in jobs], "document")

    def probe(
        self, stop: Event, retry: Callable[[Transient], bool], *, ahead: bool = False
    ) -> None:
        """Let the embedder find out what only an answer shows, once.

        Raises ProviderRefused, Transient or Stopped.
        """
        with self._probing:
            if self._is_probed:
                return
            limiter = self.provider.limiter
            with_retries(
                guarded(self.embedder.model, self.embedder.probe),
                limiter,
                stop,
                retry=retry,
                ahead=ahead,
            )
            limiter.keep_to(self.embedder.concurrency)
            self._is_probed = True

    def ask(
        self,
        texts: Sequence[str],
        stop: Event,
        calls: Calls,
        retry: Callable[[Transient], bool] = never,
        role: Role = "document",
    ) -> Embeddings:
        """Embed `texts`, and retry if `retry` says so. `calls` records it. Queries go ahead of
        documents.

        Raises ProviderRefused, Transient, Rejected or Stopped.
        """
        size = sum(map(size_of, texts)) + len(texts) * size_of(self.embedder.prompts.of(role))
        estimated = tokens_at_most(size)
        limiter = self.provider.limiter

        def embed() -> Embeddings:
            embeddings = self.embedder.embed(texts, role)
            if len(embeddings.vectors) != len(texts):
                cause = f"{self.embedder.model} gave {len(embeddings.vectors)} vectors"
                raise bad_answer(f"{cause} for {len(texts)} texts")
            return embeddings

        with calls.call(len(texts)) as call:
            embeddings = with_retries(
                call.observed(guarded(self.embedder.model, embed), calls.times),
                limiter,
                stop,
                size=size,
                tokens=estimated,
                retry=retry,
                ahead=role == "query",
            )
            call.tokens = None if embeddings.tokens is None else sum(embeddings.tokens)
        taken = estimated if call.tokens is None else call.tokens
        limiter.apply(embeddings.allowances, estimated, taken)
        return embeddings


OpenEmbedder = Callable[[str, int | None, str | None], Embedder]
OpenChatModel = Callable[[str], ChatModel]
Key = tuple[str, int | None, str | None]
"""The name of a model, the width that is wanted of it, and its document prompt (None: its own)."""
AnyKey = Key | str
"""The key of a model, or the name of a chat model."""


def key_of(job: Job) -> Key:
    """The model for a job."""
    return job.model, job.dimensions, job.document_prompt


class Needs(NamedTuple):
    """The models that the jobs of a target use, and those without which they have to wait."""

    used: tuple[AnyKey, ...]
    required: tuple[AnyKey, ...]


def needs_of(job: Job) -> Needs:
    """The models that a job needs."""
    embeds, enhancement = (key_of(job),), job.enhancement
    used = (*embeds, enhancement.model) if enhancement else embeds
    return Needs(used, used if enhancement and enhancement.on_failure == "wait" else embeds)


@dataclass(slots=True)
class Models:
    """All models that were used so far. Each is opened at its first use.

    The breakers are kept for as long as the worker runs, also while nothing is open.
    """

    open_embedder: OpenEmbedder
    limiters: Limiters
    open_chat_model: OpenChatModel | None = None
    """None: no job has an enhancement."""
    _providers: dict[str, Provider] = field(default_factory=dict)
    _models: dict[Key, Model] = field(default_factory=dict)
    _chats: dict[str, Chat] = field(default_factory=dict)
    _breakers: dict[AnyKey, Breaker] = field(default_factory=dict)
    _provider_names: dict[AnyKey, str] = field(default_factory=dict)
    _resolved: dict[Key, Key] = field(default_factory=dict)
    """The keys of models that were opened with their own prompt, with the prompt that they have."""

    def of(self, key: Key, wait_for_result: Callable[[Future[Embedder]], Embedder]) -> Model:
        """Return a model. It is opened in another thread. Raises WorkerError."""
        key = self._resolved.get(key, key)
        if key not in self._models:
            opening = partial(self.open_embedder, *key)
            embedder = self._opened(key, key[0], opening, wait_for_result)
            key = self._resolve(key, embedder)
            if key in self._models:
                embedder.close()
                return self._models[key]
            self._models[key] = Model(
                embedder=embedder,
                provider=self._provider_of(key, embedder),
                breaker=self._breaker(key, key[0]),
            )
        return self._models[key]

    def chat(self, name: str, wait_for_result: Callable[[Future[ChatModel]], ChatModel]) -> Chat:
        """Return a chat model. It is opened in another thread. Raises WorkerError."""
        if name not in self._chats:
            assert self.open_chat_model is not None
            opening = partial(self.open_chat_model, name)
            model = self._opened(name, name, opening, wait_for_result)
            self._chats[name] = Chat(
                chat_model=model,
                provider=self._provider_of(name, model),
                breaker=self._breaker(name, name),
            )
        return self._chats[name]

    def _opened(
        self,
        key: AnyKey,
        name: str,
        open_client: Callable[[], Client],
        wait_for_result: Callable[[Future[Client]], Client],
    ) -> Client:
        opener = ThreadPoolExecutor(1, "open")
        try:
            return wait_for_result(opener.submit(_checked, name, open_client))
        except WorkerError as error:
            self._breaker(key, name).fail(error)
            raise
        finally:
            opener.shutdown(wait=False)

    def _resolve(self, key: Key, embedder: Embedder) -> Key:
        """Note which prompt a model has, so that it is not opened again under that."""
        self._resolved[key] = key[0], key[1], embedder.prompts.document
        return self._resolved[key]

    def error_of(self, key: AnyKey) -> tuple[str, WorkerError] | None:
        """Why a model cannot be used: the provider or model that failed, and its error."""
        for breaker in self.open_breakers(key):
            if error := breaker.error:
                return breaker.subject, error
        return None

    def open_breakers(self, key: AnyKey) -> list[Breaker]:
        """Return the open breakers of a model: of its provider, and its own."""
        key = self._resolved_key(key)
        keys = (self._provider_names.get(key), key)
        breakers = (self._breakers.get(each) for each in keys if each is not None)
        return [breaker for breaker in breakers if breaker and breaker.is_open]

    def may_try(self, key: AnyKey) -> bool:
        """Whether a model that cannot be used may be tried again now."""
        breakers = self.open_breakers(key)
        return bool(breakers) and all(breaker.is_due for breaker in breakers)

    def try_again(self, key: AnyKey) -> None:
        """Let requests to this model through until one of them fails."""
        for breaker in self.open_breakers(key):
            breaker.try_again()

    def postpone(self, key: AnyKey) -> None:
        """Try this model later, after a trial without an answer or an error."""
        for breaker in self.open_breakers(key):
            breaker.postpone()

    def retry_now(self) -> None:
        """Try everything again at once."""
        for breaker in self._breakers.values():
            breaker.retry_now()
        for provider in self._providers.values():
            provider.limiter.retry_now()

    @property
    def have_room(self) -> bool:
        """Whether any provider accepts more."""
        return any(provider.has_room for provider in self._providers.values())

    def has_room(self, key: AnyKey) -> bool:
        """Whether a model accepts more."""
        name = self._provider_names.get(self._resolved_key(key))
        return name not in self._providers or self._providers[name].has_room

    def close(self) -> None:
        """Close all models. Requests that are in flight are abandoned."""
        for provider in self._providers.values():
            provider.pool.shutdown(wait=False)
        for model in self._models.values():
            model.embedder.close()
        for chat in self._chats.values():
            chat.chat_model.close()
        self._models.clear()
        self._chats.clear()
        self._providers.clear()

    def _resolved_key(self, key: AnyKey) -> AnyKey:
        return key if isinstance(key, str) else self._resolved.get(key, key)

    def _breaker(self, key: AnyKey, subject: str) -> Breaker:
        return self._breakers.setdefault(key, Breaker(subject))

    def _provider_of(self, key: AnyKey, client: Embedder | ChatModel) -> Provider:
        name = self._provider_names[key] = client.provider
        if name not in self._providers:
            limiter = self.limiters.of(name, client.concurrency)
            self._breakers[name] = limiter.breaker
            threads = self.limiters.limits.concurrency or client.concurrency.most
            self._providers[name] = Provider(name, limiter, ThreadPoolExecutor(threads, name))
        return self._providers[name]


def _checked(name: str, open_client: Callable[[], Client]) -> Client:
    try:
        return open_client()
    except WorkerError:
        raise
    except Exception as error:  # of a package or its files
        raise SettingsError(
            f"{name} cannot be opened: {type(error).__name__}",
            "Reinstall the packages that it needs.",
        ) from error
