"""Re-embeddings as tests see them: two models with vectors that can be foretold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import numpy as np
import pytest
from psycopg import sql

from tests.conftest import Database, Server, rows, value
from tests.integration.jobs import SCOPE
from tests.integration.runs import at_once
from tests.integration.tables import parsed, vector_of
from tests.openai_server import OpenAIServer
from worker.queue import AdminQueue, Completion, Job, Reembedding
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

OLD, NEW = "test:old", "test:new"
OPENAI = "openai:text-embedding-3-small"
NAME = ("docs", "embedding")


@pytest.fixture(name="queue")
def owner_queue(server: Server, database: str) -> Iterator[PostgresQueue]:
    """The queue of the owner of the tables, who has a connection of their own."""
    with PostgresQueue(server.direct_url_of(database), "tests") as queue:
        yield queue


@pytest.fixture(name="settings")
def openai_settings(openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a worker with the model of the stand-in, which retries at once."""
    at_once(monkeypatch)
    return Settings(
        openai_api_key=openai.api_key, openai_base_url=openai.base_url, embedding_model=OPENAI
    )


def model_vector(model: str, text: str, width: int = 3) -> list[float]:
    """The vector of a text by a model."""
    return vector_of(f"{model} {text}", width)


def embed_all(queue: AdminQueue) -> list[tuple[str, str]]:
    """Embed all that is due by the model of each target. Returns model and text, sorted."""
    done = []
    while taken := queue.claim(SCOPE, 100):
        for model in {full_model(job) for job in taken.jobs}:
            jobs = [job for job in taken.jobs if full_model(job) == model]
            assert queue.complete(model, [completion_of(job) for job in jobs]) == []
            done += [(model, job.content) for job in jobs]
    return sorted(done)


def full_model(job: Job) -> str:
    """The model of a job with its prompt, as embedding.full_model has it."""
    return job.model + (f"#{job.document_prompt}" if job.document_prompt else "")


def completion_of(job: Job) -> Completion:
    vector = model_vector(full_model(job), job.content, job.dimensions or 3)
    return Completion(job, np.array(vector, dtype=np.float32), None)


def create_searched(db: Database, width: int = 3, options: str = "") -> None:
    """A table `docs` of three rows, watched for the old model, with a match function."""
    db.execute("create table docs (id bigint primary key, body text, tenant integer default 1)")
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, 3) as i")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', model => %s, dimensions => %s,"
        " match_function => true" + options + ")",
        [OLD, width],
    )
    db.execute("select backfill_embeddings('docs', 'embedding')")


def create_embedded(db: Database, options: str = "") -> None:
    """The same, and each row has its vector."""
    create_searched(db, options=options)
    with PostgresQueue(db.info.dsn, "tests") as queue:
        assert len(embed_all(queue)) == 3


def create_embedded_beside(db: Database) -> None:
    """The same with the vectors in a side table."""
    create_embedded(db, ", store => 'table'")


def start(
    queue: PostgresQueue, width: int = 3, model: str = NEW, store: str | None = None
) -> Reembedding:
    return queue.start_reembedding(*NAME, model, width, config={"store": store} if store else None)


def fill(queue: AdminQueue, column: str = "embedding_2") -> list[tuple[str, str]]:
    """Embed the rows that the new column lacks."""
    target = queue.target("docs", column)
    while queue.backfill(target, 100):
        pass
    return embed_all(queue)


def make_ready(queue: PostgresQueue) -> Reembedding:
    """Go from filling to ready, as the stages do."""
    [reembedding] = [one for one in queue.reembeddings() if one.ended_at is None]
    for stage in ("indexing", "verifying", "ready"):
        reembedding = queue.advance_reembedding(reembedding, stage)
    return reembedding


def make_swapped(queue: PostgresQueue, width: int = 3) -> Reembedding:
    start(queue, width)
    fill(queue)
    make_ready(queue)
    return queue.swap_reembedding(*NAME)


Store = tuple[str, str, list[tuple[str | None, list[float] | None]]]


def stores(db: Database, table: str = "docs") -> list[Store]:
    """Column, model, and the texts with their vectors of each target of a table."""
    found = []
    for column, model, side_table in rows(
        db,
        "select embedding_column, model, store_relation from embedding_targets"
        " where table_name = %s order by id",
        table,
    ):
        beside = f"left join {side_table} as side using (id)" if side_table else ""
        vector = sql.Identifier("side", "embedding") if side_table else sql.Identifier(column)
        query = sql.SQL("select body, {}::text from {} {} order by 1, 2").format(
            vector, sql.Identifier(table), sql.SQL(beside)
        )
        stored = [(text, parsed(vector)) for text, vector in db.execute(query).fetchall()]
        found.append((column, model, stored))
    return found


def are_in_step(db: Database, table: str = "docs") -> bool:
    """Whether each store of a table has the vectors of its model for the present texts."""
    return all(
        vector == (None if text is None else model_vector(model, text, len(vector or "xxx")))
        for _, model, stored in stores(db, table)
        for text, vector in stored
    )


def literal(vector: list[float]) -> str:
    return "[" + ",".join(map(str, vector)) + "]"


def found_by(db: Database, statement: LiteralString, *parameters: Any) -> list[Any]:
    return [row[0] for row in rows(db, statement, *parameters)]


def nearest(db: Database, model: str, text: str, width: int = 3) -> tuple[Any, ...]:
    """What the match function finds first for a text, embedded by a model that is named."""
    found = rows(
        db,
        "select content, round(similarity::numeric, 5)::float8 from match_docs(%s, 1, model => %s)",
        literal(model_vector(model, text, width)),
        model,
    )
    return found[0]


def state(db: Database) -> str | None:
    """The state of the latest re-embedding, if there is one."""
    found: str | None = value(
        db, "select (array_agg(state order by id desc))[1] from embedding_reembeddings"
    )
    return found
