"""What is particular to the queue over the Data API; what both promise is in the other files.

Those run over Supabase Lite. What PostgREST makes of the same bodies is tried here: it hands them
to Postgres as one JSON document, whose entries become arguments by their names and types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from postgrest import APIError
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.conftest import Database, Server, rows, value
from tests.integration.jobs import SCOPE, claim, claim_one, complete, insert, vector_of
from tests.supabase_project import data_api
from worker.errors import DatabaseError, SchemaError, SettingsError, Unreachable
from worker.queue import (
    AdminQueue,
    Chunk,
    Chunking,
    ChunkText,
    Completion,
    DocumentCompletion,
    Place,
    Refusal,
    Report,
    Usage,
)
from worker.queue.data_api import DataApiQueue
from worker.queue.transports.rest import Rest, translate_api_error

pytestmark = pytest.mark.over_the_data_api


# -- as PostgREST does it


class AsPostgrest:
    """Answers a call with the statement that PostgREST makes of it, or with its error."""

    def __init__(self, connection: Database) -> None:
        self.connection = connection

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        [(oid, returns_rows)] = rows(
            self.connection,
            "select oid, proretset from pg_proc"
            " where proname = %s and pronamespace = 'public'::regnamespace",
            function,
        )
        types: dict[str, Any] = dict(
            rows(
                self.connection,
                "select name, format_type(type, null) from pg_proc,"
                " unnest(proargnames, proargtypes::oid[]) as argument (name, type)"
                " where oid = %s and type is not null",
                oid,
            )
        )
        statement = sql.SQL(
            "with given as (select * from json_to_record(%s::json) as body ({columns}))"
            " select {result} from given, {function}({arguments}) as answer"
        ).format(
            columns=sql.SQL(", ").join(
                sql.Identifier(name) + sql.SQL(" " + types[name]) for name in arguments
            ),
            result=sql.SQL(
                "coalesce(json_agg(answer), '[]')" if returns_rows else "to_json(answer)"
            ),
            function=sql.Identifier("public", function),
            arguments=sql.SQL(", ").join(
                sql.SQL("{0} => given.{0}").format(sql.Identifier(name)) for name in arguments
            ),
        )
        try:
            [answer] = self.connection.execute(statement, [json.dumps(dict(arguments))])
        except psycopg.Error as problem:
            error = {"code": problem.sqlstate, "message": problem.diag.message_primary}
            raise translate_api_error(APIError(error), 500) from None
        return answer[0]

    def read(self, relation: str, columns: Sequence[str], order: Sequence[str]) -> Any:
        raise NotImplementedError


@pytest.fixture
def as_postgrest(queue: AdminQueue, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    in_between = AsPostgrest(db)
    monkeypatch.setattr(Rest, "call", lambda _, *given: in_between.call(*given))


@pytest.mark.usefixtures("as_postgrest")
def test_postgrest_understands_what_a_worker_sends(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 4)
    jobs = claim(queue, 4)
    assert [job.content for job in jobs] == [f"text {job.record_id}" for job in jobs]
    assert queue.extend(SCOPE, jobs) == set()
    assert queue.fail(jobs[:1], "rejected", 'a "word" {with} \\ signs') == 1
    queue.release(jobs[1:2], timedelta(seconds=1.5), "why", "timed_out")
    assert complete(queue, jobs[2:]) == []
    queue.cache("test:model", [Completion(jobs[2], vector_of(jobs[2]), 7)], 1)
    [(vector, tokens)] = queue.cached("test:model", 3, [jobs[2].content_hash, b"\0"]).values()
    assert (vector.tolist(), tokens) == (vector_of(jobs[2]).tolist(), 7)
    written = {b"1": 'a "word" {with} \\ signs', b"\0": "ä\n二"}
    queue.cache_enhancements(written, 1)
    assert queue.cached_enhancements([b"1", b"\0", b"2"]) == written
    queue.heartbeat(SCOPE, Report("working", 2, 1, [Usage("test:model", 2, 1, 1, 7, 0.5, 0.25)]))
    queue.report_provider("test", "out", None)
    assert queue.rate("test:model") == 8.0
    assert queue.requeue(status="failed", error_class="rejected").requeued == 1
    assert queue.count_due(SCOPE) == 1
    found = queue.search(queue.target("docs", "embedding"), vector_of(jobs[3]), 1)
    assert found[0].record_id == jobs[3].record_id
    assert queue.estimate("test:model", None, None, False)[0].row_count == 1


@pytest.mark.usefixtures("as_postgrest")
def test_postgrest_understands_what_a_worker_sends_of_documents(
    db: Database, queue: AdminQueue
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3, chunks => true)"
    )
    db.execute("insert into docs values (1, 'one two')")
    job = claim_one(queue)
    assert (job.chunking, job.stored) == (Chunking("markdown", 1250, "characters", 20000), [])
    places = [Place(b"1", 0, 4, None, None), Place(b"2", 4, 7, 2, 'a "word" {with} \\ signs')]
    chunks = [Chunk.of(job, place, ChunkText(place.heading_path, "text")) for place in places]
    staged = [Completion(chunk, vector_of(chunk), 7) for chunk in chunks]
    assert queue.stage("test:model", staged[:1]) == []
    queue.release([job])
    again = claim_one(queue)
    assert again.stored == [b"1"]
    assert queue.stage("test:model", staged[1:]) == [Refusal(job.id, "lost")]
    chunk = Chunk.of(again, places[1], ChunkText(places[1].heading_path, "text"))
    assert queue.stage("test:model", [Completion(chunk, vector_of(chunk), 7)]) == []
    unenhanced = DocumentCompletion(again, places, 1, 7, 0.5, "timed_out", timedelta(seconds=1.5))
    assert queue.complete_documents("test:model", [unenhanced]) == []
    pause = "select extract(epoch from available_at - completed_at)::real from embedding_queue"
    assert value(db, pause) == pytest.approx(1.5, abs=0.1)
    db.execute("update embedding_queue set available_at = now()")
    again = claim_one(queue)
    assert again.unenhanced
    documents = [DocumentCompletion(again, places, 1, 7, 0.5)]
    for _ in range(2):  # the answer may have been lost
        assert queue.complete_documents("test:model", documents) == []
    found = "select position, first_char, last_char, page, heading_path, hash from docs_passages"
    assert rows(db, found + " order by position") == [
        (position, place.first_char, place.last_char, place.page, place.heading_path, place.hash)
        for position, place in enumerate(places)
    ]
    assert rows(db, "select context, content from docs_passages order by position") == [
        (place.heading_path, "text") for place in places
    ]


# -- vectors


def test_re_embeddings_can_be_read(docs: Database, queue: AdminQueue) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute(
        "select start_reembedding('docs', 'embedding', 'test:new', 3, config => %s)",
        [Jsonb({"why": "better"})],
    )
    [reembedding] = queue.reembeddings()
    assert (reembedding.state, reembedding.config) == ("filling", {"why": "better"})
    [event] = queue.reembedding_events(reembedding)
    assert (event.event, event.source, event.to_state) == ("started", "sql", "filling")
    assert event.at >= reembedding.started_at
    progress = queue.reembedding_progress(reembedding)
    assert (progress.rows, progress.done, progress.pending) == (1, 0, 0)
    assert progress.eta_seconds == 0
    assert queue.reembedding_usage(reembedding) == []
    docs.execute("update embedding_reembeddings set swapped_at = now()")
    assert [used.model for used in queue.reembedding_usage(reembedding)] == ["test:new"]
    assert [target.role for target in queue.targets()] == ["serving", "shadow"]


def test_a_vector_arrives_to_the_last_bit(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 1536)")
    insert(db, 20)
    random = np.random.default_rng(0)
    sent = {}
    for job in claim(queue):
        # of all sizes that a float has, whose neighbours differ in the last of nine digits
        sent[int(job.record_id)] = np.ldexp(
            random.standard_normal(1536), random.integers(-120, 120, 1536)
        ).astype(np.float32)
        complete(queue, [job], sent[int(job.record_id)])
    stored: dict[int, Any] = dict(rows(db, "select id, embedding::real[] from docs"))
    assert all(np.array_equal(np.float32(stored[key]), vector) for key, vector in sent.items())


# -- the statement timeout of the API's role


@pytest.mark.usefixtures("as_postgrest")
def test_postgrest_understands_a_verification(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 4)
    jobs = claim(queue, 4)
    assert queue.complete("test:model", [Completion(job, vector_of(job), 7) for job in jobs]) == []
    [target] = queue.targets("docs")
    found = {each.finding: each for each in queue.verify(target, None, 3, width=3)}
    assert (found["rows"].found, found["vectors"].found) == (3, 3)
    assert found["rows"].looked_to == "3"
    rest = {each.finding: each for each in queue.verify(target, "3", 3, width=2)}
    assert (rest["rows"].found, rest["wrong_width"].record_ids) == (1, ["4"])
    [stored] = queue.sample_vectors(target, 4, ["2"])
    assert stored.content == "text 2"


@pytest.mark.usefixtures("as_postgrest")
def test_what_takes_longer_than_a_statement_may_is_done_by_halves(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute(
        "create function slow() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.03); return new; end $$"
    )
    docs.execute(
        "create trigger slow before update of embedding on docs"
        " for each row execute function slow()"
    )
    insert(docs, 30)
    jobs = claim(queue)
    docs.execute("set statement_timeout = '400ms'")
    assert complete(queue, jobs) == []
    docs.execute("reset statement_timeout")
    assert value(docs, "select count(*) from docs where embedding is not null") == 30
    assert rows(docs, "select distinct status from embedding_queue") == [("completed",)]


@pytest.mark.usefixtures("as_postgrest")
def test_so_is_a_claim_whose_texts_take_long_to_be_read(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "create function slowly(body text) returns text language plpgsql as"
        " $$ begin perform pg_sleep(0.03); return body; end $$"
    )
    db.execute("select watch_embeddings('docs', 'public.slowly(body)', 'vector', dimensions => 3)")
    insert(db, 30)
    db.execute("set statement_timeout = '400ms'")
    assert 1 <= len(claim(queue, 30)) < 15


# -- what is wrong


@pytest.mark.usefixtures("as_postgrest")
def test_what_the_database_refuses_is_told_with_its_sqlstate(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    queue.fail(claim(queue), "rejected", "it is refused")
    docs.execute("alter table embedding_queue add check (status <> 'pending') not valid")
    with pytest.raises(DatabaseError, match="SQLSTATE 23514") as refused:
        queue.requeue(status="failed")
    assert refused.value.exit_code == 1


def test_a_project_without_the_migrations_is_told_how_to_get_them(
    server: Server, empty_database: str
) -> None:
    with (
        data_api(server.direct_url_of(empty_database)) as project,
        DataApiQueue(project.url, project.secret_key, "tests") as queue,
        pytest.raises(SchemaError) as caught,
    ):
        queue.check_schema()
    assert "supabase db push" in str(caught.value.hint)


def test_a_key_of_another_project_is_told(server: Server, database_url: str) -> None:
    assert server.project
    with (
        DataApiQueue(server.project.url, "sb_secret_of_another_project", "tests") as queue,
        pytest.raises(SettingsError) as caught,
    ):
        queue.check_schema()
    assert "SUPABASE_SERVICE_ROLE_KEY" in str(caught.value.hint)
    assert "sb_secret_of_another_project" not in repr(caught.value)


def test_the_key_for_browsers_is_let_do_nothing(server: Server, database_url: str) -> None:
    assert server.project
    with (
        DataApiQueue(server.project.url, server.project.publishable_key, "tests") as queue,
        pytest.raises(DatabaseError) as caught,
    ):
        queue.claim(SCOPE, 1)
    assert "may not do that" in caught.value.cause
    assert "SUPABASE_SERVICE_ROLE_KEY" in str(caught.value.hint)


def test_a_project_that_does_not_answer_is_told() -> None:
    with (
        DataApiQueue("http://127.0.0.1:9", "sb_secret_x", "tests") as queue,
        pytest.raises(Unreachable) as caught,
    ):
        queue.check_schema()
    assert "SUPABASE_URL" in str(caught.value.hint)


def test_a_table_nobody_has_is_told_as_it_is_over_a_connection(
    docs: Database, queue: AdminQueue
) -> None:
    with pytest.raises(SettingsError, match="there is no table elsewhere"):
        queue.targets("elsewhere")
    assert queue.targets("public.docs", "embedding") == queue.targets("docs")
