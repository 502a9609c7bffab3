"""Builds the vector index of a watched column."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from threading import Event

from worker.errors import SessionMissing
from worker.queue.postgres import PostgresQueue
from worker.reembedding.indexing import (
    IndexBuilder,
    IndexPlan,
    IndexProgress,
    IndexRequest,
    IndexResult,
    find_facts,
    plan_index,
)


def plan_build(queue: PostgresQueue, request: IndexRequest) -> IndexPlan:
    """Find out what `build_index` would run. Raises SettingsError if there can be no index."""
    return plan_index(find_facts(queue.database, _named(queue, request)), rebuild=request.rebuild)


def build_index(
    queue: PostgresQueue,
    table: str,
    column: str = "embedding",
    *,
    like: str | None = None,
    rebuild: bool = False,
    stop: Event | None = None,
    on_progress: Callable[[IndexProgress], None] = lambda _: None,
) -> IndexResult:
    """Build the vector index of a column, unless it is there. Readers and writers go on.

    `like`: build what this column of the table has, instead of an hnsw index for the cosine
    distance. `rebuild`: build an index again that is there. It returns when the build has ended, or
    after `stop` was set: then the build is cancelled, and what it left is dropped. Raises
    SettingsError if there can be no index, SessionMissing if the connection leads through a pooler
    in transaction mode, and Busy if another session builds an index of the table.
    """
    request = _named(queue, IndexRequest(table, column, like, rebuild))
    plan = plan_build(queue, request)
    if not plan.statements:
        return IndexResult("present", plan.present, [])
    check_session(queue, plan)
    with closing(queue.database.beside()) as builder:
        return IndexBuilder(builder, queue.database).run(request, stop or Event(), on_progress)


def check_session(queue: PostgresQueue, plan: IndexPlan) -> None:
    """Raise SessionMissing if a build would not have a session of its own."""
    if not queue.database.keeps_session():
        raise SessionMissing(
            "DATABASE_URL leads through a pooler in transaction mode, which gives a build no"
            " session of its own",
            "Use a direct connection or a pooler in session mode (Supabase: port 5432), or run the"
            " statements of `worker index … --sql` one by one in psql over such a connection.",
            plan.script,
        )


def _named(queue: PostgresQueue, request: IndexRequest) -> IndexRequest:
    """Return the request with the name under which the table is watched."""
    target = queue.target(request.table, request.column)
    return IndexRequest(target.table_name, target.embedding_column, request.like, request.rebuild)
