"""Which tables, columns and names can be watched, and what is said of those that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest

from tests.conftest import Database, migrate, rest_in_full, rows, value
from tests.integration.jobs import claim
from tests.integration.tables import (
    Connect,
    Table,
    embed,
    embed_all,
    jobs,
    parsed,
    refusal,
    vector_of,
    vectors,
)
from worker.errors import SettingsError
from worker.queue.postgres import PostgresQueue

TRIGGERS: LiteralString = (
    "select tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal"
    " and tgrelid::regclass::text !~ '^embedding_' order by 1, 2"
)
TRIGGER_FUNCTIONS: LiteralString = (
    "select exists (select from pg_proc where oid::regproc::text ~ '^embedding.trigger_[0-9]')"
)

# -- keys

AWKWARD_TEXTS = [
    "plain",
    "",
    " ",
    "O'Brien",
    'say "hi"',
    "a,b",
    "back\\slash",
    "new\nline",
    "100%s",
    "{braces}",
    '["1", 2]',
    "null",
    "ünïcödé ☃ 漢字 🦜",
]


@pytest.mark.parametrize(
    ("key_type", "keys"),
    rest_in_full(
        [
            (
                "uuid",
                ["6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b", "6EC0BD7F-11C0-43DA-975E-2A8AD9EBAE0C"],
            ),
            ("bigint", ["-9223372036854775808", "0", "9223372036854775807"]),
            ("integer", ["-2147483648", "7", "2147483647"]),
            ("smallint", ["-1", "1"]),
            ("numeric", ["1.50", "-0.001", "12345678901234567890.1"]),
            ("boolean", ["true", "false"]),
            ("varchar(40)", AWKWARD_TEXTS),
            ("text", AWKWARD_TEXTS),
        ],
        first=4,
    ),
)
def test_a_row_is_found_by_its_key(
    db: Database, queue: PostgresQueue, key_type: LiteralString, keys: list[str]
) -> None:
    table = Table(db)
    table.create(key_type)
    table.watch()
    for key in keys:
        table.insert(key, f"text of {key}")
    assert embed_all(queue) == sorted(f"text of {key}" for key in keys)
    for key in keys:
        assert table.stored(key) == vector_of(f"text of {key}")
        table.edit(key, f"new text of {key}")
        assert embed_all(queue) == [f"new text of {key}"]
        table.delete(key)
    assert jobs(db) == []


def test_a_row_is_found_by_a_composite_key(db: Database, queue: PostgresQueue) -> None:
    db.execute(
        "create table parts (amount numeric, body text, owner uuid, name text, flag boolean,"
        " place bigint, primary key (name, place, owner, flag, amount))"
    )
    db.execute("select watch_embeddings('parts', 'body', 'embedding', dimensions => 3)")
    owner = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"
    for place, name in enumerate(AWKWARD_TEXTS):
        db.execute(
            "insert into parts values (%s, %s, %s, %s, %s, %s)",
            [f"{place}.50", f"text {place}", owner, name, place % 2 == 0, 2**62 + place],
        )
    assert len(embed_all(queue)) == len(AWKWARD_TEXTS)
    assert vectors(db, "select body, embedding::text from parts") == {
        f"text {place}": vector_of(f"text {place}") for place in range(len(AWKWARD_TEXTS))
    }
    assert value(
        db,
        "select record_id::jsonb = jsonb_build_array('O''Brien', 4611686018427387907,"
        " owner, false, 3.50) from embedding_queue, parts"
        " where parts.name = 'O''Brien' and record_id like '%Brien%'",
    )
    db.execute("delete from parts")
    assert jobs(db) == []


# Values that two sessions could write in two ways, or that are at the end of what a type holds.
EXTREMES: dict[LiteralString, list[str]] = {
    "timestamptz": [
        "2024-02-03 04:05:06.123456+00",
        "2024-10-27 02:30:00+02",
        "2024-10-27 02:30:00+01",
        "1883-11-18 12:03:57-04:56:02",
        "0001-01-01 00:00:00+00",
        "0044-03-15 00:00:00.000001+00 BC",
        "4714-11-24 00:00:00+00 BC",
        "99999-12-31 23:59:59.999999+00",
        "294276-12-31 23:59:59.999999+00",
        "infinity",
        "-infinity",
    ],
    "timestamp": [
        "2024-02-03 04:05:06.123456",
        "1999-12-31 24:00:00",
        "4714-11-24 00:00:00 BC",
        "294276-12-31 23:59:59.999999",
        "infinity",
        "-infinity",
    ],
    "date": ["2024-02-03", "4714-11-24 BC", "5874897-12-31", "infinity", "-infinity"],
    "time": ["00:00:00", "04:05:06.000001", "24:00:00"],
    "timetz": ["04:05:06+02", "02:05:06+00", "00:00:00+15:59:59", "24:00:00-15:59:59"],
    "bytea": [r"\x", r"\x00", r"\xff5c27", r"\x2720"],
}
SESSIONS: list[LiteralString] = [
    "set datestyle = 'German, DMY'; set timezone = 'America/St_Johns'; set bytea_output = 'escape'",
    "set datestyle = 'SQL, DMY'; set timezone = 'Europe/Vienna'; set intervalstyle = 'iso_8601'",
    "set datestyle = 'Postgres, MDY'; set timezone = 'Asia/Kathmandu'",
    "set datestyle = 'ISO, YMD'; set timezone = '+13:45'; set bytea_output = 'hex'",
]


@pytest.mark.parametrize("composite", [False, True], ids=["alone", "composite"])
@pytest.mark.parametrize("key_type", rest_in_full(EXTREMES, first=4))
def test_a_key_is_written_and_read_the_same_by_every_session(
    db: Database, queue: PostgresQueue, key_type: LiteralString, composite: bool
) -> None:
    db.execute(
        "create domain moment as " + key_type + "; create table docs (id bigint, at moment,"
        " body text, primary key (" + ("id, at" if composite else "at") + "))"
    )
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    keys = EXTREMES[key_type]
    for place, key in enumerate(keys):
        db.execute("insert into docs values (%s, %s, %s)", [place, key, f"text {place}"])
        db.execute(SESSIONS[place % len(SESSIONS)])
        db.execute("update docs set body = body || ' edited' where id = %s", [place])
    assert len(jobs(db)) == len(keys)
    matched = value(
        db,
        "select format('select %s = eq_record and (%s) from docs, embedding_queue as job,"
        " lateral (select job.record_id as eq_record) as eq_job where %2$s', record_id_sql,"
        " record_match_sql) from embedding_targets",
    )
    for session in SESSIONS:
        db.execute(session)
        assert rows(db, matched) == [(True,)] * len(keys), session
    assert len(embed_all(queue)) == len(keys)
    assert vectors(db, "select body, embedding::text from docs") == {
        f"text {place} edited": vector_of(f"text {place} edited") for place in range(len(keys))
    }

    db.execute("delete from embedding_queue; update docs set embedding = null")
    for session in SESSIONS * len(keys):
        db.execute(session)
        db.execute("select backfill_embeddings('docs', 'embedding', 1)")
    assert len(jobs(db)) == len(keys)
    db.execute(SESSIONS[0])
    db.execute("delete from docs")
    assert jobs(db) == []


def test_a_table_partitioned_by_time_is_kept_in_step(db: Database, queue: PostgresQueue) -> None:
    db.execute(
        "create table events (id bigint, created_at timestamptz, body text,"
        " primary key (id, created_at)) partition by range (created_at)"
    )
    for month in (1, 2, 3):
        first, next_first = (f"2024-{number:02}-01 00:00+00" for number in (month, month + 1))
        db.execute(
            f"create table events_{month} partition of events"
            f" for values from ('{first}') to ('{next_first}')".encode()
        )
    db.execute("select watch_embeddings('events', 'body', 'embedding', dimensions => 3)")
    for session in SESSIONS:
        db.execute(session)
        db.execute(
            "insert into events select i, timestamptz '2024-01-01 12:00:00.5+00'"
            " + i * interval '8 days', 'event ' || i from generate_series(1, 9) i"
        )
        assert len(embed_all(queue)) == 9
        db.execute(
            "update events set body = 'edited', created_at = created_at + interval '1 month'"
            " where id = 1"
        )
        assert embed_all(queue) == ["edited"]
        assert value(db, "select count(embedding) from events") == 9
        db.execute("delete from events")
        assert jobs(db) == []
    db.execute("insert into events values (7, '2024-02-03 04:05:06.7+00', 'event 7')")
    assert jobs(db) == [('[7, "2024-02-03T04:05:06.7"]', "pending")]


def test_the_primary_key_finds_the_row_of_a_time(db: Database) -> None:
    db.execute(
        "create table events (id bigint, created_at timestamptz, body text,"
        " primary key (created_at, id))"
    )
    db.execute("select watch_embeddings('events', 'body', 'embedding', dimensions => 3)")
    db.execute(
        "insert into events select i, now() + i * interval '1 s' from generate_series(1, 9999) i"
    )
    db.execute("analyze events")
    match = value(db, "select record_match_sql from embedding_targets")
    plan = db.execute(
        "explain select body from (select record_id as eq_record from embedding_queue"
        f" where id = any ('{{1,2,3}}')) as eq_job join events on {match}".encode()
    ).fetchall()
    assert any("Index Cond: ((created_at = " in line and "(id = " in line for (line,) in plan), plan


def test_an_enumeration_can_be_a_key(db: Database, queue: PostgresQueue) -> None:
    db.execute("create type size as enum ('small', 'it''s big')")
    table = Table(db)
    table.create("size")
    table.watch()
    table.is_kept_in_step(queue, "it's big")


# -- sources


@pytest.fixture
def articles(db: Database) -> Database:
    """Articles, with a function over the whole row in a schema of its own."""
    db.execute(
        "create table articles (id bigint primary key, title text, body text,"
        ' "Long Title" text, tags text[], stars integer,'
        " summary text generated always as (title || ': ' || body) stored)"
    )
    db.execute("create schema app")
    db.execute(
        "create function app.describe(articles) returns text stable language sql"
        " return $1.title || ' in ' || coalesce($1.stars, 0) || ' stars'"
    )
    return db


SOURCES = [
    ("title", "Moles"),
    ("Long Title", "On Moles"),
    ('"Long Title"', "On Moles"),
    ("TITLE", "Moles"),
    ("title, body", "Moles\n\nThey dig."),
    ("title,body", "Moles\n\nThey dig."),
    ("Title, Body", "Moles\n\nThey dig."),
    ('title, "Long Title", body', "Moles\n\nOn Moles\n\nThey dig."),
    ("stars, title", "5\n\nMoles"),
    ("stars", "5"),
    ("summary", "Moles: They dig."),
    ("upper(title)", "MOLES"),
    ("upper(title), body", "MOLES\n\nThey dig."),
    ("'# ' || title, coalesce(summary, body), stars", "# Moles\n\nMoles: They dig.\n\n5"),
    ("title || ', ' || body", "Moles, They dig."),
    ("format('%s (%s%%)', title, stars)", "Moles (5%)"),
    ("array_to_string(tags, ' ')", "dig dark"),
    ("regexp_replace(body, '.*They ', '')", "dig."),
    ("articles.title", "Moles"),
    ("(select max(tag) from unnest(tags) as tag)", "dig"),
    ("app.describe(articles)", "Moles in 5 stars"),
]


def test_the_text_of_a_row_is_what_the_source_says(
    articles: Database, queue: PostgresQueue
) -> None:
    for source, text in SOURCES:
        queue.watch("articles", source, "embedding", dimensions=3)
        articles.execute("truncate articles")
        articles.execute(
            "insert into articles values (1, 'Moles', 'They dig.', 'On Moles', '{dig,dark}', 5)"
        )
        assert (source, embed_all(queue)) == (source, [text])


def test_columns_that_are_null_are_left_out(articles: Database, queue: PostgresQueue) -> None:
    articles.execute(
        "select watch_embeddings('articles', 'title, body, stars', 'embedding', dimensions => 3)"
    )
    articles.execute("insert into articles (id, title, stars) values (1, 'Moles', 5), (2, null, 4)")
    articles.execute("insert into articles (id) values (3)")
    assert embed_all(queue) == ["4", "Moles\n\n5"]
    assert jobs(articles) == [("1", "completed"), ("2", "completed"), ("3", "skipped")]


@pytest.mark.parametrize(
    ("source", "change", "enqueues"),
    rest_in_full(
        [
            ("title, body", "body = 'They swim.'", True),
            ("title, body", "stars = 1", False),
            ("summary", "body = 'They swim.'", True),
            ("summary", "stars = 1", False),
            ("app.describe(articles)", "stars = 1", True),
            ("app.describe(articles)", "embedding = '[1,2,3]'", False),
            ("regexp_replace(body, '.*They ', '')", "stars = 1", False),
            ("(select string_agg(tag, '') from unnest(tags) as tag)", "tags = '{}'", True),
        ],
        first=4,
    ),
)
def test_an_edit_of_what_the_source_reads_is_an_edit_of_the_text(
    articles: Database,
    queue: PostgresQueue,
    source: str,
    change: LiteralString,
    enqueues: bool,
) -> None:
    articles.execute(
        "select watch_embeddings('articles', %s, 'embedding', dimensions => 3)", [source]
    )
    articles.execute(
        "insert into articles values (1, 'Moles', 'They dig.', 'On Moles', '{dig}', 5)"
    )
    embed_all(queue)
    articles.execute("update articles set " + change)
    assert jobs(articles) == [("1", "pending" if enqueues else "completed")]


@pytest.mark.parametrize("stored", ["stored", "virtual"])
def test_an_edit_of_what_a_generated_column_is_made_from_is_an_edit_of_it(
    db: Database, queue: PostgresQueue, stored: LiteralString
) -> None:
    if stored == "virtual" and db.info.server_version < 180000:
        stored = "stored"  # the other kind is there since Postgres 18
    db.execute(
        "create table pages (id bigint primary key, body text, views integer,"
        " shouted text generated always as (upper(body)) " + stored + ")"
    )
    db.execute(
        "select watch_embeddings('pages', 'shouted', 'embedding', dimensions => 3,"
        " on_change => 'clear')"
    )
    db.execute("insert into pages values (1, 'quiet', 0)")
    assert embed_all(queue) == ["QUIET"]
    db.execute("update pages set views = 1")
    assert jobs(db) == [("1", "completed")]
    db.execute("update pages set body = 'silent'")
    assert value(db, "select embedding from pages") is None
    assert embed_all(queue) == ["SILENT"]


# -- columns and tables


@pytest.mark.parametrize(
    ("column_type", "dimensions"), [("vector(3)", 3), ("halfvec(3)", 3), ("vector", None)]
)
def test_every_kind_of_vector_column_can_be_watched(
    db: Database, queue: PostgresQueue, column_type: LiteralString, dimensions: int | None
) -> None:
    table = Table(db)
    table.create()
    db.execute("alter table docs add column embedding " + column_type)
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert queue.targets()[0].dimensions == dimensions
    table.is_kept_in_step(queue)


@pytest.mark.parametrize(
    ("dimensions", "column_type"),
    [(1, "vector(1)"), (2000, "vector(2000)"), (2001, "halfvec(2001)"), (4000, "halfvec(4000)")],
)
def test_a_missing_column_is_added_if_its_dimensions_are_given(
    db: Database, queue: PostgresQueue, dimensions: int, column_type: str
) -> None:
    Table(db).create()
    target = queue.watch("docs", "body", "embedding", dimensions=dimensions)
    assert target.dimensions == dimensions
    assert column_type == value(
        db,
        "select format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'docs'::regclass and attname = 'embedding'",
    )
    db.execute("insert into docs values (1, 'text')")
    embed_all(queue)
    stored = parsed(value(db, "select embedding::text from docs"))
    assert stored == vector_of("text", dimensions)


@pytest.mark.parametrize(
    ("names", "watched_name"),
    rest_in_full(
        [
            ({}, "docs"),
            ({"schema": "app"}, "app.docs"),
            ({"name": "Weird Table"}, '"Weird Table"'),
            (
                {
                    "schema": "My-Schema",
                    "name": "Weird Table",
                    "key": "Id",
                    "text": "Text Col",
                    "vector": "Emb Col",
                },
                '"My-Schema"."Weird Table"',
            ),
            (
                {"name": "order", "key": "select", "text": "from", "vector": "where"},
                '"order"',
            ),
            ({"name": "user", "key": "new", "text": "old", "vector": "changed"}, '"user"'),
            (
                {"schema": "it's", "name": "o'brien's", "key": "'", "text": "''", "vector": "'x'"},
                '"it\'s"."o\'brien\'s"',
            ),
            (
                {"name": "100%", "key": "%s", "text": "%1$s%I", "vector": "%%"},
                '"100%"',
            ),
            ({"name": 'say "hi"', "key": '"', "text": 'a"b', "vector": '""'}, '"say ""hi"""'),
            (
                {"schema": "a.b", "name": "c.d", "key": "e.f", "text": "g.h", "vector": "i.j"},
                '"a.b"."c.d"',
            ),
            ({"name": "b\\s", "key": "\\", "text": "\\n", "vector": "$1"}, '"b\\s"'),
            ({"name": "a,b", "key": "c,d", "vector": "(g)"}, '"a,b"'),
            (
                {"schema": "größe", "name": "表", "key": "🦜", "text": "tëxt", "vector": "вектор"},
                '"größe"."表"',
            ),
            # as in the queue's own tables and statements
            ({"name": "content", "key": "id", "text": "content", "vector": "lease"}, "content"),
            ({"name": "job", "key": "record_id", "text": "status", "vector": "job"}, "job"),
            ({"name": "target", "key": "target", "text": "id", "vector": "eq"}, "target"),
            ({"name": "ids", "key": "table_name", "text": "source", "vector": "ids"}, "ids"),
            ({"name": "one", "key": "eq", "text": "model", "vector": "vectors"}, "one"),
            ({"name": "eq", "key": "hashes", "text": "filter", "vector": "relation"}, "eq"),
        ],
        first=6,
    ),
)
def test_every_name_can_be_watched(
    db: Database, queue: PostgresQueue, names: dict[str, str], watched_name: str
) -> None:
    table = Table(db, **names)
    table.create()
    assert table.watch() == watched_name
    table.is_kept_in_step(queue)
    table.insert(2, "text")
    assert queue.backfill(queue.target(watched_name, table.vector), 10) == 0
    assert queue.unwatch(watched_name, table.vector)
    assert jobs(db) == []


