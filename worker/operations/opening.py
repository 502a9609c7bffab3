"""Opens the model of a column, outside of a run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager

from worker.embedders.base import Embedder
from worker.embedders.registry import open_embedder
from worker.engine.models import Model, Models
from worker.operations.processing import run_options
from worker.queue import Target
from worker.settings import Settings


@contextmanager
def opened_model(settings: Settings, target: Target) -> Iterator[Model]:
    """Yield the model of a column, with its prompts. It is closed at the end.

    Raises what `open_embedder` raises.
    """

    def open_it(model: str, width: int | None, document_prompt: str | None) -> Embedder:
        return open_embedder(model, width, settings, document_prompt, target.query_prompt)

    name = target.model or settings.embedding_model
    with closing(Models(open_it, run_options(settings).limits)) as models:
        yield models.of((name, target.dimensions, target.document_prompt), Future.result)
