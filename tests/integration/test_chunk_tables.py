"""A text in chunks: its tables, who sees them, and what claims, stages and completions do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.chunks import (
    MODEL,
    WATCH,
    Document,
    claim,
    claim_one,
    complete,
    create_chunked,
    due,
    embed,
    faults,
    passages,
    stage,
    stage_all,
)
from tests.integration.jobs import expire_leases
from tests.integration.tables import acting_as, create_role, embed_all, refusal, vector_of
from worker.queue.postgres import PostgresQueue

Connect = Callable[[], Database]


FIRST_TABLES = {"docs": create_chunked}


@pytest.fixture
def docs(db: Database) -> Database:
    """A watched table `docs (id, title, body, tenant)` without rows."""
    return db


@pytest.fixture
def connect(database_url: str) -> Iterator[Connect]:
    """Opens further sessions."""
    opened: list[Database] = []

    def connect() -> Database:
        opened.append(psycopg.connect(database_url, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def relations(db: Database) -> list[str]:
    return [
        name
        for (name,) in rows(
            db,
            "select oid::regclass::text from pg_class where relkind in ('r', 'p', 'v')"
            " and relname ~ '(chunks|places|passages)$' order by 1",
        )
    ]


def problem(db: Database) -> str | None:
    found: str | None = value(db, "select problem from embedding_targets")
    return found


# -- what is made


def test_a_text_becomes_passages(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two. Three.'), (2, 'Äöü 😀. Two.')")
    assert embed(docs) == ["One. ", "Three.", "Two.", "Two. ", "Äöü 😀. "]
    assert passages(docs) == [
        (1, 0, "One. "),
        (1, 1, "Two. "),
        (1, 2, "Three."),
        (2, 0, "Äöü 😀. "),
        (2, 1, "Two."),
    ]
    assert faults(docs) == {}


def test_the_tables_have_the_columns_of_the_contract(docs: Database) -> None:
    assert relations(docs) == ["docs_chunk_places", "docs_chunks", "docs_passages"]
    assert {
        relation: columns
        for relation, columns in rows(
            docs,
            "select attrelid::regclass::text, string_agg(attname || case when attnotnull then '!'"
            " else '' end, ' ' order by attnum) from pg_attribute where attnum > 0"
            " and attrelid in ('docs_chunks'::regclass, 'docs_chunk_places'::regclass,"
            " 'docs_passages'::regclass) group by 1",
        )
    } == {
        "docs_chunks": "id! hash! content! context embedding! vector_hash",
        "docs_chunk_places": "id! position! hash! first_char! last_char! page heading_path",
        "docs_passages": "id position first_char last_char page heading_path context content hash",
    }


def test_several_columns_in_chunks_stand_beside_a_plain_one(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table docs (id bigint primary key, body text, summary text)")
    db.execute(WATCH)
    db.execute(
        "select watch_embeddings('docs', 'summary', 'summary', dimensions => 3, chunks => true)"
    )
    db.execute("select watch_embeddings('docs', 'body', 'whole', dimensions => 3)")
    db.execute("insert into docs (id, body, summary) values (1, 'One. Two.', 'Three. Four.')")
    db.execute("update embedding_targets set enabled = embedding_column <> 'whole'")
    assert embed(db) == ["Four.", "One. ", "Three. ", "Two."]
    db.execute("update embedding_targets set enabled = true")
    assert embed_all(queue) == ["One. Two."]
    assert passages(db) == [(1, 0, "One. "), (1, 1, "Two.")]
    assert passages(db, "docs_summary") == [(1, 0, "Three. "), (1, 1, "Four.")]
    assert value(db, "select whole::real[] from docs") == vector_of("One. Two.")
    db.execute("select unwatch_embeddings('docs', 'embedding')")
    assert relations(db) == [
        "docs_summary_chunk_places",
        "docs_summary_chunks",
        "docs_summary_passages",
    ]
    db.execute("update docs set body = 'Five.', summary = 'Six.'")
    db.execute("update embedding_targets set enabled = embedding_column <> 'whole'")
    assert embed(db) == ["Six."]


def test_a_column_that_is_called_embedding_is_no_part_of_it(db: Database) -> None:
    """Nor are its vectors touched, nor does the target end with it."""
    db.execute("create table docs (id bigint primary key, body text, embedding vector(3))")
    db.execute(WATCH)
    db.execute("insert into docs values (1, 'One. Two.', '[1,2,3]')")
    embed(db)
    db.execute("update embedding_targets set model = 'a:b'")
    assert value(db, "select embedding::text from docs") == "[1,2,3]"
    db.execute("alter table docs drop column embedding")
    assert len(claim(db)) == 1
    assert problem(db) is None


NAMES = {
    "quoted": 'My "Docs"',
    "of SQL": "select",
    "with a percent sign and a quote": "100 % 'sure'",
    "with upper case": "Docs",
    "as long as a name can be": "d" * (63 - len("_chunk_places")),
    "ümläute": "dökümente",
}


@pytest.mark.parametrize("schema", ["public", 'My "App"'])
@pytest.mark.parametrize("name", rest_in_full(NAMES.values(), first=3), ids=NAMES.keys())
def test_any_table_of_any_schema_can_have_chunks(db: Database, schema: str, name: str) -> None:
    table = sql.Identifier(schema, name)
    db.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    db.execute(
        sql.SQL('create table {} ("The Key" bigint primary key, "100 %s" text)').format(table)
    )
    watch = (
        "select table_name from watch_embeddings({}, {}, dimensions => 3, chunks => true,"
        " match_function => true)"
    )
    [[watched]] = db.execute(
        sql.SQL(watch).format(sql.Literal(table.as_string()), sql.Literal('"100 %s"'))
    ).fetchall()
    db.execute(sql.SQL("insert into {} values (1, 'One. Two.')").format(table))
    assert embed(db) == ["One. ", "Two."]
    db.execute(sql.SQL("update {} set \"100 %s\" = 'One. 3.'").format(table))
    assert embed(db) == ["3."]
    view = sql.Identifier(schema, name + "_passages")
    query = sql.SQL('select "The Key", content from {} order by position').format(view)
    assert db.execute(query).fetchall() == [(1, "One. "), (1, "3.")]
    found = "select record_id, content from search_embeddings(%s, 'embedding', '[1,2,3]')"
    assert len(rows(db, found, watched)) == 1
    db.execute("select unwatch_embeddings(%s, 'embedding')", [watched])
    assert relations(db) == []


KEYS: dict[str, tuple[LiteralString, LiteralString, LiteralString]] = {
    "integer": ("id integer primary key", "(1)", "(2)"),
    "uuid": (
        "id uuid primary key",
        "('1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed')",
        "('1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bee')",
    ),
    "text": ("id text primary key", "('a''\"\\ü')", "('')"),
    "varchar": ("id varchar(10) primary key", "('one')", "('two')"),
    "C collation": ('id text collate "C" primary key', "('one')", "('two')"),
    "numeric": ("id numeric primary key", "(1.50)", "(1e30)"),
    "bytea": ("id bytea primary key", "('\\x00ff')", "('\\x')"),
    "timestamptz": (
        "id timestamptz primary key",
        "('2026-11-30 08:00:00.123456+05:30')",
        "('infinity')",
    ),
    "date": ("id date primary key", "('2026-11-30')", "('2026-12-01')"),
    "boolean": ("id boolean primary key", "(true)", "(false)"),
    "enum": ("id mood primary key", "('glad')", "('sad')"),
    "domain": ("id code primary key", "('one')", "('two')"),
    "composite": (
        "id bigint, lang text, at timestamptz, primary key (lang, id, at)",
        "(1, 'de', now())",
        "(1, '', now())",
    ),
    "identity": (
        "id bigint generated by default as identity primary key",
        "(default)",
        "(default)",
    ),
    "partitioned": (
        "id bigint, area text, primary key (area, id)",
        "(1, 'north')",
        "(1, 'south')",
    ),
}


@pytest.fixture(params=KEYS)
def keyed(request: pytest.FixtureRequest, db: Database) -> tuple[Database, str, str]:
    """A table with two rows whose texts are in chunks, and their keys."""
    return db, *create_keyed(db, request.param, "chunks => true")


def create_keyed(db: Database, kind: str, options: str) -> tuple[str, str]:
    """Create a table with a key of some kind, and watch it. Returns the keys of its two rows."""
    key, first, second = KEYS[kind]
    db.execute("create type mood as enum ('sad', 'glad')")
    db.execute("create domain code as text check (value <> '')")
    partitioned = kind == "partitioned"
    db.execute(
        f"create table docs (body text, {key})"
        + (" partition by list (area)" if partitioned else "")
    )
    if partitioned:
        db.execute("create table docs_north partition of docs for values in ('north')")
        db.execute("create table docs_rest partition of docs default")
    db.execute(
        "select watch_embeddings('docs', 'body', dimensions => 3, language => 'english',"
        f" match_function => true, {options})".encode()
    )
    names = {"composite": "id, lang, at", "partitioned": "id, area"}.get(kind, "id")
    for row in (first, second):
        db.execute(f"insert into docs ({names}, body) values ({row[1:-1]}, 'One. Two.')".encode())
    return first, second


def test_a_key_of_any_type_leads_to_the_passages(keyed: tuple[Database, str, str]) -> None:
    db, *_ = keyed
    assert embed(db) == ["One. ", "One. ", "Two.", "Two."]
    db.execute("set datestyle = 'SQL, DMY'")
    db.execute("set timezone = 'Asia/Kolkata'")
    db.execute("update docs set body = 'One. Three.'")
    assert embed(db) == ["Three.", "Three."]
    assert rows(db, "select content, count(*) from docs_passages group by 1 order by 1") == [
        ("One. ", 2),
        ("Three.", 2),
    ]
    records = {record for (record,) in rows(db, "select record_id from embedding_queue")}
    search = "select record_id from search_embeddings('docs', 'embedding', '[1,2,3]')"
    assert {record for (record,) in rows(db, search)} == records
    assert value(db, "select count(*) from match_docs('[1,2,3]') join docs_chunks using (content)")
    db.execute("delete from docs")
    assert rows(db, "select from docs_chunks union all select from docs_chunk_places") == []
    assert rows(db, "select from embedding_queue") == []


@pytest.mark.parametrize("keyed", rest_in_full(KEYS, 3), indirect=True)
def test_the_match_function_returns_the_key(keyed: tuple[Database, str, str]) -> None:
    db, *_ = keyed
    embed(db)
    assert (
        value(
            db,
            "select count(*) from match_docs('[1,2,3]') as found natural join"
            " (select * from docs) as docs",
        )
        == 2
    )


def test_a_row_that_moves_to_another_partition_keeps_its_passages(db: Database) -> None:
    db.execute(
        "create table docs (id bigint, area text, body text, primary key (id, area))"
        " partition by list (area)"
    )
    db.execute("create table docs_north partition of docs for values in ('north')")
    db.execute("create table docs_south partition of docs for values in ('south')")
    db.execute(WATCH)
    db.execute("insert into docs values (1, 'north', 'One. Two.')")
    embed(db)
    db.execute("update docs set area = 'south'")
    assert embed(db) == []
    assert rows(db, "select area, content from docs_passages order by position") == [
        ("south", "One. "),
        ("south", "Two."),
    ]


def test_an_unlogged_table_has_unlogged_chunks(db: Database) -> None:
    db.execute("create unlogged table docs (id bigint primary key, body text)")
    db.execute(WATCH)
    db.execute("insert into docs values (1, 'One. Two.')")
    assert embed(db) == ["One. ", "Two."]


def test_unwatch_takes_all_away_and_watch_begins_again(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding',"
        " match_function => true, language => 'english')"
    )
    embed(docs)
    assert value(docs, "select unwatch_embeddings('docs', 'embedding')")
    assert relations(docs) == []
    assert value(docs, "select to_regproc('match_docs')") is None
    assert value(docs, "select count(*) from pg_trigger where tgrelid = 'docs'::regclass") == 0
    assert rows(docs, "select from embedding_queue") == []
    docs.execute("update docs set body = 'One.'")
    docs.execute(WATCH)
    docs.execute("select backfill_embeddings('docs', 'embedding')")
    assert embed(docs) == ["One."]
    assert faults(docs) == {}


# -- other settings


@pytest.mark.parametrize(
    ("setting", "staged"),
    [
        ("chunk_size => 500", []),
        ("chunk_unit => 'tokens'", []),
        ("format => 'html'", []),
        ("max_chunks => 5", []),
        ("context => 'title'", ["One. ", "Two."]),
    ],
)
def test_other_settings_split_every_text_again_and_pay_for_what_is_new(
    docs: Database, setting: LiteralString, staged: list[str]
) -> None:
    docs.execute("insert into docs (id, title, body) values (1, 'Title', 'One. Two.')")
    embed(docs)
    docs.execute(f"select watch_embeddings('docs', embedding_column => 'embedding', {setting})")
    assert passages(docs) == [(1, 0, "One. "), (1, 1, "Two.")]
    assert due(docs)
    assert embed(docs) == staged
    assert faults(docs) == {}


@pytest.mark.parametrize(
    "setting", ["priority => 5::smallint", "on_change => 'clear'", "match_function => true", WATCH]
)
def test_settings_that_change_no_chunk_leave_the_texts_alone(
    docs: Database, setting: LiteralString
) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    embed(docs)
    if setting == WATCH:
        docs.execute(WATCH)
    else:
        docs.execute(f"select watch_embeddings('docs', embedding_column => 'embedding', {setting})")
    assert not due(docs)


def test_a_claim_says_how_to_split_and_puts_the_context_first(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', context => 'title',"
        " format => 'text', chunk_size => 300, chunk_unit => 'tokens', max_chunks => 7)"
    )
    docs.execute(
        "insert into docs (id, title, body) values (1, e'A\\x1fB', e'1\\x1f2'), (2, null, '3')"
    )
    first, second = sorted(claim(docs), key=lambda document: document.id)
    assert first.chunking == {"format": "text", "size": 300, "unit": "tokens", "most": 7}
    assert first.content == "A B\x1f1\x1f2"
    assert second.content == "\x1f3"
    assert first.stored == second.stored == []


def test_a_context_is_bounded(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', context => 'title')"
    )
    docs.execute("insert into docs (id, title, body) values (1, repeat('long ', 1000), 'One. ')")
    assert claim_one(docs).content == "long " * 100 + "\x1fOne. "


def test_a_context_can_be_taken_away(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', context => 'title')"
    )
    docs.execute("insert into docs (id, title, body) values (1, 'Title', 'One.')")
    embed(docs)
    assert rows(docs, "select context from docs_passages") == [("Title",)]
    docs.execute("update docs set title = 'Other'")
    assert embed(docs) == ["One."]
    assert rows(docs, "select context from docs_passages") == [("Other",)]
    docs.execute("select watch_embeddings('docs', embedding_column => 'embedding', context => '')")
    assert embed(docs) == ["One."]
    assert rows(docs, "select context from docs_passages") == [(None,)]
    docs.execute("update docs set title = 'Unread'")
    assert not due(docs)


# -- what is refused

PREPARED: dict[str, LiteralString] = {
    "chunks": WATCH,
    "whole": "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)",
    "nothing": "select 1",
}
REFUSED: dict[str, tuple[str, LiteralString, str, str]] = {
    "chunks of a plain column": (
        "whole",
        "select watch_embeddings('docs', 'body', 'embedding', chunks => true)",
        "column embedding of table docs is embedded as a whole",
        "Run `worker unwatch docs --column embedding` first, or give another name to the column.",
    ),
    "a plain column of chunks": (
        "chunks",
        "select watch_embeddings('docs', 'body', 'embedding', chunks => false)",
        "column embedding of table docs is embedded in chunks",
        "Run `worker unwatch docs --column embedding` first, or give another name to the column.",
    ),
    "a size without chunks": (
        "nothing",
        "select watch_embeddings('docs', 'body', 'v', dimensions => 3, chunk_size => 500)",
        "a context, a format and a size of chunks are only for texts in chunks",
        "Give `chunks => true` as well (on the command line: --chunks).",
    ),
    "no width": (
        "nothing",
        "select watch_embeddings('docs', 'body', chunks => true)",
        "the width of the vectors is not given",
        "Give `dimensions`, as many as the model has (on the command line: --dimensions).",
    ),
    "a width that no index takes": (
        "nothing",
        "select watch_embeddings('docs', 'body', dimensions => 5000, chunks => true)",
        "a vector column cannot have 5000 dimensions",
        "Give a number from 1 to 4000, to which the model can shorten its vectors (on the command"
        " line: --dimensions).",
    ),
    "another width": (
        "chunks",
        "select watch_embeddings('docs', 'body', dimensions => 4, chunks => true)",
        "column embedding holds 3 dimensions, not 4",
        "Leave out the dimensions to watch it as it is, or watch another column.",
    ),
    "a size of 10": (
        "chunks",
        "select watch_embeddings('docs', 'body', chunks => true, chunk_size => 10)",
        "chunks cannot have 10 characters",
        "Give a size from 50 to 100000.",
    ),
    "no chunk at all": (
        "chunks",
        "select watch_embeddings('docs', 'body', chunks => true, max_chunks => 0)",
        "a text cannot have at most 0 chunks",
        "Give a number of chunks from 1 to 1000000.",
    ),
    "a format that is none": (
        "chunks",
        "select watch_embeddings('docs', 'body', chunks => true, format => 'pdf')",
        "there is no format pdf of chunks",
        "Formats are markdown, text, html and code.",
    ),
    "a unit that is none": (
        "chunks",
        "select watch_embeddings('docs', 'body', chunks => true, chunk_unit => 'bytes')",
        "there is no unit bytes of the size of chunks",
        "Units are characters and tokens.",
    ),
    "a context that is no column": (
        "chunks",
        "select watch_embeddings('docs', 'body', chunks => true, context => 'titel')",
        'source or filter for table docs is not valid: column "titel" does not exist',
        "Give column names, or an SQL expression over one row with functions outside pg_catalog"
        " qualified by their schema.",
    ),
    "an aggregate as a context": (
        "chunks",
        "select watch_embeddings('docs', 'body', chunks => true, context => 'max(title)')",
        "source or filter for table docs is not valid: aggregate functions are not allowed"
        " in WHERE",
        "Give column names, or an SQL expression over one row with functions outside pg_catalog"
        " qualified by their schema.",
    ),
    "a name that is taken": (
        "nothing",
        "create table docs_chunks (); " + WATCH,
        "the name public.docs_chunks is taken",
        "Give the column another name (on the command line: --column), or rename what is in the"
        " way.",
    ),
    "a name of a type": (
        "nothing",
        "create type docs_passages as enum ('a'); " + WATCH,
        "the name public.docs_passages is taken",
        "Give the column another name (on the command line: --column), or rename what is in the"
        " way.",
    ),
    "a name that is too long": (
        "nothing",
        "select watch_embeddings('docs', 'body', repeat('v', 60), dimensions => 3, chunks => true)",
        f"the name public.docs_{'v' * 60}_chunks is too long",
        "Give the column another name (on the command line: --column), or rename what is in the"
        " way.",
    ),
    "a deferrable key": (
        "nothing",
        "alter table docs drop constraint docs_pkey, add primary key (id) deferrable; " + WATCH,
        "table docs cannot have chunks: its primary key is deferrable",
        "Postgres has no foreign key to such a key. Make it not deferrable.",
    ),
    "a key of our name": (
        "nothing",
        "alter table docs rename id to hash; " + WATCH,
        "table docs cannot have chunks: its key has a column hash",
        "The tables beside it give that name to something else: rename the column.",
    ),
    "two keys of our name": (
        "nothing",
        "alter table docs rename id to hash; alter table docs rename tenant to page;"
        " alter table docs drop constraint docs_pkey, add primary key (hash, page); " + WATCH,
        "table docs cannot have chunks: its key has a column hash",
        "The tables beside it give that name to something else: rename the column.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_its_cause_and_a_cure(db: Database, case: str) -> None:
    prepared, statement, cause, cure = REFUSED[case]
    db.execute("create table docs (id bigint primary key, title text, body text, tenant integer)")
    db.execute(PREPARED[prepared])
    *before, statement = statement.split("; ")
    for step in before:
        db.execute(step)
    targets = rows(db, "select * from embedding_targets")
    existing = relations(db)
    assert refusal(db, statement) == (cause, cure)
    assert rows(db, "select * from embedding_targets") == targets
    assert relations(db) == existing


def test_the_calls_for_texts_as_a_whole_and_in_chunks_name_each_other(docs: Database) -> None:
    docs.execute("create table notes (id bigint primary key, body text)")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    docs.execute("insert into docs (id, body) values (1, 'One.')")
    docs.execute("insert into notes (id, body) values (1, 'One.')")
    jobs = "(select array[id] from embedding_queue where table_name = "
    vectors = "array['[1,2,3]'::vector], 'a:b')"
    assert refusal(
        docs,
        f"select complete_embeddings({jobs}'docs'), array[gen_random_uuid()],"
        f" array['x'::bytea], {vectors}",
    ) == (
        "column embedding of table docs is embedded in chunks",
        "Call stage_chunks, then complete_documents.",
    )
    whole = ("column embedding of table notes is embedded as a whole", "Call complete_embeddings.")
    assert (
        refusal(
            docs,
            f"select stage_chunks({jobs}'notes'), array[gen_random_uuid()],"
            f" array['x'::bytea], '{{x}}', null, {vectors}",
        )
        == whole
    )
    assert (
        refusal(
            docs,
            f"select complete_documents({jobs}'notes'), array[gen_random_uuid()],"
            " array['x'::bytea], 'a:b', null, null, '{}', '{}', '{}', '{}', null, null)",
        )
        == whole
    )


@pytest.mark.parametrize(
    ("call", "cause"),
    [
        (
            "select stage_chunks('{1}', '{}', '{}', '{}', null, '{}', 'a:b')",
            "ids, leases, hashes, contents, contexts and vectors must be of one length",
        ),
        (
            "select stage_chunks(null, null, null, null, null, null, 'a:b')",
            "ids, leases, hashes, contents, contexts and vectors must be of one length",
        ),
        (
            "select complete_documents('{1}', '{}', '{}', 'a:b', null, null, '{}', '{}', '{}',"
            " '{}', null, null)",
            "ids, leases, hashes, tokens, costs, unenhanced and again_in must be of one length",
        ),
        (
            "select complete_documents('{}', '{}', '{}', 'a:b', null, null, '{}', '{}', '{}',"
            " '{}', null, null, '{rejected}')",
            "ids, leases, hashes, tokens, costs, unenhanced and again_in must be of one length",
        ),
        (
            "select complete_documents('{}', '{}', '{}', 'a:b', null, null, '{1}', '{}', '{}',"
            " '{}', null, '{}')",
            "place_ids, place_hashes, first_chars, last_chars, pages and heading_paths must be of"
            " one length",
        ),
    ],
)
def test_arrays_of_different_lengths_are_refused(
    docs: Database, call: LiteralString, cause: str
) -> None:
    assert refusal(docs, call)[0] == cause


def test_a_truncate_needs_cascade_and_leaves_nothing(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    embed(docs)
    message, hint = refusal(docs, "truncate docs")
    assert "foreign key" in message
    assert "CASCADE" in hint
    assert faults(docs) == {}
    docs.execute("truncate docs cascade")
    assert rows(docs, "select from docs_chunks union all select from docs_chunk_places") == []
    assert rows(docs, "select from embedding_queue") == []


# -- who sees it

RLS: list[LiteralString] = [
    "alter table docs enable row level security",
    "create policy by_tenant on docs for select to reader"
    " using (tenant = current_setting('app.tenant', true)::integer)",
]
READ: dict[str, LiteralString] = {
    "chunks": "select distinct id from docs_chunks order by 1",
    "places": "select distinct id from docs_chunk_places order by 1",
    "passages": "select distinct id from docs_passages order by 1",
    "match function": "select id from match_docs('[1,2,3]') order by 1",
    "words": "select id from match_docs(null, query_text => 'one') order by 1",
    "both": "select id from match_docs('[1,2,3]', query_text => 'one') order by 1",
}


@pytest.fixture
def tenants(db: Database) -> Database:
    """Texts of two tenants in chunks. `reader` reads them, `writer` writes them, each those of the
    tenant in `app.tenant`."""
    create_role(db, "reader")
    create_role(db, "writer")
    create_role(db, "nobody")
    db.execute("create table docs (id bigint primary key, title text, body text, tenant integer)")
    for statement in RLS:
        db.execute(statement)
    db.execute("grant select on docs to reader")
    db.execute("grant all on docs to writer")
    db.execute(
        "create policy all_of_tenant on docs to writer"
        " using (tenant = current_setting('app.tenant', true)::integer)"
    )
    db.execute(
        "select watch_embeddings('docs', 'body', dimensions => 3, chunks => true,"
        " match_function => true, language => 'english')"
    )
    db.execute(
        "insert into docs (id, body, tenant) select i, 'One. Text ' || i || '.', i % 2"
        " from generate_series(1, 6) as i"
    )
    embed(db)
    return db


@pytest.mark.parametrize("where", rest_in_full(READ, first=3))
@pytest.mark.parametrize("role", ["reader", "writer"])
def test_a_reader_sees_the_passages_of_the_rows_they_see(
    tenants: Database, role: LiteralString, where: str
) -> None:
    with acting_as(tenants, role):
        assert rows(tenants, READ[where]) == []
        tenants.execute("set app.tenant = 1")
        assert rows(tenants, READ[where]) == [(1,), (3,), (5,)]
        tenants.execute("set app.tenant = 0")
        assert rows(tenants, READ[where]) == [(2,), (4,), (6,)]


@pytest.mark.parametrize("where", READ)
def test_who_may_not_read_the_table_may_not_read_its_passages(
    tenants: Database, where: str
) -> None:
    with acting_as(tenants, "nobody"), pytest.raises(psycopg.errors.InsufficientPrivilege):
        tenants.execute(READ[where])


@pytest.mark.parametrize("role", ["reader", "writer", "nobody"])
@pytest.mark.parametrize(
    "statement",
    [
        "delete from docs_chunks",
        "update docs_chunks set content = ''",
        "insert into docs_chunk_places values (1, 9, 'x', 0, 1)",
        "update docs_chunk_places set position = position + 10",
        "truncate docs_chunk_places",
        "delete from docs_passages",
    ],
)
def test_nobody_but_the_owner_writes_them(
    tenants: Database, role: LiteralString, statement: LiteralString
) -> None:
    tenants.execute("set app.tenant = 1")
    with acting_as(tenants, role), pytest.raises(psycopg.Error) as refused:
        tenants.execute(statement)
    assert refused.value.sqlstate in ("42501", "55000")


def test_a_writer_edits_and_deletes_texts_as_ever(tenants: Database) -> None:
    tenants.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', on_change => 'clear')"
    )
    with acting_as(tenants, "writer"):
        tenants.execute("set app.tenant = 1")
        tenants.execute("delete from docs where id = 1")
        tenants.execute("update docs set id = 30 where id = 3")
        tenants.execute("update docs set body = 'Edited.' where id = 5")
    assert rows(tenants, READ["places"]) == [(2,), (4,), (6,), (30,)]
    assert embed(tenants) == ["Edited."]
    assert faults(tenants) == {}


def test_the_rights_are_those_of_the_table_when_it_is_watched(tenants: Database) -> None:
    readers = (
        "select role from unnest('{reader,writer,nobody}'::text[]) as role"
        " where has_table_privilege(role, 'docs_chunks', 'select')"
        "   and has_table_privilege(role, 'docs_chunk_places', 'select')"
        "   and has_table_privilege(role, 'docs_passages', 'select') order by 1"
    )
    assert rows(tenants, readers) == [("reader",), ("writer",)]
    tenants.execute("revoke select on docs from reader")
    tenants.execute("grant select (id, tenant, title, body) on docs to nobody")
    tenants.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert rows(tenants, readers) == [("nobody",), ("writer",)]
    tenants.execute("revoke select (body) on docs from nobody")
    tenants.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert rows(tenants, readers) == [("writer",)]
    tenants.execute("grant select on docs to public")
    tenants.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert rows(tenants, readers) == [("nobody",), ("reader",), ("writer",)]


def test_default_privileges_give_nobody_more(db: Database) -> None:
    create_role(db, "nobody")
    db.execute("alter default privileges grant all on tables to nobody")
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("revoke all on docs from nobody")
    db.execute(WATCH)
    assert (
        rows(
            db,
            "select relname from pg_class where relname ~ '^docs' and relkind in ('r', 'v')"
            " and has_any_column_privilege('nobody', oid, 'select, insert, update')",
        )
        == []
    )


def test_chunks_that_somebody_else_owns_are_not_written(docs: Database) -> None:
    """Their triggers would run with the rights of the owner of the API."""
    create_role(docs, "bob")
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    docs.execute("alter table docs_chunks owner to bob")
    assert stage(docs, document) == [(document.id, "suspended")]
    assert "docs_chunks belongs to bob" in (problem(docs) or "")
    assert claim(docs) == []


# -- edits


def test_an_edit_pays_for_what_is_new_and_takes_away_what_is_gone(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two. Three. Two. ')")
    assert embed(docs) == ["One. ", "Three. ", "Two. "]
    docs.execute("update docs set body = 'Zero. ' || body")
    assert embed(docs) == ["Zero. "]
    docs.execute("update docs set body = 'Two. Four. '")
    assert embed(docs) == ["Four. "]
    assert passages(docs) == [(1, 0, "Two. "), (1, 1, "Four. ")]
    assert faults(docs) == {}


def test_passages_of_an_edited_text_stay_until_the_new_ones_are_complete(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two. ')")
    embed(docs)
    before = passages(docs)
    docs.execute("update docs set body = 'Two. Three. '")
    document = claim_one(docs)
    assert passages(docs) == before
    stage(docs, document)
    assert passages(docs) == before
    complete(docs, document)
    assert passages(docs) == [(1, 0, "Two. "), (1, 1, "Three. ")]


def test_on_change_clear_takes_the_passages_away_at_once(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', on_change => 'clear')"
    )
    docs.execute("insert into docs (id, body) values (1, 'One. Two.'), (2, 'Two.')")
    embed(docs)
    docs.execute("update docs set tenant = 1")
    assert len(passages(docs)) == 3
    docs.execute("update docs set body = 'One. Three.' where id = 1")
    assert passages(docs) == [(2, 0, "Two.")]
    assert embed(docs) == ["Three."]  # the chunks have stayed
    assert faults(docs) == {}


def test_a_key_that_changes_takes_the_passages_along(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.'), (2, 'Three.')")
    embed(docs)
    docs.execute("update docs set id = id + 10")
    assert passages(docs) == [(11, 0, "One. "), (11, 1, "Two."), (12, 0, "Three.")]
    assert embed(docs) == []
    with docs.transaction():
        docs.execute("update docs set id = 0 where id = 11")
        docs.execute("update docs set id = 11 where id = 12")
        docs.execute("update docs set id = 12 where id = 0")
    assert embed(docs) == []
    assert passages(docs) == [(11, 0, "Three."), (12, 0, "One. "), (12, 1, "Two.")]
    assert faults(docs) == {}


def test_a_row_that_takes_the_key_of_a_deleted_one_gets_passages_of_its_own(
    docs: Database,
) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    embed(docs)
    with docs.transaction():
        docs.execute("delete from docs")
        docs.execute("insert into docs (id, body) values (1, 'Three.')")
    embed(docs)
    assert passages(docs) == [(1, 0, "Three.")]
    assert faults(docs) == {}


@pytest.mark.parametrize("text", ["", "   ", None, "\t\n"])
def test_an_empty_text_has_no_passages_and_no_chunks(docs: Database, text: str | None) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.'), (2, %s)", [text])
    embed(docs)
    docs.execute("update docs set body = %s", [text])
    embed(docs)
    assert rows(docs, "select from docs_chunks union all select from docs_chunk_places") == []
    assert rows(docs, "select distinct status from embedding_queue") == [("skipped",)]


def test_a_context_without_a_text_is_nothing_to_embed(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', context => 'title')"
    )
    docs.execute("insert into docs (id, title, body) values (1, 'Title', ''), (2, 'Title', null)")
    assert claim(docs) == []
    assert rows(docs, "select distinct status from embedding_queue") == [("skipped",)]


@pytest.mark.parametrize("change", ["body = ' '", "tenant = 0"])
def test_what_is_half_staged_goes_with_the_text(docs: Database, change: LiteralString) -> None:
    """Although no passage names it."""
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', filter => 'tenant > 0')"
    )
    docs.execute("insert into docs (id, body, tenant) values (1, 'One. Two.', 1)")
    document = claim_one(docs)
    assert stage(docs, document, document.chunks[:1]) == []
    docs.execute(f"update docs set {change}")
    assert claim(docs) == []
    assert rows(docs, "select from docs_chunks") == []


def test_a_row_that_leaves_the_filter_loses_its_passages(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', filter => 'tenant > 0')"
    )
    docs.execute("insert into docs (id, body, tenant) values (1, 'One.', 1), (2, 'Two.', 0)")
    assert embed(docs) == ["One."]
    docs.execute("update docs set tenant = 1 - tenant")
    assert embed(docs) == ["Two."]
    assert passages(docs) == [(2, 0, "Two.")]
    assert rows(docs, "select id from docs_chunks") == [(2,)]


def test_a_text_by_hand_is_split_as_it_is(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', context => 'title')"
    )
    docs.execute("insert into docs (id, title, body) values (1, 'Title', 'One. ')")
    embed(docs)
    docs.execute("update embedding_queue set status = 'pending', content = 'By hand. Two. '")
    document = claim_one(docs)
    assert document.content == "\x1fBy hand. Two. "
    assert stage(docs, document) == []
    assert complete(docs, document) == []
    assert passages(docs) == [(1, 0, "By hand. "), (1, 1, "Two. ")]
    assert rows(docs, "select distinct context from docs_passages") == [(None,)]


def test_a_delete_half_way_leaves_nothing(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    assert stage(docs, document, document.chunks[:1]) == []
    docs.execute("delete from docs")
    assert stage(docs, document) == [(document.id, "lost")]
    assert complete(docs, document) == [(document.id, "lost")]
    assert rows(docs, "select from docs_chunks union all select from docs_chunk_places") == []
    assert faults(docs) == {}


# -- the guards


def test_what_is_staged_for_a_lost_lease_is_not_stored(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    docs.execute("update docs set body = 'Three.'")
    assert stage(docs, document) == [(document.id, "lost")]
    assert complete(docs, document) == [(document.id, "lost")]
    assert rows(docs, "select from docs_chunks") == []
    assert embed(docs) == ["Three."]


def test_a_claim_by_another_worker_takes_over_what_is_staged(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two. Three.')")
    first = claim_one(docs)
    assert stage(docs, first, first.chunks[:2]) == []
    expire_leases(docs)
    second = claim_one(docs)
    assert [chunk.content for chunk in second.unstored] == ["Three."]
    assert stage(docs, first) == [(first.id, "lost")]
    assert complete(docs, first) == [(first.id, "lost")]
    assert stage(docs, second) == []
    assert complete(docs, second) == []
    assert faults(docs) == {}


@pytest.mark.parametrize("change", ["body = 'Three.'", "title = 'Other'"])
def test_an_edit_without_its_trigger_is_noticed(docs: Database, change: LiteralString) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', context => 'title')"
    )
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    docs.execute("set session_replication_role = replica")
    docs.execute(f"update docs set {change}")
    docs.execute("reset session_replication_role")
    assert stage(docs, document) == []
    assert complete(docs, document) == [(document.id, "changed")]
    assert passages(docs) == []


def test_a_completion_that_was_answered_by_nobody_is_no_refusal(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    stage(docs, document)
    assert complete(docs, document) == []
    assert complete(docs, document) == []
    assert faults(docs) == {}


def test_a_chunk_that_is_not_stored_is_named(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.'), (2, 'Three.')")
    first, second = claim(docs)
    stage(docs, first, first.chunks[:1])
    stage(docs, second)
    assert complete(docs, first, second) == [(first.id, "unstaged")]
    assert passages(docs) == [(2, 0, "Three.")]
    stage(docs, first)
    assert complete(docs, first) == []
    assert faults(docs) == {}


def test_a_chunk_of_another_text_is_not_enough(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One.'), (2, 'One.')")
    first, second = claim(docs)
    stage(docs, first)
    assert complete(docs, second) == [(second.id, "unstaged")]


def test_jobs_of_several_targets_are_told_apart(docs: Database) -> None:
    """They have the same record ids."""
    docs.execute("create table more (id bigint primary key, body text)")
    docs.execute("select watch_embeddings('more', 'body', dimensions => 3, chunks => true)")
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    docs.execute("insert into more (id, body) values (1, 'Three.')")
    first, second = [*claim(docs), *claim(docs)]
    for document in (first, second):
        stage(docs, document)
    assert value(docs, "select count(*) from docs_chunks") == len(first.chunks)
    both = [(document, chunk) for document in (first, second) for chunk in document.chunks]
    assert (
        rows(
            docs,
            "select * from stage_chunks(%s, %s, %s, %s, null, %s::text[]::vector[], %s)",
            [document.id for document, _ in both],
            [document.lease for document, _ in both],
            [chunk.hash for _, chunk in both],
            [chunk.content for _, chunk in both],
            [str(vector_of(chunk.content)) for _, chunk in both],
            MODEL,
        )
        == []
    )
    assert complete(docs, first, second) == []
    assert passages(docs) == [(1, 0, "One. "), (1, 1, "Two.")]
    assert passages(docs, "more") == [(1, 0, "Three.")]
    assert value(docs, "select count(*) from docs_chunks") == 2


def test_a_text_without_passages_is_complete(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One.')")
    embed(docs)
    docs.execute("update docs set body = '<p></p>'")
    document = claim_one(docs)
    nothing = (
        "select * from complete_documents(%s, %s, %s, %s, null, null, '{}', '{}', '{}', '{}',"
        " null, null)"
    )
    assert (
        rows(docs, nothing, [document.id], [document.lease], [document.content_hash], MODEL) == []
    )
    assert rows(docs, "select from docs_chunks") == []
    assert value(docs, "select status from embedding_queue") == "completed"


@pytest.mark.parametrize("sqlstate", ["22012", "42883", "P0001"])
def test_a_text_that_cannot_be_read_any_more_fails_alone(docs: Database, sqlstate: str) -> None:
    docs.execute(
        "create function poison(body text) returns text language plpgsql immutable as $$ begin"
        f" if body like '%poison%' then raise sqlstate '{sqlstate}'; end if;"
        " return body; end $$".encode()
    )
    docs.execute(
        "select watch_embeddings('docs', 'public.poison(body)',"
        " context => 'public.poison(title)', chunks => true)"
    )
    docs.execute(
        "insert into docs (id, title, body) select i, 'T', 'One. ' || i || '.'"
        " from generate_series(1, 5) as i"
    )
    documents = claim(docs)
    for document in documents:
        stage(docs, document)
    docs.execute("set session_replication_role = replica")
    docs.execute("update docs set title = 'poison' where id = 3")
    docs.execute("reset session_replication_role")
    assert complete(docs, *documents) == [(documents[2].id, "changed")]
    assert problem(docs) is None
    assert value(docs, "select count(*) from embedding_queue where status = 'completed'") == 4


def test_a_wrong_vector_is_the_fault_of_the_caller(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One.')")
    document = claim_one(docs)
    with pytest.raises(psycopg.errors.DataException, match="expected 3 dimensions"):
        rows(
            docs,
            "select * from stage_chunks(%s, %s, %s, '{One.}', null, '{\"[1,2]\"}', 'a:b')",
            [document.id],
            [document.lease],
            [document.chunks[0].hash],
        )
    assert problem(docs) is None


# -- chunks that cannot be written

REFUSE_POISON: dict[str, LiteralString] = {
    "constraint": "alter table docs_chunks add check (content not like '%poison%')",
    "trigger": "create function refuse() returns trigger language plpgsql as $$ begin"
    " if new.content like '%poison%' then raise sqlstate '42883'; end if; return new; end $$;"
    " create trigger refuse before insert on docs_chunks for each row execute function refuse()",
}


@pytest.mark.parametrize("refuse", REFUSE_POISON.values(), ids=list(REFUSE_POISON))
def test_a_chunk_that_its_table_refuses_fails_its_text_alone(
    docs: Database, refuse: LiteralString
) -> None:
    docs.execute(refuse)
    docs.execute(
        "insert into docs (id, body) values (1, 'One. Two.'),"
        " (2, 'Three. A poison. Four. poison.'), (3, 'Five. Six.')"
    )
    documents = claim(docs)
    chunks = [(document, chunk) for document in documents for chunk in document.chunks]
    assert stage_all(docs, chunks) == [(documents[1].id, "unwritable")]
    assert complete(docs, *documents) == [(documents[1].id, "lost")]
    assert rows(
        docs, "select record_id, error_class from embedding_queue where status = 'failed'"
    ) == [("2", "unwritable")]
    assert [content for _, _, content in passages(docs)] == ["One. ", "Two.", "Five. ", "Six."]
    assert problem(docs) is None
    docs.execute("update docs set body = 'Three. A cure.' where id = 2")
    assert embed(docs) == ["A cure."]
    assert faults(docs) == {}


def test_a_number_that_is_too_large_for_the_column_fails_its_text_alone(docs: Database) -> None:
    docs.execute("alter table docs_chunks alter column embedding type halfvec(3)")
    docs.execute("insert into docs (id, body) values (1, 'One. Two.'), (2, 'Three. Four.')")
    documents = claim(docs)
    chunks = [(document, chunk) for document in documents for chunk in document.chunks]
    assert stage_all(docs, chunks, {"Three. ": "[1,1e6,1]"}) == [(documents[1].id, "unwritable")]
    assert complete(docs, documents[0]) == []
    assert problem(docs) is None


@pytest.mark.parametrize("sqlstate", ["40001", "57014"])
def test_a_chunk_whose_error_may_pass_is_tried_again(docs: Database, sqlstate: str) -> None:
    docs.execute(REFUSE_POISON["trigger"].replace("42883", sqlstate).encode())
    docs.execute("insert into docs (id, body) values (1, 'A poison. One.'), (2, 'Two.')")
    documents = claim(docs)
    chunks = [(document, chunk) for document in documents for chunk in document.chunks]
    assert stage_all(docs, chunks) == [(documents[0].id, "locked")]
    docs.execute("drop trigger refuse on docs_chunks")
    assert stage_all(docs, chunks) == []
    assert complete(docs, *documents) == []
    assert faults(docs) == {}


# -- models


def test_another_model_is_refused(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    stage(docs, document, document.chunks[:1])
    assert stage(docs, document, model="other:model") == [(document.id, "other_model")]
    stage(docs, document)
    assert complete(docs, document, model="other:model") == [(document.id, "other_model")]
    assert value(docs, "select model from embedding_targets") == MODEL


@pytest.mark.parametrize("completed", [True, False])
@pytest.mark.parametrize(
    "change", ["model = 'other:model'", "document_prompt = 'search_document: '"]
)
def test_another_model_clears_all_chunks(
    docs: Database, change: LiteralString, completed: bool
) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    stage(docs, document)
    if completed:
        complete(docs, document)
    docs.execute(f"update embedding_targets set {change}")
    assert rows(docs, "select from docs_chunks union all select from docs_chunk_places") == []
    assert value(docs, "select status from embedding_queue") == "pending"
    assert complete(docs, document) == [(document.id, "lost")] or completed
    model = value(
        docs,
        "select model || coalesce('#' || nullif(document_prompt, ''), '') from embedding_targets",
    )
    again = claim(docs, 1, model.partition("#")[0])[0]
    assert len(again.unstored) == 2
    assert stage(docs, again, model=model) == []
    assert complete(docs, again, model=model) == []
    assert faults(docs) == {}


# -- locks


@pytest.fixture
def impatient(docs: Database) -> Database:
    """A wait for a lock ends with an error, and not with the end of the test."""
    for function in ("claim_embeddings", "stage_chunks", "complete_documents"):
        docs.execute(
            sql.SQL("alter function {} set lock_timeout = '2s'").format(sql.Identifier(function))
        )
    return docs


@pytest.mark.parametrize(
    ("held", "staged", "completed"),
    [
        ("select from docs for key share", [], []),
        ("select from docs for share", [], ["locked"]),
        ("update docs set tenant = 5", [], ["locked"]),
        ("update docs set id = 2", ["locked"], ["locked"]),
        ("delete from docs", ["locked"], ["locked"]),
        ("select from docs for update", ["locked"], ["locked"]),
        ("select from embedding_queue for update", [], ["locked"]),
        ("select from docs_chunks for update", [], []),
    ],
)
def test_no_call_waits_for_a_row_that_another_session_holds(
    impatient: Database,
    connect: Connect,
    held: LiteralString,
    staged: list[str],
    completed: list[str],
) -> None:
    impatient.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(impatient)
    stage(impatient, document, document.chunks[:1])
    other = connect()
    with other.transaction(force_rollback=True):
        other.execute(held)
        assert [reason for _, reason in stage(impatient, document)] == staged
        if not staged:
            assert [reason for _, reason in complete(impatient, document)] == completed
        else:
            assert complete(impatient, document) == [(document.id, "locked")]
    if staged or completed:
        assert stage(impatient, document) == []
        assert complete(impatient, document) == []
    assert faults(impatient) == {}


@pytest.mark.parametrize("table", ["docs", "docs_chunks", "docs_chunk_places"])
def test_no_call_waits_for_a_table_that_another_session_holds(
    impatient: Database, connect: Connect, table: LiteralString
) -> None:
    impatient.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(impatient)
    stage(impatient, document, document.chunks[:1])
    other = connect()
    with other.transaction(force_rollback=True):
        other.execute(f"lock table {table} in access exclusive mode")
        if table != "docs_chunk_places":
            with pytest.raises(psycopg.errors.LockNotAvailable):
                stage(impatient, document)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            complete(impatient, document)
        expire_leases(impatient)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            claim(impatient)
    assert embed(impatient) == ["Two."]
    assert problem(impatient) is None


def test_a_text_that_is_edited_and_completed_while_it_is_staged_leaves_no_chunk(
    docs: Database, connect: Connect
) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One.')")
    embed(docs)
    docs.execute("update docs set body = 'One. Two.'")
    document = claim_one(docs)
    docs.execute(
        "create function hold() returns trigger language plpgsql as $$ begin"
        "   while new.content = 'Two.' and not pg_try_advisory_xact_lock_shared(1) loop"
        "     perform pg_sleep(0.01); end loop; return new; end $$"
    )
    docs.execute(
        "create trigger hold before insert on docs_chunks for each row execute function hold()"
    )
    other = connect()
    with ThreadPoolExecutor(1) as pool:
        docs.execute("select pg_advisory_lock(1)")
        staged = pool.submit(stage, other, document)
        held = "select exists (select from pg_stat_activity where wait_event = 'PgSleep')"
        while not value(docs, held):
            pass
        try:
            docs.execute("update docs set body = 'Three.'")
            assert embed(docs) == ["Three."]
        finally:
            docs.execute("select pg_advisory_unlock(1)")
        assert staged.result() == [(document.id, "lost")]
    assert faults(docs) == {}


# -- tables that somebody has changed


@pytest.mark.parametrize(
    "change",
    rest_in_full(
        [
            "drop table docs_chunks cascade",
            "alter table docs_chunk_places rename to old_places",
            "drop table docs_chunk_places cascade",
            "drop table docs_chunks, docs_chunk_places cascade",
            "alter table docs_chunks rename to old_chunks",
            "create schema other; alter table docs_chunks set schema other",
        ],
        2,
    ),
)
@pytest.mark.parametrize("noticed_by", ["claim", "stage", "complete"])
def test_a_missing_table_of_chunks_suspends_and_watch_makes_it_again(
    docs: Database, change: LiteralString, noticed_by: str
) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    embed(docs)
    docs.execute("update docs set body = 'One. Three.'")
    document = None if noticed_by == "claim" else claim_one(docs)
    docs.execute(change)
    if document is None:
        assert claim(docs) == []
    else:
        call: Callable[[Database, Document], object] = stage if noticed_by == "stage" else complete
        assert call(docs, document) == [(document.id, "suspended")]
    cause = problem(docs)
    assert cause is not None
    assert cause.endswith(
        "which holds the chunks of docs, is missing; run `worker watch docs --column embedding`"
    )
    assert [
        check
        for (check,) in rows(
            docs, "select check_name from diagnose_embeddings() where level = 'problem'"
        )
    ] != []
    docs.execute("update docs set body = 'One. Four.'")  # nobody who writes notices
    message, _ = refusal(docs, "select * from search_embeddings('docs', 'embedding', '[1,2,3]')")
    assert message == cause
    docs.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert "Four." in embed(docs)
    assert faults(docs) == {}
    assert passages(docs) == [(1, 0, "One. "), (1, 1, "Four.")]


@pytest.mark.parametrize("change", ["id = 5", "body = 'Three.'"])
def test_chunks_without_their_foreign_key_suspend_and_watch_ties_them_again(
    docs: Database, change: LiteralString
) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One.'), (2, 'Two.'), (3, 'Gone.')")
    embed(docs)
    docs.execute("alter table docs drop constraint docs_pkey cascade, add primary key (id)")
    docs.execute("delete from docs where id = 3")
    docs.execute(f"update docs set {change} where id = 1")
    assert claim(docs) == []
    assert problem(docs) == (
        "public.docs_chunks has lost its foreign key to docs; run `worker watch docs"
        " --column embedding`"
    )
    docs.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    embed(docs)
    assert faults(docs) == {}
    docs.execute("delete from docs")
    assert rows(docs, "select from docs_chunks") == []


def test_a_missing_view_is_made_again(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    docs.execute("drop view docs_passages")
    assert embed(docs) == ["One. ", "Two."]
    docs.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert faults(docs) == {}


def test_a_table_that_is_renamed_keeps_its_chunks(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    embed(docs)
    docs.execute("alter table docs rename to articles")
    docs.execute("select watch_embeddings('articles', embedding_column => 'embedding')")
    docs.execute("update articles set body = 'One. Three.'")
    assert embed(docs) == ["Three."]
    assert passages(docs) == [(1, 0, "One. "), (1, 1, "Three.")]
    docs.execute("select unwatch_embeddings('articles', 'embedding')")
    assert relations(docs) == []


def test_a_key_column_that_is_renamed_suspends_and_is_said(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    embed(docs)
    docs.execute("alter table docs rename id to number")
    docs.execute("update embedding_queue set status = 'pending'")
    assert claim(docs) == []
    assert "docs.id was renamed or dropped" in (problem(docs) or "")
    message, hint = refusal(
        docs, "select watch_embeddings('docs', embedding_column => 'embedding')"
    )
    assert (message, hint) == (
        "the key of table docs is no longer that of public.docs_chunks",
        "Rename the columns of the tables beside it as well, or run `worker unwatch docs"
        " --column embedding` first, which drops them.",
    )
    for table in ("docs_chunks", "docs_chunk_places"):
        docs.execute(sql.SQL("alter table {} rename id to number").format(sql.Identifier(table)))
    docs.execute("drop view docs_passages")
    docs.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    docs.execute("update docs set body = 'One. Three.'")
    assert embed(docs) == ["Three."]


# -- plans and claims


def test_a_claim_of_long_texts_ends_with_four_million_characters(docs: Database) -> None:
    docs.execute(
        "insert into docs (id, body) select i, repeat('x', 1500000) from generate_series(1, 5) as i"
    )
    assert len(claim(docs)) == 3
    assert len(claim(docs)) == 2