def test_tables_of_one_name_in_two_schemas_are_two_targets(
    db: Database, queue: PostgresQueue
) -> None:
    for table in (Table(db), Table(db, "app"), Table(db, name="app.docs")):
        table.create()
        table.watch()
        table.insert(1, f"in {table.schema}, {table.name}")
    assert rows(db, "select table_name from embedding_targets order by id") == [
        ("docs",),
        ("app.docs",),
        ('"app.docs"',),
    ]
    assert embed_all(queue) == ["in app, docs", "in public, app.docs", "in public, docs"]


@pytest.mark.parametrize("schema", ["public", "extensions"])
def test_pgvector_may_live_in_either_schema(
    empty_db: Database, empty_database_url: str, schema: LiteralString
) -> None:
    migrate(empty_database_url, *(["create schema extensions"] if schema == "extensions" else []))
    assert schema == value(
        empty_db,
        "select extnamespace::regnamespace::text from pg_extension where extname = 'vector'",
    )
    with PostgresQueue(empty_database_url, "tests") as queue:
        for name, width in (("docs", 3), ("wide_docs", 2001)):
            table = Table(empty_db, name=name)
            table.create()
            table.watch(width)
            table.insert(1, "text")
            assert embed_all(queue) == ["text"]
            assert table.stored(1) == vector_of("text", width)


