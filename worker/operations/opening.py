"""Opens the models of columns, outside of a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from worker.embedders.base import Embedder
from worker.embedders.registry import open_embedder
from worker.engine.models import Model, Models
from worker.engine.providers import Limiters
from worker.errors import Transient
from worker.operations.processing import run_options
from worker.queue import Target
from worker.settings import Settings

MOST_MODELS = 8  # open at once


class ModelKey(NamedTuple):
    """A model as a column uses it. A prompt that is None is the model's own."""

    model: str
    width: int | None
    document_prompt: str | None
    query_prompt: str | None


def key_of(target: Target, settings: Settings) -> ModelKey:
    """The model of a column."""
    return ModelKey(
        target.model or settings.embedding_model,
        target.dimensions,
        target.document_prompt,
        target.query_prompt,
    )


@contextmanager
def opened_model(settings: Settings, target: Target) -> Iterator[Model]:
    """Yield the model of a column, with its prompts. It is closed at the end.

    Raises what `open_embedder` raises.
    """
    with opened_by_key(settings, key_of(target, settings)) as model:
        yield model


@contextmanager
def opened_by_key(settings: Settings, key: ModelKey) -> Iterator[Model]:
    """Yield a model, which is closed at the end. Raises what `open_embedder` raises."""
    with closing(_models_of(key, settings, Limiters(run_options(settings).limits))) as models:
        yield models.of(key[:3], Future.result)


def _models_of(key: ModelKey, settings: Settings, limiters: Limiters) -> Models:
    def open_it(model: str, width: int | None, document_prompt: str | None) -> Embedder:
        return open_embedder(model, width, settings, document_prompt, key.query_prompt)

    return Models(open_it, limiters)


@dataclass(slots=True)
class _Open:
    models: Models
    users: int = 0
    opening: Lock = field(default_factory=Lock)


@dataclass(slots=True)
class OpenModels:
    """At most MOST_MODELS models, for several threads. Each is opened once, at its first use."""

    settings: Settings
    limiters: Limiters
    _opened: OrderedDict[ModelKey, _Open] = field(default_factory=OrderedDict)
    """In the order of their latest use."""
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def lent(self, key: ModelKey) -> Iterator[Model]:
        """Yield a model, which stays open meanwhile.

        Raises what `open_embedder` raises, and Transient if all models that are open are in use.
        """
        entry = self._enter(key)
        try:
            with entry.opening:
                model = entry.models.of(key[:3], Future.result)
            yield model
        finally:
            with self._lock:
                entry.users -= 1

    def close(self) -> None:
        """Close all models."""
        with self._lock:
            entries = list(self._opened.values())
            self._opened.clear()
        for entry in entries:
            entry.models.close()

    def _enter(self, key: ModelKey) -> _Open:
        """Note a use of a model, and close the one whose latest use is the longest ago if there
        are too many."""
        unused: _Open | None = None
        with self._lock:
            if key not in self._opened and len(self._opened) >= MOST_MODELS:
                unused = self._opened.pop(self._longest_unused())
            if key not in self._opened:
                self._opened[key] = _Open(_models_of(key, self.settings, self.limiters))
            self._opened.move_to_end(key)
            entry = self._opened[key]
            entry.users += 1
        if unused:
            unused.models.close()
        return entry

    def _longest_unused(self) -> ModelKey:
        for key, entry in self._opened.items():
            if not entry.users:
                return key
        raise Transient(f"{MOST_MODELS} models are in use", error_class="overloaded")
