"""The function `match_<table>` that a watch writes for apps: what it returns, to whom, how fast."""

from __future__ import annotations

from typing import Any, LiteralString

import pytest

from tests.conftest import Database, migrate, rows, value
from tests.integration.tables import Table, acting_as, create_role, refusal
from worker.queue.postgres import PostgresQueue

NEAR: LiteralString = "select * from match_docs('[1,0,0]')"
NAMES: LiteralString = (
    "select proname::text from pg_proc"
    " where starts_with(proname, 'match_') and pronamespace <> 'embedding'::regnamespace order by 1"
)
WATCH: LiteralString = (
    "select watch_embeddings('docs', 'body', 'embedding', match_function => true)"
)


@pytest.fixture
def searched(docs: Database) -> Database:
    """The table `docs` with three rows at 0, 60 and 90 degrees to [1,0,0], one without a vector."""
    docs.execute(
        "insert into docs values (1, 'at a right angle', 0, '[0,1,0]'),"
        " (2, 'the same', 0, '[2,0,0]'), (3, 'near', 0, '[1,1.7320508,0]'),"
        " (4, 'not embedded', 0, null)"
    )
    docs.execute(WATCH)
    return docs


def names(db: Database) -> list[str]:
    """The match functions that there are."""
    return [name for (name,) in rows(db, NAMES)]


# -- what it returns


def test_it_gives_the_nearest_rows_with_their_keys_texts_and_similarity(searched: Database) -> None:
    found = rows(searched, NEAR)
    assert [row[:2] for row in found] == [(2, "the same"), (3, "near"), (1, "at a right angle")]
    assert [row[2] for row in found] == pytest.approx([1, 0.5, 0], abs=1e-6)


def test_it_gives_no_more_than_match_count(searched: Database) -> None:
    assert [row[0] for row in rows(searched, "select * from match_docs('[1,0,0]', 2)")] == [2, 3]


def test_it_gives_none_below_match_threshold(searched: Database) -> None:
    near: LiteralString = "select id from match_docs('[1,0,0]', match_threshold => 0.4)"
    assert rows(searched, near) == [(2,), (3,)]


def test_a_row_outside_the_filter_is_not_found(searched: Database) -> None:
    searched.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'id <> 2')")
    assert [row[0] for row in rows(searched, NEAR)] == [3, 1]


def test_a_text_that_cannot_be_read_any_more_hides_no_other(searched: Database) -> None:
    searched.execute("select watch_embeddings('docs', '(12 / id)::text || body', 'embedding')")
    searched.execute("update docs set id = 0 where id = 2")
    assert [row[:2] for row in rows(searched, NEAR)] == [
        (0, None),
        (3, "4near"),
        (1, "12at a right angle"),
    ]


@pytest.mark.parametrize(
    ("key", "row"),
    [
        ("id uuid primary key", ("uuid",)),
        ("a text, b bigint, primary key (b, a)", ("bigint", "text")),
        ('"Weird Id" numeric(6, 2) primary key', ("numeric",)),
        ("id app.size primary key", ("app.size",)),
        ("match_count integer, embedding_of varchar(9), primary key (embedding_of)", None),
    ],
)
def test_its_types_are_those_of_the_key(
    db: Database, key: LiteralString, row: tuple[str, ...] | None
) -> None:
    db.execute("create schema app")
    db.execute("create type app.size as enum ('small')")
    db.execute("create table docs (" + key + ", content text, similarity text)")
    db.execute(
        "select watch_embeddings('docs', 'content', 'embedding', dimensions => 3,"
        " match_function => true)"
    )
    columns: LiteralString = (
        "select array_agg(format_type(type, null) order by place)"
        " from pg_proc, unnest(proallargtypes, proargmodes)"
        "               with ordinality as output (type, mode, place)"
        " where proname = 'match_docs' and mode = 't'"
    )
    expected = row or ("character varying",)
    fixed = ["text", "double precision", "double precision", "integer", "integer"]
    assert value(db, columns) == [*expected, *fixed]
    assert rows(db, NEAR) == []


def test_a_key_of_a_name_that_the_function_needs_is_refused(db: Database) -> None:
    db.execute("create table docs (content text primary key, body text)")
    sentence, hint = refusal(
        db,
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3,"
        " match_function => true)",
    )
    assert sentence == "table docs cannot have a match function: its key has a column content"
    assert "search_embeddings" in hint


@pytest.mark.parametrize("schema", ["public", "My-Schema"])
@pytest.mark.parametrize("name", ["docs", 'we"ird', "n" * 63])
def test_a_table_of_any_name_can_have_one(db: Database, schema: str, name: str) -> None:
    table = Table(db, schema=schema, name=name)
    table.create()
    table.watch()
    table.insert(1, "one")
    table.write(1, "[1,0,0]")
    db.execute(
        "select watch_embeddings(relation::regclass, 'body', 'embedding', match_function => true)"
        " from embedding_targets"
    )
    [(routine,)] = rows(db, "select routine::text from embedding.match_functions()")
    query: Any = f"select * from {routine.split('(')[0]}('[1,0,0]')"
    assert rows(db, query) == [(1, "one", 1.0, None, None, None)]


def test_a_wide_column_is_searched_by_a_halfvec(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 2500,"
        " match_function => true)"
    )
    signature = value(db, "select routine::text from embedding.match_functions()")
    assert signature == (
        "match_docs(halfvec,integer,double precision,text,double precision,integer,jsonb,text)"
    )