def test_an_extension_that_is_there_stays_where_it_is(
    empty_db: Database, empty_database_url: str
) -> None:
    migrate(
        empty_database_url,
        "create schema extensions",
        "create schema elsewhere",
        "create extension vector schema elsewhere",
    )
    table = Table(empty_db)
    table.create()
    table.watch()
    with PostgresQueue(empty_database_url, "tests") as queue:
        table.is_kept_in_step(queue)


def test_every_partition_is_watched(db: Database, queue: PostgresQueue) -> None:
    db.execute(
        "create table events (area text, id bigint, body text, primary key (area, id))"
        " partition by list (area)"
    )
    db.execute("create table events_north partition of events for values in ('north')")
    db.execute("create table events_other partition of events default")
    db.execute("select watch_embeddings('events', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into events values ('north', 1, 'one'), ('south', 2, 'two')")
    db.execute("insert into events_north values ('north', 3, 'straight into the partition')")
    db.execute("create table events_west partition of events for values in ('west')")
    db.execute("insert into events values ('west', 4, 'four')")
    assert embed_all(queue) == ["four", "one", "straight into the partition", "two"]

    db.execute("update events_other set body = 'two, edited' where id = 2")
    assert embed_all(queue) == ["two, edited"]
    db.execute("update events set area = 'west', body = 'one, moved' where id = 1")
    assert embed_all(queue) == ["one, moved"]
    assert vectors(db, "select body, embedding::text from events") == {
        body: vector_of(body)
        for body in ("one, moved", "two, edited", "straight into the partition", "four")
    }
    db.execute("delete from events_north")
    db.execute("delete from events where id = 2")
    assert {record for record, _ in jobs(db)} == {'["west", 1]', '["west", 4]'}
    db.execute("truncate events")
    assert jobs(db) == []


