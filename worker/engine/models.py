"""The models and providers of a run, with everything that their requests share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import TypeVar

from worker.embedders.base import NO_CAP, Embedder, Embeddings, Role
from worker.embedders.packing import pack, size_of, tokens_at_most
from worker.engine.breaker import Breaker
from worker.engine.histogram import Histogram
from worker.engine.limiter import Limiter
from worker.engine.retry import never, with_retries
from worker.errors import ProviderError, ProviderRefused, SettingsError, Transient, WorkerError
from worker.queue import Job

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ProviderLimits:
    """The limits of the settings for each provider: requests at once, requests and tokens a minute.

    None: no limit but those of the provider.
    """

    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None


@dataclass(slots=True)
class Provider:
    """All models of one provider share its limiter, and the threads that wait for its answers."""

    name: str
    limiter: Limiter
    pool: ThreadPoolExecutor
    _under_way: int = 0
    """Requests that were submitted and have not returned."""

    @property
    def breaker(self) -> Breaker:
        return self.limiter.breaker

    @property
    def has_room(self) -> bool:
        """Whether it accepts more. As many requests wait as are in flight, so that the provider is
        not idle during the next claim."""
        return self._under_way < 2 * self.limiter.limit

    def submit(self, request: Callable[[], Result]) -> Future[Result]:
        """Make a request in a thread of the pool. Call `returned` when its result is taken."""
        self._under_way += 1
        return self.pool.submit(request)

    def returned(self) -> None:
        """Count that a request has returned."""
        self._under_way -= 1


@dataclass(slots=True)
class Model:
    """An embedder, which is probed once before its first use."""

    embedder: Embedder
    provider: Provider
    breaker: Breaker = field(default_factory=Breaker)
    answered_at: float = -math.inf
    """When it last returned vectors of the right width."""
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

    def probe(self, stop: Event, retry: Callable[[Transient], bool]) -> None:
        """Let the embedder find out what only an answer shows, once.

        Raises ProviderRefused, Transient or Stopped.
        """
        with self._probing:
            if self._is_probed:
                return
            limiter = self.provider.limiter
            with_retries(_guarded(self.embedder, self.embedder.probe), limiter, stop, retry=retry)
            limiter.keep_to(self.embedder.concurrency)
            self._is_probed = True

    def ask(
        self,
        texts: Sequence[str],
        stop: Event,
        times: Histogram,
        retry: Callable[[Transient], bool] = never,
        role: Role = "document",
    ) -> Embeddings:
        """Embed `texts`, and retry if `retry` says so. `times` counts how long an answer took.

        Raises ProviderRefused, Transient, Rejected or Stopped.
        """
        size = sum(map(size_of, texts)) + len(texts) * size_of(self.embedder.prompts.of(role))
        estimated = tokens_at_most(size)
        limiter = self.provider.limiter

        def embed() -> Embeddings:
            began = time.monotonic()
            embeddings = self.embedder.embed(texts, role)
            if len(embeddings.vectors) != len(texts):
                cause = f"{self.embedder.model} gave {len(embeddings.vectors)} vectors"
                raise _bad_answer(f"{cause} for {len(texts)} texts")
            times.count(time.monotonic() - began)
            return embeddings

        embeddings = with_retries(
            _guarded(self.embedder, embed), limiter, stop, size=size, tokens=estimated, retry=retry
        )
        taken = estimated if embeddings.tokens is None else sum(embeddings.tokens)
        limiter.apply(embeddings.allowances, estimated, taken)
        return embeddings

    def fail(self, error: ProviderRefused | Transient, since: float) -> None:
        """Stop using the model, and its provider unless that has answered since then."""
        self.breaker.fail(error)
        is_of_the_model = isinstance(error, ProviderRefused) and error.of_the_model
        if not is_of_the_model and self.provider.limiter.answered_at < since:
            self.provider.limiter.give_up(error)

    def answered(self) -> None:
        """Note that it returned vectors of the right width."""
        self.answered_at = time.monotonic()
        self.breaker.close()


def _guarded(embedder: Embedder, call: Callable[[], Result]) -> Callable[[], Result]:
    """Wrap `call` so that it raises only ProviderErrors, and its jobs are released."""

    def guarded() -> Result:
        try:
            return call()
        except ProviderError:
            raise
        except Exception as error:  # its message may repeat a text or a secret
            raise _bad_answer(f"{embedder.model} failed with {type(error).__name__}") from None

    return guarded


def _bad_answer(cause: str) -> Transient:
    return Transient(cause, error_class="bad_answer", of_the_input=True)


OpenEmbedder = Callable[[str, int | None, str | None], Embedder]
Key = tuple[str, int | None, str | None]
"""The name of a model, the width that is wanted of it, and its document prompt (None: its own)."""


def key_of(job: Job) -> Key:
    """The model for a job."""
    return job.model, job.dimensions, job.document_prompt


@dataclass(slots=True)
class Models:
    """All models that were used so far. Each is opened at its first use.

    The breakers are kept for as long as the worker runs, also while nothing is open.
    """

    open_embedder: OpenEmbedder
    limits: ProviderLimits
    _providers: dict[str, Provider] = field(default_factory=dict)
    _models: dict[Key, Model] = field(default_factory=dict)
    _breakers: dict[Key | str, Breaker] = field(default_factory=dict)
    _provider_names: dict[Key, str] = field(default_factory=dict)
    _resolved: dict[Key, Key] = field(default_factory=dict)
    """The keys of models that were opened with their own prompt, with the prompt that they have."""

    def of(self, key: Key, wait_for_result: Callable[[Future[Embedder]], Embedder]) -> Model:
        """Return a model. It is opened in another thread. Raises WorkerError."""
        key = self._resolved.get(key, key)
        if key not in self._models:
            opener = ThreadPoolExecutor(1, "open")
            try:
                embedder = wait_for_result(opener.submit(self._open, *key))
            except WorkerError as error:
                self._breaker(key, key[0]).fail(error)
                raise
            finally:
                opener.shutdown(wait=False)
            key = self._resolve(key, embedder)
            if key in self._models:
                embedder.close()
                return self._models[key]
            self._provider_names[key] = embedder.provider
            self._models[key] = Model(
                embedder, self._provider_of(embedder), self._breaker(key, key[0])
            )
        return self._models[key]

    def _resolve(self, key: Key, embedder: Embedder) -> Key:
        """Note which prompt a model has, so that it is not opened again under that."""
        self._resolved[key] = key[0], key[1], embedder.prompts.document
        return self._resolved[key]

    def _open(self, model: str, width: int | None, document_prompt: str | None) -> Embedder:
        try:
            return self.open_embedder(model, width, document_prompt)
        except WorkerError:
            raise
        except Exception as error:  # of a package or its files
            raise SettingsError(
                f"{model} cannot be opened: {type(error).__name__}",
                "Reinstall the packages that it needs.",
            ) from error

    def error_of(self, key: Key) -> tuple[str, WorkerError] | None:
        """Why a model cannot be used: the provider or model that failed, and its error."""
        for breaker in self.open_breakers(key):
            if error := breaker.error:
                return breaker.subject, error
        return None

    def open_breakers(self, key: Key) -> list[Breaker]:
        """Return the open breakers of a model: of its provider, and its own."""
        key = self._resolved.get(key, key)
        keys = (self._provider_names.get(key), key)
        breakers = (self._breakers.get(each) for each in keys if each is not None)
        return [breaker for breaker in breakers if breaker and breaker.is_open]

    def may_try(self, key: Key) -> bool:
        """Whether a model that cannot be used may be tried again now."""
        breakers = self.open_breakers(key)
        return bool(breakers) and all(breaker.is_due for breaker in breakers)

    def try_again(self, key: Key) -> None:
        """Let requests to this model through until one of them fails."""
        for breaker in self.open_breakers(key):
            breaker.try_again()

    def postpone(self, key: Key) -> None:
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

    def has_room(self, key: Key) -> bool:
        """Whether a model accepts more."""
        model = self._models.get(self._resolved.get(key, key))
        return model is None or model.provider.has_room

    def close(self) -> None:
        """Close all models. Requests that are in flight are abandoned."""
        for provider in self._providers.values():
            provider.pool.shutdown(wait=False)
        for model in self._models.values():
            model.embedder.close()
        self._models.clear()
        self._providers.clear()

    def _breaker(self, key: Key | str, subject: str) -> Breaker:
        return self._breakers.setdefault(key, Breaker(subject))

    def _provider_of(self, embedder: Embedder) -> Provider:
        name = embedder.provider
        if name not in self._providers:
            limits = self.limits
            breaker = self._breaker(name, name)
            limiter = Limiter(
                embedder.concurrency, limits.concurrency, limits.rpm, limits.tpm, breaker
            )
            threads = limits.concurrency or embedder.concurrency.most
            self._providers[name] = Provider(name, limiter, ThreadPoolExecutor(threads, name))
        return self._providers[name]