# -- its life


def test_without_being_asked_for_there_is_none(docs: Database) -> None:
    assert names(docs) == []


def test_it_is_kept_in_step_by_every_watch_and_taken_away_when_asked(searched: Database) -> None:
    searched.execute("select watch_embeddings('docs', 'upper(body)', 'embedding')")
    assert rows(searched, NEAR)[0][1] == "THE SAME"
    searched.execute(
        "select watch_embeddings('docs', 'body', 'embedding', match_function => false)"
    )
    assert names(searched) == []


def test_it_goes_when_the_column_is_unwatched(searched: Database, queue: PostgresQueue) -> None:
    assert queue.unwatch("docs", "embedding")
    assert names(searched) == []


def test_it_follows_its_table_to_another_name(searched: Database) -> None:
    searched.execute("alter table docs rename to papers")
    searched.execute("select watch_embeddings('papers', 'body', 'embedding')")
    assert names(searched) == ["match_papers"]
    assert value(searched, "select id from match_papers('[1,0,0]', 1)") == 2


def test_it_follows_the_types_of_its_key_and_of_its_vectors(searched: Database) -> None:
    searched.execute("drop table docs")
    searched.execute("create table docs (id text primary key, body text, embedding halfvec(3))")
    searched.execute("insert into docs values ('number 2', 'two', '[1,0,0]')")
    searched.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert names(searched) == ["match_docs"]
    assert value(searched, "select id from match_docs('[1,0,0]', 1)") == "number 2"


def test_a_second_column_has_one_under_its_own_name_and_both_keep_theirs(
    searched: Database, queue: PostgresQueue
) -> None:
    watch: LiteralString = (
        "select watch_embeddings('docs', 'body', 'other', dimensions => 3, match_function => true)"
    )
    searched.execute(watch)
    assert names(searched) == ["match_docs", "match_docs_other"]
    searched.execute(WATCH)
    searched.execute(watch)
    assert names(searched) == ["match_docs", "match_docs_other"]
    assert queue.unwatch("docs", "embedding")
    searched.execute(watch)
    assert names(searched) == ["match_docs_other"]


@pytest.mark.parametrize("arguments", ["", "vector, integer, double precision"])
def test_a_function_of_somebody_else_is_never_overwritten(
    docs: Database, arguments: LiteralString
) -> None:
    docs.execute(
        "create function match_docs("
        + arguments
        + ") returns text language sql as $$ select 'mine' $$"
    )
    before = rows(docs, "select id, updated_at from embedding_targets")
    sentence, hint = refusal(docs, WATCH)
    assert sentence == "there is a function public.match_docs already, which is not of this column"
    assert hint == "Rename that function, or watch the column without match_function."
    assert rows(docs, "select id, updated_at from embedding_targets") == before
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', match_function => false)")
    assert names(docs) == ["match_docs"]


# -- who may call it, and what it costs


def test_who_calls_it_sees_what_they_may_read(searched: Database) -> None:
    create_role(searched, "anon")
    with acting_as(searched, "anon"):
        assert refusal(searched, NEAR)[0] == "permission denied for table docs"
    searched.execute("grant select on docs to anon")
    searched.execute("alter table docs enable row level security")
    searched.execute("create policy visible on docs for select to anon using (id = 3)")
    with acting_as(searched, "anon"):
        assert [row[0] for row in rows(searched, NEAR)] == [3]


def test_whoever_was_given_it_keeps_it_when_it_is_written_anew(searched: Database) -> None:
    create_role(searched, "anon")
    granted: LiteralString = (
        "select has_function_privilege('anon', routine, 'execute') from embedding.match_functions()"
    )
    searched.execute("revoke execute on function match_docs from public")
    assert not value(searched, granted)
    searched.execute("select watch_embeddings('docs', 'upper(body)', 'embedding')")
    assert not value(searched, granted)
    searched.execute("grant execute on function match_docs to anon")
    searched.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert value(searched, granted)


def test_an_index_over_the_column_serves_it(searched: Database) -> None:
    searched.execute("truncate docs")
    searched.execute(
        "insert into docs select id, 'text ' || id, 0,"
        " array[sin(id), cos(id), sin(id * 0.37)]::vector from generate_series(1, 5000) as id"
    )
    searched.execute("create index nearest on docs using hnsw (embedding vector_cosine_ops)")
    searched.execute("analyze docs")
    for _ in range(8):  # also by the plan that Postgres keeps after five
        assert len(rows(searched, "select * from match_docs('[1,0,0]', 5, 0.1)")) == 5
    searched.execute("select pg_stat_force_next_flush()")
    scans = "select idx_scan from pg_stat_user_indexes where indexrelname = 'nearest'"
    assert value(searched, scans) == 8


def test_it_works_where_pgvector_lives_in_a_schema_of_its_own(
    empty_db: Database, empty_database_url: str
) -> None:
    migrate(
        empty_database_url,
        "create schema extensions",
        "create extension vector with schema extensions",
    )
    empty_db.execute("create table docs (id bigint primary key, body text)")
    empty_db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3,"
        " match_function => true)"
    )
    empty_db.execute("insert into docs values (1, 'one', '[1,2,3]')")
    assert rows(empty_db, NEAR)[0][:2] == (1, "one")
