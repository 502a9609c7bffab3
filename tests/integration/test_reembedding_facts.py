"""What the database knows of a column before it is re-embedded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Database, value
from tests.integration.tables import Table
from worker.database.connection import PostgresConnection
from worker.errors import SettingsError
from worker.reembedding.preflight import (
    bytes_of_index,
    find_reembedding_facts,
    left_behind,
    preflight,
)


@pytest.fixture
def connection(database_url: str) -> Iterator[PostgresConnection]:
    connection = PostgresConnection(database_url, "tests")
    yield connection
    connection.close()


def test_the_facts_of_a_column(docs: Database, connection: PostgresConnection) -> None:
    docs.execute("insert into docs select id, 'text' from generate_series(1, 7) as id")
    docs.execute("create index near on docs using hnsw (embedding vector_cosine_ops)")
    docs.execute("create view vectors as select embedding from docs")
    docs.execute("create publication every for table docs")
    facts = find_reembedding_facts(connection, "docs", "embedding", 512)
    assert (facts.table_name, facts.row_count) == ("docs", 7)
    assert (facts.column_type, facts.present_dimensions, facts.wanted_dimensions) == (
        "vector",
        3,
        512,
    )
    assert (facts.index_name, facts.index_is_valid) == ("public.near", True)
    assert facts.index_bytes == value(docs, "select pg_relation_size('near')")
    assert facts.table_bytes == value(docs, "select pg_table_size('docs')")
    assert facts.publications == ["every"]
    assert [dependent["name"] for dependent in facts.dependents] == ["public.vectors"]
    assert {finding.check for finding in preflight(facts)} == {"dependent", "replication", "space"}


def test_the_facts_of_chunks_are_those_of_their_table(
    db: Database, connection: PostgresConnection
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("insert into docs values (1, 'a text')")
    db.execute("select watch_embeddings('docs', 'body', dimensions => 3, chunks => true)")
    db.execute("insert into docs_chunks values (1, 'a', 'b', null, '[1,2,3]')")
    db.execute("insert into docs_chunks values (1, 'b', 'b', null, '[1,2,3]')")
    facts = find_reembedding_facts(connection, "docs", "embedding", 3)
    assert (facts.store, facts.row_count, facts.present_dimensions) == ("chunks", 2, 3)


def test_any_names_will_do(db: Database, connection: PostgresConnection) -> None:
    table = Table(db, schema='A "b', name='T "x; %s', vector='E "v')
    table.create()
    name = table.watch()
    facts = find_reembedding_facts(connection, '"A ""b"."T ""x; %s"', 'E "v', 3)
    assert facts.table_name == name


def test_what_postgres_does_not_know_as_a_dependent(
    docs: Database, connection: PostgresConnection
) -> None:
    """Further indexes, and routines that name the column in a string; none of ours."""
    docs.execute("create index best on docs using hnsw (embedding vector_cosine_ops)")
    docs.execute("create index further on docs using hnsw (embedding vector_l2_ops)")
    docs.execute("create schema app")
    for name, body in (
        ("app.find(vector)", "select id from Docs order by Embedding <=> $1 limit 1"),
        ("other_column()", "select body from docs"),
        ("other_table()", "select embedding from my_docs"),
    ):
        docs.execute(
            f"create function {name} returns void language plpgsql as"
            f" $$ begin perform {body.removeprefix('select ')}; end $$"
        )
    docs.execute(
        "create procedure app.tidy() language plpgsql as"
        " $$ begin update docs set embedding = null; end $$"
    )
    docs.execute(
        "create function seen() returns trigger language plpgsql as"
        " $$ begin new.embedding := null; return new; end $$"
    )
    assert subjects(connection) == [
        "function app.find(public.vector)",
        "index public.further",
        "procedure app.tidy()",
    ]
    docs.execute("create trigger seen before update on docs for each row execute function seen()")
    assert "function public.seen()" in subjects(connection)
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', match_function => true)"
    )
    assert "match" not in "".join(subjects(connection))


def subjects(connection: PostgresConnection) -> list[str]:
    return [each.subject for each in left_behind(connection, "docs", "embedding")]


def test_a_partitioned_table_is_a_problem(db: Database, connection: PostgresConnection) -> None:
    db.execute("create table docs (id bigint primary key, body text) partition by range (id)")
    db.execute("create table part partition of docs default")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    facts = find_reembedding_facts(connection, "docs", "embedding", 3)
    assert preflight(facts)[0].check == "table"


def test_a_column_that_is_not_watched_has_no_facts(
    docs: Database, connection: PostgresConnection
) -> None:
    with pytest.raises(SettingsError, match="not watched"):
        find_reembedding_facts(connection, "docs", "body", 3)


def test_the_size_of_an_index_is_close_to_the_estimate(
    db: Database, connection: PostgresConnection
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 384)")
    db.execute(
        "insert into docs select id, 'text', (select array_agg(sin(id * n)) from"
        " generate_series(1, 384) as n)::vector from generate_series(1, 400) as id"
    )
    db.execute("create index near on docs using hnsw (embedding vector_cosine_ops)")
    facts = find_reembedding_facts(connection, "docs", "embedding", 384)
    assert facts.index_bytes
    assert 0.8 < bytes_of_index(facts) / facts.index_bytes < 1.25