def test_two_columns_of_one_table_are_kept_apart(articles: Database, queue: PostgresQueue) -> None:
    articles.execute(
        "select watch_embeddings('articles', 'title', 'title_embedding', dimensions => 3),"
        " watch_embeddings('articles', 'body', 'body_embedding', dimensions => 4,"
        " on_change => 'clear')"
    )
    articles.execute("insert into articles values (1, 'Moles', 'They dig.')")
    assert embed_all(queue) == ["Moles", "They dig."]
    articles.execute("update articles set body = 'They swim.'")
    [job] = claim(queue)
    assert (job.embedding_column, job.content) == ("body_embedding", "They swim.")
    assert rows(articles, "select title_embedding::text, body_embedding from articles") == [
        (str([int(number) for number in vector_of("Moles")]).replace(" ", ""), None)
    ]
    assert embed(queue, [job]) == []

    assert queue.unwatch("articles", "title_embedding")
    articles.execute("update articles set title = 'Voles', body = 'They run.'")
    assert embed_all(queue) == ["They run."]


# -- what is wrong


@pytest.fixture
def misfits(db: Database) -> Iterator[Database]:
    """Tables that cannot be watched, or not in the way that is tried."""
    yield db
    assert value(db, "select count(*) from embedding_targets") == 0
    assert rows(db, TRIGGERS) == []
    assert not value(db, TRIGGER_FUNCTIONS)


DOCS: LiteralString = "create table docs (id bigint primary key, body text)"
VECTORS: LiteralString = (
    "create table docs (id bigint primary key, body text, embedding vector(3),"
    " width integer generated always as (vector_dims(embedding)) stored)"
)
OTHER_KEY = (
    "Use a key of uuid, integer, bigint, text, numeric, boolean, enum, date, time, timestamp or"
    " bytea columns."
)
WIDTHS = (
    "Give a number from 1 to 4000, to which the model can shorten its vectors (on the command line:"
    " --dimensions)."
)
NOT_A_VECTOR = "The embedding column must be of type vector(n) or halfvec(n)."
NOT_ITSELF = "The source and the filter must not read the embedding column."
RESERVED = "The statements of the queue use names that begin with eq_. Rename yours."
EXPRESSION = (
    "Give column names, or an SQL expression over one row with functions outside pg_catalog"
    " qualified by their schema."
)


@pytest.mark.parametrize(
    ("table", "arguments", "sentence", "hint"),
    [
        pytest.param(
            "create table docs (body text, embedding vector(3))",
            "'docs', 'body', 'embedding'",
            "table docs has no primary key",
            "Give it one: alter table public.docs add primary key (...).",
            id="no primary key",
        ),
        pytest.param(
            "create view docs as select 1 as id, 'x' as body",
            "'docs', 'body', 'embedding', dimensions => 3",
            "public.docs is a view and not a table",
            "Watch the table that holds the rows.",
            id="a view",
        ),
        pytest.param(
            DOCS,
            "'docs', 'body', 'embedding'",
            "table docs has no column embedding",
            "Add it: alter table public.docs add column embedding vector(...),"
            " or give its dimensions here (on the command line: --create-column).",
            id="no such column",
        ),
        pytest.param(
            DOCS,
            "'docs', 'body', 'embedding', dimensions => 0",
            "a vector column cannot have 0 dimensions",
            WIDTHS,
            id="no dimensions",
        ),
        pytest.param(
            DOCS,
            "'docs', 'body', 'embedding', dimensions => 4001",
            "a vector column cannot have 4001 dimensions",
            WIDTHS,
            id="too many dimensions",
        ),
        pytest.param(
            DOCS,
            "'docs', 'body', 'body'",
            "column body cannot be made from itself",
            NOT_ITSELF,
            id="the text itself",
        ),
        pytest.param(
            DOCS,
            "'docs', 'body', 'id'",
            "column id of table docs is of type bigint, not a vector",
            NOT_A_VECTOR,
            id="not a vector",
        ),
        pytest.param(
            "create table docs (id bigint primary key, body text, embedding sparsevec(3))",
            "'docs', 'body', 'embedding'",
            "column embedding of table docs is of type public.sparsevec, not a vector",
            NOT_A_VECTOR,
            id="another kind of vector",
        ),
        pytest.param(
            VECTORS,
            "'docs', 'body', 'embedding', dimensions => 4",
            "column embedding holds 3 dimensions, not 4",
            "Leave out the dimensions to watch it as it is, or watch another column.",
            id="another width",
        ),
        pytest.param(
            VECTORS,
            "'docs', 'embedding', 'embedding'",
            "column embedding cannot be made from itself",
            NOT_ITSELF,
            id="source is the vector",
        ),
        pytest.param(
            VECTORS,
            "'docs', 'docs::text || embedding::text', 'embedding'",
            "column embedding cannot be made from itself",
            NOT_ITSELF,
            id="source is the row and the vector",
        ),
        pytest.param(
            VECTORS,
            "'docs', 'width', 'embedding'",
            "column embedding cannot be made from itself",
            NOT_ITSELF,
            id="source is generated from the vector",
        ),
        pytest.param(
            VECTORS,
            "'docs', 'body', 'embedding', filter => 'embedding is null'",
            "column embedding cannot be made from itself",
            NOT_ITSELF,
            id="filter reads the vector",
        ),
        pytest.param(
            "create table docs (id bigint primary key, eq_record text)",
            "'docs', 'eq_record', 'embedding', dimensions => 3",
            "table docs cannot be watched under the name eq_record",
            RESERVED,
            id="a column of a reserved name",
        ),
        pytest.param(
            "create table eq_job (id bigint primary key, body text)",
            "'eq_job', 'body', 'embedding', dimensions => 3",
            "table eq_job cannot be watched under the name eq_job",
            RESERVED,
            id="a table of a reserved name",
        ),
    ],
)
def test_what_cannot_be_watched_is_refused_in_a_sentence_with_a_hint(
    misfits: Database,
    table: LiteralString,
    arguments: LiteralString,
    sentence: str,
    hint: str,
) -> None:
    misfits.execute(table)
    assert refusal(misfits, f"select watch_embeddings({arguments})") == (sentence, hint)


