"""The models a run uses, and the providers behind them: what is shared by all requests to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Event, Lock

from worker.embedders import Embedder
from worker.embedders.packing import pack
from worker.engine.limiter import Limiter
from worker.engine.retry import with_retries
from worker.queue import Job


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings allow each provider: requests at once, requests and tokens a minute.

    None: whatever it bears.
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
    under_way: int = 0
    """Requests that were handed to the pool and have not come back."""
    told: str | None = ""
    """What the queue was told last of why it cannot be used; None: that it can."""

    @property
    def has_room(self) -> bool:
        """Whether it is to be given more. As much waits as is under way: so nothing stands idle
        while the database is asked for the next batch."""
        return self.under_way < 2 * self.limiter.limit


@dataclass(slots=True)
class Model:
    """An embedder that introduces itself before it is used first, whoever comes first."""

    embedder: Embedder
    provider: Provider
    _is_introduced: bool = False
    _introduction: Lock = field(default_factory=Lock)

    def requests(self, jobs: Sequence[Job], most: int) -> list[list[Job]]:
        """Jobs of one column, `most` at once, as the provider takes them for all that is known."""
        caps = self.embedder.caps
        caps = replace(caps, items=min(caps.items, most))
        packing = pack([job.content for job in jobs], caps)
        return [[jobs[place] for place in request] for request in packing.requests]

    def introduce(self, stop: Event) -> None:
        """Let the embedder learn what only an answer can tell, once.

        Raises ProviderRefused, Transient or Stopped.
        """
        with self._introduction:
            if self._is_introduced:
                return
            limiter = self.provider.limiter
            with_retries(self.embedder.introduce, limiter, stop)
            limiter.keep_to(self.embedder.concurrency)
            self._is_introduced = True


OpenEmbedder = Callable[[str, int | None], Embedder]


@dataclass(slots=True)
class Models:
    """Every model that was asked for so far, opened when it is asked for first."""

    open_embedder: OpenEmbedder
    limits: Limits
    providers: dict[str, Provider] = field(default_factory=dict)
    _models: dict[tuple[str, int | None], Model] = field(default_factory=dict)

    def of(self, job: Job) -> Model:
        """The model for a job. Raises SettingsError if it cannot be opened."""
        wanted = (job.model, job.dimensions)
        if wanted not in self._models:
            embedder = self.open_embedder(*wanted)
            self._models[wanted] = Model(embedder, self._provider_of(embedder))
        return self._models[wanted]

    def close(self) -> None:
        """Let go of everything. Requests that are under way are left to themselves."""
        for provider in self.providers.values():
            provider.pool.shutdown(wait=False)
        for model in self._models.values():
            model.embedder.close()

    def _provider_of(self, embedder: Embedder) -> Provider:
        name = embedder.provider
        if name not in self.providers:
            limits = self.limits
            limiter = Limiter(embedder.concurrency, limits.concurrency, limits.rpm, limits.tpm)
            threads = limits.concurrency or embedder.concurrency.most
            self.providers[name] = Provider(name, limiter, ThreadPoolExecutor(threads, name))
        return self.providers[name]
