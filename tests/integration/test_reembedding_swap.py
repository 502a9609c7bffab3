"""Searches and writers around a swap: a query meets its own model, both stores stay in step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration import chunks
from tests.integration.jobs import SCOPE
from tests.integration.reembeddings import (
    NAME,
    NEW,
    OLD,
    are_in_step,
    completion_of,
    create_embedded,
    embed_all,
    fill,
    literal,
    make_ready,
    make_swapped,
    model_vector,
    nearest,
    start,
    stores,
)
from tests.integration.tables import Connect, acting_as, create_role, refusal
from worker.errors import SettingsError
from worker.operations.jobs import requeue
from worker.operations.search import only_target
from worker.operations.session import select
from worker.queue.postgres import PostgresQueue

FIRST_TABLES = {"searched": create_embedded}


@pytest.fixture
def searched(db: Database) -> Database:
    """A table `docs` whose rows have their vectors of the old model."""
    return db


@pytest.fixture(params=["column", "table"])
def ready(request: pytest.FixtureRequest, searched: Database, queue: PostgresQueue) -> Database:
    """The table with both stores filled: old vectors in a column, new ones there or beside it."""
    start(queue, store=request.param)
    fill(queue)
    make_ready(queue)
    return searched


SEARCH: LiteralString = (
    "select content, round((1 - distance)::numeric, 5)::float8"
    " from search_embeddings('docs', 'embedding', %s, 1, model => %s)"
)
MATCH: LiteralString = (
    "select content, round(similarity::numeric, 5)::float8 from match_docs(%s, 1, model => %s)"
)

# -- which vectors a query meets


@pytest.mark.parametrize("search", [SEARCH, MATCH])
def test_a_query_meets_the_vectors_of_the_model_that_it_names(
    ready: Database, queue: PostgresQueue, search: LiteralString
) -> None:
    for take in (
        None,
        queue.swap_reembedding,
        queue.rollback_reembedding,
        queue.cancel_reembedding,
    ):
        if take is not None:
            take(*NAME)
        for model in (OLD, NEW)[: 1 if take == queue.cancel_reembedding else 2]:
            query = literal(model_vector(model, "text 2"))
            assert rows(ready, search, query, model) == [("text 2", 1.0)]


@pytest.mark.parametrize("search", [SEARCH, MATCH])
def test_a_query_of_a_model_that_neither_has_is_refused(
    ready: Database, queue: PostgresQueue, search: LiteralString
) -> None:
    for present, take in ((OLD, None), (NEW, queue.swap_reembedding)):
        if take is not None:
            take(*NAME)
        with pytest.raises(psycopg.Error) as problem:
            ready.execute(search, ["[1,2,3]", "test:third"])
        assert problem.value.diag.message_primary == (
            f"column embedding of table docs holds vectors of {present}, not of test:third"
        )
        assert problem.value.diag.message_hint == f"Embed the query with {present}."


@pytest.mark.parametrize("search", [SEARCH, MATCH])
def test_a_query_without_a_model_meets_the_vectors_of_its_width(
    searched: Database, queue: PostgresQueue, search: LiteralString
) -> None:
    start(queue, 5)
    fill(queue)
    make_ready(queue)
    for take in (None, queue.swap_reembedding, queue.rollback_reembedding):
        if take is not None:
            take(*NAME)
        for model, width in ((OLD, 3), (NEW, 5)):
            query = literal(model_vector(model, "text 2", width))
            assert rows(searched, search, query, None) == [("text 2", 1.0)]
        with pytest.raises(psycopg.Error, match=r"query has 4 dimensions, and those of column"):
            searched.execute(search, ["[1,2,3,4]", None])


@pytest.mark.parametrize("search", [SEARCH, MATCH])
def test_a_query_without_a_model_meets_the_serving_vectors_of_equal_widths(
    ready: Database, queue: PostgresQueue, search: LiteralString
) -> None:
    for model, take in (
        (OLD, None),
        (NEW, queue.swap_reembedding),
        (OLD, queue.rollback_reembedding),
    ):
        if take is not None:
            take(*NAME)
        assert rows(ready, search, literal(model_vector(model, "text 2")), None) == [
            ("text 2", 1.0)
        ]


def test_the_name_of_the_new_column_leads_to_it_alone(
    ready: Database, queue: PostgresQueue
) -> None:
    query = literal(model_vector(NEW, "text 2"))
    call = SEARCH.replace("'embedding'", "'embedding_2'")
    assert rows(ready, call, query, None) == [("text 2", 1.0)]
    with pytest.raises(psycopg.Error, match=f"holds vectors of {NEW}, not of {OLD}"):
        ready.execute(call, [query, OLD])


def test_the_model_of_a_match_function_follows_that_of_the_column(
    docs: Database, queue: PostgresQueue
) -> None:
    """It is recorded with the first vectors, and can be changed by hand."""
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', match_function => true)"
    )
    call: LiteralString = "select * from match_docs('[1,2,3]', model => 'test:third')"
    assert rows(docs, call) == []
    docs.execute("insert into docs values (1, 'one')")
    assert embed_all(queue) == [("test:model", "one")]
    assert "holds vectors of test:model, not of test:third" in refusal(docs, call)[0]
    docs.execute("update embedding_targets set model = 'test:third', document_prompt = null")
    assert rows(docs, call) == []


def test_words_find_the_same_rows_before_and_after(
    searched: Database, queue: PostgresQueue
) -> None:
    searched.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', language => 'english')"
    )
    for statement in queue.full_text_statements(queue.target(*NAME)):
        searched.execute(statement)
    make_swapped(queue)
    index: LiteralString = (
        "select count(*) from pg_class where relname = 'docs_embedding_full_text'"
    )
    words: LiteralString = (
        "select content from match_docs(null, query_text => 'text 2')"
        " union all select content from search_embeddings('docs', 'embedding', null, 1,"
        " query_text => 'text 2')"
    )
    for take in (
        queue.rollback_reembedding,
        queue.swap_reembedding,
        queue.finish_reembedding,
        queue.rename_reembedded,
    ):
        assert rows(searched, words)[0] == rows(searched, words)[-1] == ("text 2",)
        take(*NAME)
        assert queue.full_text_statements(queue.targets("docs", None)[0]) == []
        assert value(searched, index) == 1
    assert queue.unwatch(*NAME)
    assert value(searched, index) == 0


# -- the function of apps


def test_the_match_function_keeps_its_name_its_type_and_its_grants(
    searched: Database, queue: PostgresQueue
) -> None:
    """From vector to halfvec and back, for a role without rights on our schema."""
    create_role(searched, "anon")
    searched.execute("grant select on docs to anon")
    searched.execute("revoke execute on function match_docs from public")
    searched.execute("grant execute on function match_docs to anon")
    known: LiteralString = (
        "select oid, oid::regprocedure::text, proacl::text, obj_description(oid) from pg_proc"
        " where proname ~ '^match_docs'"
    )
    [before] = rows(searched, known)
    queue.start_reembedding(*NAME, NEW, 3, config={"type": "halfvec"})
    fill(queue)
    make_ready(queue)
    steps = (
        queue.swap_reembedding,
        queue.rollback_reembedding,
        queue.swap_reembedding,
        queue.finish_reembedding,
        queue.rename_reembedded,
    )
    for take in steps:
        take(*NAME)
        [after] = rows(searched, known)
        assert after[:3] == before[:3]
        serving = value(searched, "select id from embedding_targets where role = 'serving'")
        assert after[3].startswith(f"Of embedding target {serving}:")
        with acting_as(searched, "anon"):
            for model in (NEW,) if take in steps[3:] else (OLD, NEW):
                assert nearest(searched, model, "text 2") == ("text 2", 1.0)
    queue.start_reembedding(*NAME, OLD, 3, config={"type": "vector"})
    fill(queue)
    make_ready(queue)
    queue.swap_reembedding(*NAME)
    assert nearest(searched, OLD, "text 2") == ("text 2", 1.0)


def test_a_prepared_search_goes_on(ready: Database, queue: PostgresQueue) -> None:
    statement: LiteralString = "select * from match_docs(%s, 1, model => %s)"
    query = [literal(model_vector(OLD, "text 2")), OLD]
    for take in (queue.swap_reembedding, queue.rollback_reembedding, queue.cancel_reembedding):
        for _ in range(7):
            assert ready.execute(statement, query, prepare=True).fetchall()[0][1] == "text 2"
        take(*NAME)
    assert ready.execute(statement, query, prepare=True).fetchall()[0][1] == "text 2"


@pytest.mark.parametrize(
    ("store", "broken_by"),
    [("column", ["start", "finish", "rename"]), ("table", ["finish"])],
)
def test_a_prepared_select_of_all_columns_ends_when_the_columns_change(
    db: Database, queue: PostgresQueue, connect: Connect, store: str, broken_by: list[str]
) -> None:
    """Until its connection is closed. One that names its columns goes on."""
    create_embedded(db)
    steps: dict[str, Callable[[], object]] = {
        "start": lambda: start(queue, store=store),
        "swap": lambda: (fill(queue), make_ready(queue), queue.swap_reembedding(*NAME)),
        "rollback": lambda: queue.rollback_reembedding(*NAME),
        "swap again": lambda: queue.swap_reembedding(*NAME),
        "finish": lambda: queue.finish_reembedding(*NAME),
        "rename": lambda: queue.rename_reembedded(*NAME),
    }
    broken = []
    for name, step in steps.items():
        app = connect()
        statements: list[LiteralString] = ["select * from docs", "select id, body from docs"]
        for statement in statements:
            app.execute(statement, prepare=True)
        step()
        assert len(app.execute(statements[1], prepare=True).fetchall()) == 3
        try:
            app.execute(statements[0], prepare=True)
        except psycopg.errors.FeatureNotSupported:
            broken.append(name)
    assert broken == broken_by


def test_two_sessions_write_the_match_function_in_turns(
    ready: Database, queue: PostgresQueue, connect: Connect
) -> None:
    """It is one for both targets, each of which another session may watch again."""
    first, second = connect(), connect()
    watch: LiteralString = "select watch_embeddings('docs', embedding_column => %s)"
    with ThreadPoolExecutor(1) as pool, first.transaction():
        first.execute(watch, ["embedding"])
        waiting = pool.submit(second.execute, watch, ["embedding_2"])
        blocked = "select cardinality(pg_blocking_pids(%s)) > 0"
        while not value(first, blocked, second.info.backend_pid):
            assert not waiting.done()
        first.execute("commit")
        waiting.result(10)
    assert nearest(ready, NEW, "text 2") == ("text 2", 1.0)


# -- swaps beside searches


def searches(connection: Database, stop: Event, of: LiteralString) -> tuple[int, list[Any]]:
    """Search until told to stop. Returns how often, and each answer that is not the right one."""
    wrong: list[Any] = []
    for number in count():
        model, text = (OLD, NEW)[number % 2], f"text {number % 3 + 1}"
        found = rows(connection, of, literal(model_vector(model, text)), model)
        if found != [(text, 1.0)]:
            wrong.append((model, text, found))
        if stop.is_set():
            return number, wrong
    raise AssertionError


def test_no_search_meets_vectors_of_another_model(
    ready: Database, queue: PostgresQueue, connect: Connect, full: bool
) -> None:
    stop = Event()
    with ThreadPoolExecutor(8) as pool:
        running = [
            pool.submit(searches, connect(), stop, (SEARCH, MATCH)[number % 2])
            for number in range(8)
        ]
        try:
            for _ in range(250 if full else 25):
                queue.swap_reembedding(*NAME)
                queue.rollback_reembedding(*NAME)
        finally:
            stop.set()
        answers = [one.result(30) for one in running]
    assert all(number > 10 for number, _ in answers)
    assert [wrong for _, wrong in answers if wrong] == []


def test_a_search_that_began_before_ends_as_it_began(
    ready: Database, queue: PostgresQueue, connect: Connect
) -> None:
    """From a cursor that is open while the swap commits, and in a snapshot from before."""
    reader = connect()
    query = literal(model_vector(OLD, "text 2"))
    with reader.transaction():
        reader.execute("set transaction isolation level repeatable read")
        reader.execute(
            "declare found cursor for select content, model from embedding_targets,"
            f" match_docs('{query}', 3) where role = 'serving'"
        )
        first = rows(reader, "fetch 1 from found")
        queue.swap_reembedding(*NAME)
        rest = rows(reader, "fetch 2 from found")
        assert [text for text, _ in first] == ["text 2"]
        assert {model for _, model in first + rest} == {OLD}
        assert rows(reader, SEARCH, query, None) == [("text 2", 1.0)]
    assert rows(reader, SEARCH, literal(model_vector(NEW, "text 2")), None) == [("text 2", 1.0)]


HOLDERS: list[LiteralString] = [
    "lock table docs in access exclusive mode",
    "select from docs",
    "lock table docs in access share mode; select from docs",  # as pg_dump does
    "update docs set tenant = 2",
]


@pytest.mark.parametrize("holder", rest_in_full(HOLDERS))
def test_a_swap_waits_for_nobody_who_uses_the_table(
    ready: Database, queue: PostgresQueue, connect: Connect, holder: LiteralString
) -> None:
    other = connect()
    with other.transaction():
        other.execute(holder)
        ready.execute("set lock_timeout = '100ms'")
        for step in ("swap", "rollback", "swap"):
            with ready.transaction():
                ready.execute(f"select {step}_reembedding('docs', 'embedding')")
                assert (
                    value(
                        ready,
                        "select count(*) from pg_locks where pid = pg_backend_pid()"
                        " and relation in (select oid from pg_class where relname ~ '^docs')",
                    )
                    == 0
                )


def test_a_suspended_target_does_not_serve(ready: Database, queue: PostgresQueue) -> None:
    ready.execute("update embedding_targets set problem = 'gone' where role = 'shadow'")
    sentence, hint = refusal(ready, "select swap_reembedding('docs', 'embedding')")
    assert sentence == "column embedding_2 of table docs cannot serve searches: gone"
    assert hint == "Watch it again first."


# -- swaps beside writers and workers

EDITS: list[LiteralString] = [
    "update docs set body = body || '!' where id = 1",
    "delete from docs where id = 2",
    "insert into docs values (2, 'again'), (9, 'new')",
    "update docs set id = id + 100",
    "update docs set id = 1000 - id",
    "update docs set body = null where id = 897",
    "update docs set tenant = 5, body = upper(body), id = id - 890",
    "truncate docs cascade",
]
UNDONE: LiteralString = (
    "select record_id, status from embedding_queue where status not in ('completed', 'skipped')"
    " or record_id not in (select id::text from docs)"
)


@pytest.mark.parametrize("first", ["swap", "rollback"])
def test_both_stores_stay_in_step_through_swap_and_rollback(
    ready: Database, queue: PostgresQueue, first: str
) -> None:
    """After each edit it is swapped or rolled back, and then embedded by both."""
    take = [queue.swap_reembedding, queue.rollback_reembedding]
    if first == "rollback":
        queue.swap_reembedding(*NAME)
        take.reverse()
    for number, edit in enumerate(EDITS):
        ready.execute(edit)
        take[number % 2](*NAME)
        embed_all(queue)
        assert are_in_step(ready)
        assert rows(ready, UNDONE) == []
    assert value(ready, "select count(*) from docs") == 0


def work(queue: PostgresQueue, stop: Event) -> int:
    """Complete jobs until told to stop, and give back those whose table is in use."""
    done = 0
    while not stop.is_set():
        for job in queue.claim(SCOPE, 20).jobs:
            if queue.complete(job.model, [completion_of(job)]):
                queue.release([job])
            else:
                done += 1
    return done


@pytest.fixture
def queues(database_url: str) -> Iterator[list[PostgresQueue]]:
    made = [PostgresQueue(database_url, "tests") for _ in range(4)]
    yield made
    for queue in made:
        queue.__exit__()


@pytest.mark.parametrize("ready", rest_in_full(["column", "table"]), indirect=True)
def test_workers_complete_jobs_of_both_while_it_swaps(
    ready: Database, queue: PostgresQueue, queues: list[PostgresQueue], connect: Connect
) -> None:
    ready.execute("insert into docs select i, 'text ' || i from generate_series(4, 40) as i")
    stop, writer = Event(), connect()
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, one, stop) for one in queues]
        try:
            for number in range(40):
                edit = "update docs set body = body || '.' where mod(id, 7) = %s"
                writer.execute(edit, [number % 7])
                queue.swap_reembedding(*NAME)
                writer.execute("delete from docs where id = %s", [number + 1])
                writer.execute("insert into docs values (%s, 'again')", [number + 1])
                queue.rollback_reembedding(*NAME)
        finally:
            stop.set()
        assert sum(one.result(60) for one in working) > 80
    ready.execute("update embedding_queue set available_at = now() where status = 'pending'")
    embed_all(queue)
    assert rows(ready, "select status, count(*) from embedding_queue group by 1") == [
        ("completed", 80)
    ]
    assert are_in_step(ready)
    assert len(stores(ready)[0][2]) == 40


# -- other tables


@pytest.mark.parametrize(
    ("schema", "table", "column"),
    [
        ("public", "docs", "embedding"),
        ("My-Schema", 'we"ird', "Vec tor"),
        ("app", "n" * 63, "c" * 63),
        ("public", "ü" * 31, "ö" * 31),
    ],
)
def test_a_table_of_any_name_and_a_key_of_two_columns(
    db: Database, queue: PostgresQueue, schema: str, table: str, column: str
) -> None:
    relation = sql.Identifier(schema, table)
    db.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    db.execute(
        sql.SQL(
            'create table {} ("Key" text, b numeric(4, 1), body text, primary key (b, "Key"))'
        ).format(relation)
    )
    name = value(
        db,
        "select table_name from watch_embeddings(%s::regclass, 'body', %s, model => %s,"
        " dimensions => 3, match_function => true)",
        relation.as_string(),
        column,
        OLD,
    )
    queue.start_reembedding(relation.as_string(), column, NEW, 3)
    db.execute(
        sql.SQL("insert into {} values ('a,b', 1, 'one'), ('x', 2.0, 'two')").format(relation)
    )
    assert len(embed_all(queue)) == 4
    [routine] = rows(db, "select routine::text from embedding.match_functions()")
    call: Any = (
        f'select "Key", content from {routine[0].split("(")[0]}'
        f"('{literal(model_vector(NEW, 'two'))}', 1, model => '{NEW}')"
    )
    for stage in ("indexing", "verifying", "ready"):
        [open_] = queue.reembeddings()
        queue.advance_reembedding(open_, stage)
    for take in (
        queue.swap_reembedding,
        queue.rollback_reembedding,
        queue.swap_reembedding,
        queue.finish_reembedding,
        queue.rename_reembedded,
    ):
        assert rows(db, call) == [("x", "two")]
        take(name, column)
    assert rows(db, call) == [("x", "two")]
    assert value(db, "select embedding_column from embedding_targets") == column


def test_texts_in_chunks(db: Database, queue: PostgresQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text, tenant integer default 1)")
    db.execute("insert into docs values (1, 'One. Two.'), (2, 'Three.')")
    db.execute(
        "select watch_embeddings('docs', 'body', model => %s, dimensions => 3, chunks => true,"
        " language => 'english', filter => 'tenant = 1', match_function => true)",
        [OLD],
    )
    db.execute("select backfill_embeddings('docs', 'embedding')")
    embed_with_models(db)
    start(queue, 4)
    db.execute("select backfill_embeddings('docs', 'embedding_2')")
    embed_with_models(db)
    for statement in queue.full_text_statements(queue.target("docs", "embedding_2")):
        db.execute(statement)
    make_ready(queue)
    for take in (
        queue.swap_reembedding,
        queue.rollback_reembedding,
        queue.swap_reembedding,
        queue.finish_reembedding,
        queue.rename_reembedded,
    ):
        take(*NAME)
        db.execute("update docs set body = body || ' And more.' where id = 2")
        embed_with_models(db)
        ended = take in (queue.finish_reembedding, queue.rename_reembedded)
        for model, width in ((NEW, 4),) if ended else ((OLD, 3), (NEW, 4)):
            query = literal(model_vector(model, "Two.", width))
            assert rows(db, MATCH, query, model) == [("Two.", 1.0)]
            assert rows(db, MATCH, query, None) == [("Two.", 1.0)]
            assert rows(db, SEARCH, query, model) == [("Two.", 1.0)]
        assert value(db, "select content from match_docs(null, query_text => 'three')") == "Three. "
    assert (
        value(
            db, "select string_agg(content, '' order by position) from docs_passages where id = 1"
        )
        == "One. Two."
    )
    assert (
        value(
            db,
            "select count(*) from pg_class where relname ~ 'embedding_2' and relkind in ('r', 'v')",
        )
        == 0
    )
    assert queue.full_text_statements(queue.target(*NAME)) == []


def embed_with_models(db: Database) -> None:
    """Embed texts in chunks, by the model of each target."""
    while documents := chunks.claim(db, 1):
        [document] = documents
        [(model, width)] = rows(
            db,
            "select target.model, target.dimensions from embedding_targets as target"
            " join embedding_queue as job on job.target_id = target.id where job.id = %s",
            document.id,
        )
        texts = [chunk.content for chunk in document.unstored]
        made = {text: str(model_vector(model, text.rstrip(), width)) for text in texts}
        pairs = [(document, chunk) for chunk in document.unstored]
        assert chunks.stage_all(db, pairs, made, model) == []
        assert chunks.complete(db, document, model=model) == []


# -- by the name that people give the column


def test_the_commands_know_the_named_column(searched: Database, queue: PostgresQueue) -> None:
    """The new column has its own name until it is renamed, and people go on using the old one."""
    make_swapped(queue)
    assert only_target(queue, "docs", "embedding").embedding_column == "embedding_2"
    assert only_target(queue, "docs", None).embedding_column == "embedding_2"
    queue.rollback_reembedding(*NAME)
    assert only_target(queue, "docs", "embedding").embedding_column == "embedding"
    assert only_target(queue, "docs", "embedding_2").embedding_column == "embedding_2"
    queue.swap_reembedding(*NAME)
    queue.finish_reembedding(*NAME)
    selection = select(queue, "docs", "embedding")
    assert (selection.table, selection.column) == ("docs", "embedding_2")
    assert requeue(queue, status=None, table="docs", column="embedding") == 3
    with pytest.raises(SettingsError, match="column other of table docs is not watched"):
        only_target(queue, "docs", "other")
    assert queue.unwatch("docs", "embedding")
    assert value(searched, "select count(*) from embedding_targets") == 0