def test_a_key_without_one_text_form_is_refused(misfits: Database) -> None:
    misfits.execute("create domain ratio as real")
    key_types: list[LiteralString] = [
        "interval",
        "double precision",
        "regclass",
        "money",
        "integer[]",
        "daterange",
        "ratio",
    ]
    for key_type in key_types:
        misfits.execute("drop table if exists docs")
        Table(misfits).create(key_type)
        sentence, hint = refusal(
            misfits, "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)"
        )
        assert sentence.startswith("table docs has a primary key column without one text form: id")
        assert hint == OTHER_KEY


NO_SQL_OVER_ONE_ROW = [
    ("missing", None, 'column "missing" does not exist'),
    ("body, missing", None, 'column "missing" does not exist'),
    ("body ||", None, "syntax error"),
    ("", None, "syntax error"),
    ("no_such_function(body)", None, "function no_such_function(text) does not exist"),
    ("nowhere.describe(body)", None, 'schema "nowhere" does not exist'),
    ("body::no_such_type", None, 'type "no_such_type" does not exist'),
    ("views + 'one'", None, 'invalid input syntax for type integer: "one"'),
    ("string_agg(body, ' ')", None, "aggregate functions are not allowed in WHERE"),
    ("row_number() over ()", None, "window functions are not allowed in WHERE"),
    ("unnest(array[body])", None, "set-returning functions are not allowed in WHERE"),
    ("lower(body), missing", None, 'column "missing" does not exist'),
    ("lower(body),", None, "syntax error"),
    ("body", "missing is null", 'column "missing" does not exist'),
    ("body", "views is null; drop table docs", "syntax error"),
    ("body", "views", "argument of AND must be type boolean"),
]


def test_a_source_or_filter_that_is_no_sql_over_one_row_is_refused(
    misfits: Database, queue: PostgresQueue
) -> None:
    Table(misfits).create()
    for source, filter, reason in NO_SQL_OVER_ONE_ROW:
        with pytest.raises(SettingsError) as refused:
            queue.watch("docs", source, "embedding", filter=filter, dimensions=3)
        assert refused.value.cause.startswith("source or filter for table docs is not valid: ")
        assert reason in refused.value.cause
        assert refused.value.hint == EXPRESSION
    assert value(misfits, "select count(*) from docs") == 0


def test_an_unknown_table_is_refused(misfits: Database, queue: PostgresQueue) -> None:
    with pytest.raises(SettingsError) as refused:
        queue.watch("nowhere", "body", "embedding")
    assert refused.value.cause == "there is no table nowhere"
    assert refused.value.hint
    assert refusal(misfits, "select watch_embeddings('nowhere', 'body', 'embedding')")[0] == (
        'relation "nowhere" does not exist'
    )


