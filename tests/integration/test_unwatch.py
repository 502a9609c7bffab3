"""What `unwatch` leaves behind in the schema of the user: nothing but a column that was made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import pytest
from psycopg.sql import SQL, Identifier

from tests.conftest import Database, Server, rows, value
from tests.integration.reembeddings import embed_all as embed_by_model
from tests.integration.reembeddings import make_ready
from tests.integration.tables import embed_all
from worker.operations.session import connected
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue

# Everything in the catalogs about the schema `app`, and all that exists for one target elsewhere.
# Numbers of objects are replaced by names.
CATALOG: LiteralString = """
    with ours as (select oid from pg_namespace where nspname = 'app'),
    class as (select * from pg_class where relnamespace in (select oid from ours)),
    column_of as (
        select concat(attrelid::regclass, '.', attname) as named, pg_attribute.* from pg_attribute
         where attrelid in (select oid from class) and attnum > 0 and not attisdropped
    )
    select 'relation', concat_ws(' ', relname, relkind, reloptions, relacl, relrowsecurity,
                                 relforcerowsecurity, relreplident, relispartition,
                                 relowner::regrole, (select reloptions from pg_class as toast
                                   where toast.oid = class.reltoastrelid)) from class
     union all
    select 'column', concat_ws(' ', named, format_type(atttypid, atttypmod), attnotnull,
                               attidentity, attgenerated, attstorage, attcompression,
                               attstattarget, attoptions, attacl) from column_of
     union all
    select 'default', pg_get_expr(adbin, adrelid) from pg_attrdef
     where adrelid in (select oid from class)
     union all
    select 'trigger', concat(pg_get_triggerdef(oid), tgenabled) from pg_trigger
     where tgrelid in (select oid from class) and not tgisinternal
     union all
    select 'inner trigger', count(*)::text from pg_trigger
     where tgrelid in (select oid from class) and tgisinternal
     union all
    select 'index', concat(pg_get_indexdef(indexrelid), indisvalid, indisclustered, indisreplident)
      from pg_index where indrelid in (select oid from class)
     union all
    select 'constraint', concat(conname, pg_get_constraintdef(oid)) from pg_constraint
     where connamespace in (select oid from ours)
     union all
    select 'function', concat(oid::regprocedure, proacl) from pg_proc
     where pronamespace in (select oid from ours)
     union all
    select 'type', typname from pg_type where typnamespace in (select oid from ours)
     union all
    select 'rule', rulename from pg_rewrite where ev_class in (select oid from class)
     union all
    select 'policy', concat(polname, pg_get_expr(polqual, polrelid)) from pg_policy
     where polrelid in (select oid from class)
     union all
    select 'comment', concat_ws(' ', classoid::regclass, objsubid, description) from pg_description
     where objoid in (select oid from class)
        or objoid in (select oid from pg_proc where pronamespace in (select oid from ours))
     union all
    select 'publication', prrelid::regclass::text from pg_publication_rel
     where prrelid in (select oid from class)
     union all
    select 'statistics', stxname from pg_statistic_ext where stxnamespace in (select oid from ours)
     union all
    select 'grant', concat_ws(' ', nspname, nspacl) from pg_namespace
     where oid in (select oid from ours)
     union all
    select 'default grant', defaclacl::text from pg_default_acl
     union all
    select 'dependency', concat_ws(' ', classid::regclass, deptype, count(*)) from pg_depend
     where refobjid in (select oid from class) group by classid, deptype
     union all
    select 'event trigger', evtname from pg_event_trigger
     union all
    select 'our function', proname from pg_proc
     where pronamespace = 'embedding'::regnamespace and proname ~ '_\\d+$'
     union all
    select 'our row', concat(name, ' ', found)
      from (select 'embedding_targets', count(*) from public.embedding_targets
             union all select 'embedding_queue', count(*) from public.embedding_queue
             union all select 'embedding_checks', count(*) from public.embedding_checks
             union all select 'embedding_reembeddings', count(*) from public.embedding_reembeddings
             union all select 'embedding_counts', coalesce(sum(completed + pending), 0)::bigint
                         from public.embedding_counts) as counted (name, found)
