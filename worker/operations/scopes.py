"""Decides which jobs a worker claims, and checks that their models can be opened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from worker.embedders.registry import open_embedder
from worker.errors import WorkerError
from worker.host import release_memory
from worker.operations.session import new_worker_name, select
from worker.queue import AdminQueue, Scope
from worker.settings import Settings


def resolve_scope(
    queue: AdminQueue, settings: Settings, table: str | None, column: str | None
) -> Scope:
    """Return the scope of a new worker. Raises SettingsError if nothing of that name is watched."""
    selection = select(queue, table, column)
    return Scope(
        worker=new_worker_name(),
        lease=timedelta(seconds=settings.embedding_lease_seconds),
        default_model=settings.embedding_model,
        table=selection.table,
        column=selection.column,
    )


def models_in_use(queue: AdminQueue, scope: Scope) -> list[str]:
    """The models that a worker uses in a scope; the default one if nothing is watched."""
    default = scope.default_model
    targets = queue.targets(scope.table, scope.column)
    return sorted({target.model or default for target in targets if target.accepts(default)}) or [
        default
    ]


def chat_models_in_use(queue: AdminQueue, scope: Scope) -> list[str]:
    """The chat models that a worker uses in a scope."""
    targets = queue.targets(scope.table, scope.column)
    return sorted({target.enhance_model for target in targets if target.enhance_model})


def check_models(settings: Settings, models: Sequence[str]) -> None:
    """Check that the models in use can be opened, before anything is claimed for them.

    Raises what the first of them raises if none can be opened. If only some cannot, their jobs are
    released later, and the log says why.
    """
    problems = []
    for model in models:
        try:
            open_embedder(model, None, settings).close()
        except WorkerError as problem:
            problems.append(problem)
    if len(problems) == len(models):
        raise problems[0]
    release_memory()