def test_only_the_owner_of_a_table_may_have_it_watched(misfits: Database) -> None:
    Table(misfits).create()
    misfits.execute("create role lodger")
    try:
        misfits.execute("grant execute on all functions in schema public to lodger")
        misfits.execute("grant all on docs, embedding_targets, embedding_queue to lodger")
        misfits.execute("set role lodger")
        refusal(misfits, "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    finally:
        misfits.execute("reset role")
        misfits.execute("drop owned by lodger")
        misfits.execute("drop role lodger")


# -- once more


def test_watching_twice_changes_nothing(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    embed_all(queue)
    triggers = rows(docs, TRIGGERS)
    assert len(triggers) == 5
    target = rows(docs, "select id, source, created_at from embedding_targets")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert rows(docs, TRIGGERS) == triggers
    assert rows(docs, "select id, source, created_at from embedding_targets") == target
    assert jobs(docs) == [("1", "completed"), ("2", "completed")]
    docs.execute("update docs set body = 'three' where id = 1")
    assert embed_all(queue) == ["three"]


def test_watching_another_table_changes_nothing_of_the_first(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'test:model')")
    other = Table(docs, "app", "notes")
    other.create()
    other.watch()
    other.insert(1, "note")
    embed_all(queue)
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'test:model')")
    other.watch()
    assert jobs(docs) == [("1", "completed"), ("1", "completed")]


def test_a_table_that_was_dropped_stands_in_nobodys_way(docs: Database) -> None:
    docs.execute("drop table docs")
    other = Table(docs, name="notes")
    other.create()
    assert other.watch() == "notes"
    assert other.watch() == "notes"


@pytest.mark.parametrize(
    ("change", "embedded"),
    [
        ("select watch_embeddings('docs', 'upper(body)', 'embedding')", ["ONE", "TWO"]),
        ("select watch_embeddings('docs', 'lower(body)', 'embedding')", []),
        ("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')", ["one", "two"]),
        ("select watch_embeddings('docs', 'body', 'embedding', filter => 'views < 9')", []),
    ],
)
def test_another_source_model_or_filter_has_every_record_looked_at_again(
    docs: Database, queue: PostgresQueue, change: LiteralString, embedded: list[str]
) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    embed_all(queue)
    docs.execute(change)
    assert jobs(docs) == [("1", "pending"), ("2", "pending")]
    assert embed_all(queue) == embedded
    assert jobs(docs) == [("1", "completed"), ("2", "completed")]


def test_another_source_takes_the_fence_from_a_running_worker(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    taken = claim(queue)
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'a:b')")
    assert [refused.reason for refused in embed(queue, taken)] == ["lost"]
    assert embed_all(queue) == ["one"]


def test_another_source_passes_over_no_job_that_is_locked(
    docs: Database, queue: PostgresQueue, connect: Connect
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    embed_all(queue)
    other = connect()
    docs.execute("set lock_timeout = '50 ms'")
    with other.transaction():
        other.execute("select from embedding_queue for update")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            docs.execute("select watch_embeddings('docs', 'upper(body)', 'embedding')")
    docs.execute("select watch_embeddings('docs', 'upper(body)', 'embedding')")
    assert embed_all(queue) == ["ONE"]


def test_rows_that_a_new_filter_leaves_out_lose_their_vectors(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one', 1), (2, 'two', 2)")
    embed_all(queue)
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 1')")
    assert embed_all(queue) == []
    assert jobs(docs) == [("1", "completed")]
    assert value(docs, "select array_agg(id) from docs where embedding is not null") == [1]


def test_other_settings_change_no_record(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("insert into docs values (1, 'one')")
    embed_all(queue)
    docs.execute(
        "select watch_embeddings('docs', 'body', 'embedding', priority => 5::smallint,"
        " debounce => '1 minute', on_change => 'clear')"
    )
    assert jobs(docs) == [("1", "completed")]
    docs.execute("update docs set body = 'two'")
    assert rows(
        docs, "select priority, available_at > now() + interval '50 s' from embedding_queue"
    ) == [(5, True)]
    assert value(docs, "select embedding from docs") is None


CLAIMED: LiteralString = (
    "select status from claim_embeddings('test', default_model => 'test:model')"
)
EVERY_OPTION: LiteralString = (
    "source, filter, model, priority, debounce::text, on_change, on_too_long, max_attempts,"
    " (select count(*) from embedding.match_functions())"
)


@pytest.fixture
def particular(docs: Database) -> Database:
    """The table `docs`, watched with every option, and with three rows."""
    docs.execute(
        "select watch_embeddings('docs', 'upper(body)', 'embedding', 'a:b', 'views = 0',"
        " priority => 5::smallint, debounce => '1 minute', on_change => 'clear',"
        " on_too_long => 'truncate', match_function => true)"
    )
    docs.execute("update embedding_targets set max_attempts = 9")
    docs.execute("insert into docs values (1, 'one', 0), (2, 'two', 0), (3, 'hidden', 1)")
    docs.execute("update embedding_queue set available_at = now()")
    return docs


def options(db: Database) -> list[object]:
    return list(rows(db, "select " + EVERY_OPTION + " from embedding_targets")[0])


def test_what_is_not_mentioned_stays(particular: Database, queue: PostgresQueue) -> None:
    embed_all(queue)
    before = options(particular)
    for again in (
        "select watch_embeddings('docs', embedding_column => 'embedding')",
        "select watch_embeddings('docs', null, 'embedding', match_function => null)",
        "select watch_embeddings('docs', 'upper(body)', 'embedding')",
        "select watch_embeddings('docs', 'upper(body)', 'embedding', priority => 5::smallint)",
        "select watch_embeddings('docs', 'upper(body)', 'embedding', dimensions => 3)",
    ):
        particular.execute(again.encode())
        assert options(particular) == before
    assert [status for _, status in jobs(particular)] == ["completed", "completed"]


@pytest.mark.parametrize(
    ("option", "place", "becomes"),
    [
        ("source => 'body'", 0, "body"),
        ("filter => 'views = 1'", 1, "views = 1"),
        ("filter => ''", 1, None),
        ("model => 'c:d'", 2, "c:d"),
        ("model => ''", 2, "a:b"),
        ("priority => 0::smallint", 3, 0),
        ("debounce => '0'", 4, "00:00:00"),
        ("on_change => 'keep'", 5, "keep"),
        ("on_too_long => 'fail'", 6, "fail"),
        ("match_function => false", 8, 0),
    ],
)
def test_one_option_changes_without_the_others(
    particular: Database, option: LiteralString, place: int, becomes: object
) -> None:
    expected = options(particular)
    expected[place] = becomes
    particular.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', " + option + ")"
    )
    assert options(particular) == expected


def test_an_option_that_is_kept_is_still_checked(particular: Database) -> None:
    particular.execute("alter table docs rename views to likes")
    sentence, hint = refusal(
        particular, "select watch_embeddings('docs', embedding_column => 'embedding')"
    )
    assert sentence.startswith("source or filter for table docs is not valid: ")
    assert "views" in sentence
    assert hint == EXPRESSION


def test_a_first_watch_without_a_source_is_refused(db: Database) -> None:
    Table(db).create()
    assert refusal(db, "select watch_embeddings('docs', null, 'vector', dimensions => 3)") == (
        "column vector of table docs is not watched yet",
        "Give its source: a column, several, or an SQL expression (on the command line: --source).",
    )
    assert refusal(db, "select watch_embeddings('docs', 'body')")[0] == (
        "the embedding column is not given"
    )


PREVIEWS: list[tuple[LiteralString, list[str], int]] = [
    ("", [], 0),
    ("source => 'upper(body)', dimensions => 3", [], 0),
    ("source => 'body'", ["source: upper(body) -> body"], 2),
    (
        "source => 'upper(body) || left(body, 0)'",
        ["source: upper(body) -> upper(body) || left(body, 0)"],
        0,
    ),
    (
        "source => 'upper(body) || nullif(id, 2)'",
        ["source: upper(body) -> upper(body) || nullif(id, 2)"],
        1,
    ),
    (
        "source => 'upper(body) || 1 / (id - 2)'",
        ["source: upper(body) -> upper(body) || 1 / (id - 2)"],
        2,
    ),
    ("model => 'c:d'", ["model: a:b -> c:d"], 2),
    ("model => '', default_model => 'c:d'", ["model_is_default: false -> true"], 0),
    ("filter => 'id = 1'", ["filter: views = 0 -> id = 1"], 0),
    ("filter => ''", ["filter: views = 0 -> none"], 0),
    (
        "priority => 1::smallint, on_too_long => 'fail', match_function => false",
        ["priority: 5 -> 1", "on_too_long: truncate -> fail", "match_function: true -> false"],
        0,
    ),
    (
        "debounce => '0', on_change => 'keep', match_function => true",
        ["debounce: 00:01:00 -> 00:00:00", "on_change: clear -> keep"],
        0,
    ),
]


@pytest.mark.parametrize(("arguments", "changes", "to_embed"), PREVIEWS)
def test_a_preview_tells_what_changes_and_how_much_is_embedded_again(
    particular: Database,
    queue: PostgresQueue,
    arguments: LiteralString,
    changes: list[str],
    to_embed: int,
) -> None:
    embed_all(queue)
    before = rows(particular, "select target::text from embedding_targets as target")
    call = "'docs', embedding_column => 'embedding'" + (arguments and f", {arguments}")
    assert rows(
        particular,
        "select is_watched, width, changes, to_embed from preview_watch_embeddings(" + call + ")",
    ) == [(True, 3, changes, to_embed)]
    assert rows(particular, "select target::text from embedding_targets as target") == before
    assert [status for _, status in jobs(particular)] == ["completed"] * 2

    if "default_model" not in call:
        particular.execute("select watch_embeddings(" + call + ")")
        statuses = [status for status, *_ in rows(particular, CLAIMED)]
        assert len([status for status in statuses if status == "processing"]) == (
            1 if "1 /" in call else to_embed
        )


def test_a_preview_counts_no_vector_of_a_column_that_is_another(
    particular: Database, queue: PostgresQueue
) -> None:
    embed_all(queue)
    particular.execute(
        "alter table docs rename embedding to old; alter table docs add embedding vector(3)"
    )
    again: LiteralString = (
        "select changes, to_embed from preview_watch_embeddings('docs',"
        " embedding_column => 'embedding')"
    )
    [([change], to_embed)] = rows(particular, again)
    assert change.startswith("problem: column docs.embedding is not the one that was watched; run ")
    assert to_embed == 2
    particular.execute("alter table docs drop embedding")
    with_width: LiteralString = (
        "select width, to_embed from preview_watch_embeddings('docs',"
        " embedding_column => 'embedding', dimensions => 4)"
    )
    assert rows(particular, with_width) == [(4, 2)]


def test_a_renamed_source_is_mended_by_watching_again(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("insert into docs values (1, 'one')")
    embed_all(queue)
    docs.execute("alter table docs rename body to words")
    docs.execute("update docs set words = 'two'")
    assert claim(queue) == []
    assert "column docs.body was renamed or dropped" in str(queue.targets()[0].problem)
    docs.execute("select watch_embeddings('docs', 'words', 'embedding')")
    assert queue.targets()[0].problem is None
    assert embed_all(queue) == ["two"]


# -- and no more


def test_what_is_unwatched_keeps_its_vectors_and_nothing_else(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    embed_all(queue)
    docs.execute("update docs set body = 'three' where id = 2")
    assert queue.unwatch("docs", "embedding")
    assert jobs(docs) == []
    assert rows(docs, TRIGGERS) == []
    assert not value(docs, TRIGGER_FUNCTIONS)
    assert vectors(docs, "select id, embedding::text from docs") == {
        1: vector_of("one"),
        2: vector_of("two"),
    }
    docs.execute("update docs set body = 'four'")
    assert jobs(docs) == []
    assert not queue.unwatch("docs", "embedding")


def test_a_table_can_be_unwatched_after_it_was_dropped(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("drop table docs")
    assert queue.unwatch("docs", "embedding")
    assert jobs(docs) == []
    assert queue.targets() == []


def test_a_table_can_be_unwatched_after_it_was_renamed(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table docs rename to notes")
    docs.execute("insert into notes values (1, 'one')")
    assert queue.unwatch("docs", "embedding")
    assert rows(docs, TRIGGERS) == []
    assert jobs(docs) == []
    docs.execute("insert into notes values (2, 'two')")


def test_a_table_made_again_under_its_name_can_be_watched_again(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("drop table docs")
    table = Table(docs)
    table.create()
    table.watch()
    table.is_kept_in_step(queue)


# -- rows that the queue reads and its triggers must see


def test_a_partition_may_be_written_through_its_parent(db: Database, queue: PostgresQueue) -> None:
    db.execute("create table logs (id bigint primary key, body text) partition by range (id)")
    db.execute("create table logs_1 partition of logs for values from (0) to (100)")
    db.execute("create table logs_2 partition of logs for values from (100) to (200)")
    db.execute("alter table logs add column embedding vector(3)")
    db.execute("select watch_embeddings('logs_1', 'body', 'embedding')")
    db.execute("insert into logs values (1, 'one'), (2, 'two'), (3, 'three'), (101, 'other')")
    assert embed_all(queue) == ["one", "three", "two"]
    db.execute("update logs set body = 'two, edited' where id = 2")
    db.execute("update logs set id = 103 where id = 3")
    db.execute("update logs set id = 4 where id = 101")
    assert embed_all(queue) == ["other", "two, edited"]
    db.execute("delete from logs where id = 1")
    assert sorted(record for record, _ in jobs(db)) == ["2", "4"]
    db.execute("truncate logs")
    assert jobs(db) == []


def test_a_table_that_became_a_partition_is_suspended_until_it_is_watched_again(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute(
        "create table logs (id bigint primary key, body text, embedding vector(3))"
        " partition by range (id)"
    )
    db.execute("create table logs_1 (like logs including indexes)")
    db.execute("select watch_embeddings('logs_1', 'body', 'embedding')")
    db.execute("alter table logs attach partition logs_1 for values from (0) to (100)")
    db.execute("insert into logs_1 values (1, 'one')")
    db.execute("insert into logs values (2, 'two')")
    problem = "table logs_1 has become a part of logs, and is also written through it"
    assert rows(db, "select check_name, cause from diagnose_embeddings()") == [
        ("rows_unseen", problem)
    ]
    assert embed_all(queue) == []
    assert queue.targets()[0].problem == problem
    db.execute("select watch_embeddings('logs_1', 'body', 'embedding')")
    assert queue.backfill(queue.target("logs_1", "embedding"), 10) == 1
    assert embed_all(queue) == ["one", "two"]
    assert rows(db, "select from diagnose_embeddings()") == []


def test_a_table_that_inherits_may_be_written_through_its_parent(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table posts (id bigint primary key, body text)")
    db.execute("create table archive (primary key (id)) inherits (posts)")
    db.execute("select watch_embeddings('archive', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into archive values (1, 'one'), (2, 'two')")
    db.execute("update posts set body = 'one, edited' where id = 1")
    assert embed_all(queue) == ["one, edited", "two"]
    db.execute("delete from posts where id = 2")
    assert jobs(db) == [("1", "completed")]


INHERITANCE: LiteralString = "table posts has a child table by inheritance, archive"


def test_a_table_with_children_by_inheritance_is_refused(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table posts (id bigint primary key, body text)")
    db.execute("create table archive (primary key (id)) inherits (posts)")
    message, hint = refusal(db, "select watch_embeddings('posts', 'body', 'e', dimensions => 3)")
    assert message == INHERITANCE
    assert hint.endswith("or run `alter table public.archive no inherit public.posts`.")


def test_a_table_that_gets_a_child_by_inheritance_is_suspended(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table docs rename to posts")
    docs.execute("select watch_embeddings('posts', 'body', 'embedding')")
    docs.execute("insert into posts values (1, 'one')")
    docs.execute("create table archive (primary key (id)) inherits (posts)")
    docs.execute("insert into archive values (1, 'same key')")
    assert rows(docs, "select check_name, cause from diagnose_embeddings()") == [
        ("rows_unseen", INHERITANCE)
    ]
    assert embed_all(queue) == []
    assert queue.targets()[0].problem == INHERITANCE
    assert "no inherit" in refusal(docs, "select watch_embeddings('posts', 'body', 'embedding')")[1]
    docs.execute("alter table archive no inherit posts")
    docs.execute("select watch_embeddings('posts', 'body', 'embedding')")
    assert embed_all(queue) == ["one"]


@pytest.mark.parametrize(
    "rule",
    [
        "create rule keep as on update to docs do instead nothing",
        "create rule keep as on update to docs where old.id = 1 do instead nothing",
        "create rule keep as on update to docs do also select 1",
    ],
)
def test_a_table_with_a_rule_for_update_is_refused_or_suspended(
    docs: Database, queue: PostgresQueue, rule: LiteralString
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute(rule)
    problem = "table docs has a rule for UPDATE, keep"
    assert refusal(docs, "select watch_embeddings('docs', 'body', 'embedding')")[0] == problem
    assert rows(docs, "select check_name, cause from diagnose_embeddings()") == [
        ("rows_unseen", problem)
    ]
    assert embed_all(queue) == []
    assert queue.targets()[0].problem == problem
    docs.execute("drop rule keep on docs")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert embed_all(queue) == ["one"]


def test_rules_for_other_writes_are_followed(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("create table inbox (id bigint, body text)")
    docs.execute(
        "create rule enter as on insert to inbox do instead"
        " insert into docs values (new.id, new.body)"
    )
    docs.execute(
        "create rule bin as on delete to docs"
        " do instead update docs set body = '' where id = old.id"
    )
    docs.execute("insert into inbox values (1, 'one'), (2, 'two')")
    assert embed_all(queue) == ["one", "two"]
    docs.execute("delete from docs where id = 2")
    assert embed_all(queue) == []
    assert sorted(jobs(docs)) == [("1", "completed"), ("2", "skipped")]


def test_a_table_may_be_written_through_a_view(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("create view plain as select id, body from docs")
    docs.execute(
        "create function redirect() returns trigger language plpgsql as"
        " $$ begin insert into docs values (new.id, new.body); return new; end $$"
    )
    docs.execute("create view other as select id, body from docs offset 0")
    docs.execute(
        "create trigger redirect instead of insert on other"
        " for each row execute function redirect()"
    )
    docs.execute("insert into plain values (1, 'one')")
    docs.execute("insert into other values (2, 'two')")
    docs.execute("update plain set body = 'one, edited' where id = 1")
    assert embed_all(queue) == ["one, edited", "two"]


def test_a_temporary_table_is_refused(db: Database) -> None:
    db.execute("create temporary table scratch (id bigint primary key, body text)")
    message, _ = refusal(db, "select watch_embeddings('scratch', 'body', 'e', dimensions => 3)")
    assert message.endswith("scratch is temporary")


def test_an_unlogged_table_can_be_watched(db: Database, queue: PostgresQueue) -> None:
    db.execute("create unlogged table notes (id bigint primary key, body text)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into notes values (1, 'one')")
    assert embed_all(queue) == ["one"]


@pytest.mark.parametrize("event", ["insert", "update", "delete", "truncate"])
def test_a_column_without_all_of_its_triggers_is_suspended(
    docs: Database, queue: PostgresQueue, event: LiteralString
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute(f"drop trigger embedding_{event}_1 on docs")
    assert embed_all(queue) == []
    assert queue.targets()[0].problem == f"table docs lacks its trigger for {event.upper()}"
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert embed_all(queue) == ["one"]


@pytest.mark.parametrize(
    "removal",
    [
        "truncate logs_1",
        "drop table logs_1",
        "alter table logs detach partition logs_1",
    ],
)
def test_jobs_of_rows_that_went_with_their_partition_are_dropped_when_they_are_claimed(
    db: Database, queue: PostgresQueue, removal: LiteralString
) -> None:
    db.execute("create table logs (id bigint primary key, body text) partition by range (id)")
    db.execute("create table logs_1 partition of logs for values from (0) to (100)")
    db.execute("create table logs_2 partition of logs for values from (100) to (200)")
    db.execute("select watch_embeddings('logs', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into logs values (1, 'one'), (101, 'other')")
    embed_all(queue)
    db.execute(removal)
    db.execute("update embedding_queue set status = 'pending' where status = 'completed'")
    assert embed_all(queue) == []
    assert jobs(db) == [("101", "completed")]


def test_a_partition_that_is_attached_later_is_watched_and_backfilled(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table logs (id bigint primary key, body text) partition by range (id)")
    db.execute("select watch_embeddings('logs', 'body', 'embedding', dimensions => 3)")
    db.execute("create table logs_1 (like logs including indexes)")
    db.execute("insert into logs_1 values (1, 'one'), (2, 'two')")
    db.execute("alter table logs attach partition logs_1 for values from (0) to (100)")
    db.execute("update logs_1 set body = 'two, edited' where id = 2")
    assert queue.backfill(queue.target("logs", "embedding"), 10) == 1
    assert embed_all(queue) == ["one", "two, edited"]
    assert rows(db, "select from diagnose_embeddings()") == []