"""


def catalog(db: Database) -> set[tuple[Any, ...]]:
    return set(rows(db, CATALOG))


@pytest.fixture
def app(db: Database) -> Iterator[Database]:
    """A table that has something of every kind."""
    db.execute("create schema app")
    db.execute("create role reader_of_app")
    db.execute(
        "create table app.docs (id bigint generated always as identity primary key, body text,"
        " title text default 'none', views integer not null default 0, made tsvector"
        " generated always as (to_tsvector('simple', coalesce(title, ''))) stored)"
        " with (fillfactor = 90, toast.autovacuum_enabled = false)"
    )
    for statement in OTHERS:
        db.execute(statement)
    yield db
    db.execute("drop schema app cascade")
    db.execute("drop role reader_of_app")


OTHERS: list[LiteralString] = [
    "alter table app.docs alter body set statistics 500, alter body set storage external",
    "create index docs_title on app.docs (title) where views > 0",
    "create statistics app.both (ndistinct) on title, views from app.docs",
    "create function app.touch() returns trigger language plpgsql"
    " as 'begin new.views := new.views + 1; return new; end'",
    "create trigger touch before update of title on app.docs"
    " for each row execute function app.touch()",
    "comment on column app.docs.body is 'what is embedded'",
    "grant usage on schema app to reader_of_app",
    "grant select (id, body) on app.docs to reader_of_app",
    "alter table app.docs enable row level security",
    "create policy readers on app.docs for select to reader_of_app using (views >= 0)",
    "create publication changes for table app.docs",
    "insert into app.docs (body) values ('one'), ('two'), (null)",
]


@pytest.mark.parametrize(
    "options",
    [
        "dimensions => 3",
        "dimensions => 3, match_function => true",
        "dimensions => 3, language => 'english'",
        "dimensions => 3, enhance => 'openai:gpt-4o-mini'",
        "dimensions => 3, store => 'table'",
        "dimensions => 3, store => 'table', match_function => true, language => 'english'",
        "dimensions => 3, chunks => true, context => 'title'",
        "dimensions => 3, chunks => true, match_function => true, language => 'english'",
    ],
)
def test_unwatch_leaves_nothing_but_a_column_that_was_made(
    app: Database, queue: AdminQueue, options: LiteralString
) -> None:
    before = catalog(app)
    app.execute("select public.watch_embeddings('app.docs', 'body', 'embedding', " + options + ")")
    build_index_of_words(app, queue)
    app.execute("insert into app.docs (body) values ('three')")
    made = {kind for kind, _ in catalog(app) - before}
    assert made >= {"trigger", "our function", "our row"}
    assert ("function" in made) == ("match_function" in options)
    if "chunks" not in options and "enhance" not in options:
        assert embed_all(queue) == ["three"]
    assert value(app, "select public.unwatch_embeddings('app.docs', 'embedding')")
    after = catalog(app)
    assert before - after == set()
    if "store" in options or "chunks" in options:
        assert after == before
    else:
        assert {kind for kind, _ in after - before} == {"column"}
        app.execute("alter table app.docs drop column embedding")
        assert catalog(app) == before


def test_a_column_that_was_there_is_as_it_was(app: Database, queue: AdminQueue) -> None:
    app.execute("alter table app.docs add column embedding vector(3)")
    app.execute("create index docs_embedding on app.docs using hnsw (embedding vector_cosine_ops)")
    app.execute("alter table app.docs alter embedding set storage main")
    before = catalog(app)
    app.execute(
        "select public.watch_embeddings('app.docs', 'body', 'embedding',"
        " match_function => true, language => 'english')"
    )
    build_index_of_words(app, queue)
    app.execute("insert into app.docs (body) values ('three')")
    embed_all(queue)
    assert value(app, "select public.unwatch_embeddings('app.docs', 'embedding')")
    assert catalog(app) == before
    kept = "select count(*) from app.docs where embedding is not null"
    assert value(app, kept) == 1


@pytest.mark.parametrize("store", ["column", "table"])
@pytest.mark.parametrize("end", ["cancelled", "finished", "renamed"])
def test_a_re_embedded_column_leaves_only_the_record_of_that(
    app: Database, server: Server, database: str, store: str, end: str
) -> None:
    before = catalog(app)
    app.execute(
        "select public.watch_embeddings('app.docs', 'body', 'embedding', model => 'test:old',"
        " dimensions => 3, match_function => true, language => 'english', store => %s)",
        [store],
    )
    with PostgresQueue(server.direct_url_of(database), "tests") as queue:
        build_index_of_words(app, queue)
        app.execute("insert into app.docs (body) values ('three')")
        embed_by_model(queue)
        target = reembed(queue, end)
        assert queue.unwatch("app.docs", target)
    if store == "column":
        app.execute(SQL("alter table app.docs drop column {}").format(Identifier(target)))
    assert before ^ catalog(app) == {
        ("our row", "embedding_reembeddings 0"),
        ("our row", "embedding_reembeddings 1"),
    }


def reembed(queue: PostgresQueue, end: str) -> str:
    """Re-embed the column to this end. Returns the name of the column that is left."""
    name = ("app.docs", "embedding")
    queue.start_reembedding(*name, "test:new", 4)
    while queue.backfill(queue.target("app.docs", "embedding_2"), 100):
        pass
    embed_by_model(queue)
    if end == "cancelled":
        queue.cancel_reembedding(*name)
        return "embedding"
    make_ready(queue)
    queue.swap_reembedding(*name)
    queue.finish_reembedding(*name)
    if end == "finished":
        return "embedding_2"
    queue.rename_reembedded(*name)
    return "embedding"


def build_index_of_words(db: Database, queue: AdminQueue) -> None:
    [target] = queue.targets()
    own = connected(queue)
    for statement in own.full_text_statements(target):
        own.run_script(statement)
