"""What would break with a vector column, or keep reading it, is listed; all else is not."""

from __future__ import annotations

from typing import Any, LiteralString

import pytest

from tests.conftest import Database, rows
from tests.integration.tables import create_role

QUERY: LiteralString = "select kind, name from embedding.dependents_of(%s::regclass, %s)"

# Statements, and the dependents that they make.
DEPENDENTS: dict[str, tuple[list[LiteralString], list[tuple[str, str]]]] = {
    "view": (
        ["create view near as select id, embedding <=> '[1,2,3]' as distance from docs"],
        [("view", "public.near")],
    ),
    "materialized view": (
        ["create materialized view near as select embedding from docs"],
        [("materialized view", "public.near")],
    ),
    "a view over a view": (
        [
            "create view near as select id, embedding from docs",
            'create schema "A b"',
            'create view "A b"."V ""w" as select id from near',
        ],
        [("view", '"A b"."V ""w"'), ("view", "public.near")],
    ),
    "a function over a view": (
        [
            "create view near as select embedding from docs",
            "create function nearest() returns setof near language sql as 'select * from near'",
        ],
        [("function", "public.nearest()"), ("view", "public.near")],
    ),
    "rule": (
        ["create rule seen as on update to docs where new.embedding is null do also select 1"],
        [("rule", "seen on public.docs")],
    ),
    "function with a body of SQL": (
        [
            "create function stored(integer) returns bigint"
            " begin atomic select count(embedding) from docs; end"
        ],
        [("function", "public.stored(integer)")],
    ),
    "procedure with a body of SQL": (
        ["create procedure clear() begin atomic update docs set embedding = null; end"],
        [("procedure", "public.clear()")],
    ),
    "a default that calls such a function": (
        [
            "create function stored() returns bigint"
            " begin atomic select count(embedding) from docs; end",
            "create table counts (stored bigint default stored())",
        ],
        [("default", "public.counts.stored"), ("function", "public.stored()")],
    ),
    "policy using": (
        ["create policy seen on docs using (embedding is not null)"],
        [("policy", "seen on public.docs")],
    ),
    "policy with check": (
        ['create policy "S n" on docs for insert with check (embedding is null)'],
        [("policy", '"S n" on public.docs')],
    ),
    "policy of another table": (
        [
            "create table notes (id bigint)",
            "create policy seen on notes"
            " using (id in (select id from docs where embedding is null))",
        ],
        [("policy", "seen on public.notes")],
    ),
    "generated column": (
        [
            "alter table docs add column w integer"
            " generated always as (vector_dims(embedding)) stored"
        ],
        [("generated column", "public.docs.w")],
    ),
    "a view over a generated column": (
        [
            "alter table docs add column w real"
            " generated always as (vector_norm(embedding)) stored",
            "create view norms as select w from docs",
        ],
        [("generated column", "public.docs.w"), ("view", "public.norms")],
    ),
    "check": (
        ["alter table docs add constraint sound check (vector_norm(embedding) > 0)"],
        [("check constraint", "sound on public.docs")],
    ),
    "foreign key and unique": (
        [
            "alter table docs add constraint own unique (embedding)",
            "create table notes (v vector(3) constraint of_docs references docs (embedding))",
        ],
        [("constraint", "own on public.docs"), ("foreign key", "of_docs on public.notes")],
    ),
    "index of several columns": (
        ["create index by_both on docs (id, embedding)"],
        [("index", "public.by_both")],
    ),
    "index with a condition": (
        ["create index missing on docs (id) where embedding is null"],
        [("index", "public.missing")],
    ),
    "index of an expression": (
        [
            "create index bits on docs using hnsw"
            " ((binary_quantize(embedding)::bit(3)) bit_hamming_ops)"
        ],
        [("index", "public.bits")],
    ),
    "index of no vector method": (
        ["create index exact on docs (embedding)"],
        [("index", "public.exact")],
    ),
    "statistics": (
        ["create statistics known on id, (vector_dims(embedding)) from docs"],
        [("statistics", "public.known")],
    ),
    "publication": (
        ["create publication changes for table docs (id, embedding)"],
        [("publication", "public.docs in publication changes")],
    ),
    "trigger of an update of it": (
        [
            "create function seen() returns trigger language plpgsql as 'begin return new; end'",
            "create trigger seen before update of embedding on docs"
            " for each row execute function seen()",
        ],
        [("trigger", "seen on public.docs")],
    ),
    "trigger with a condition": (
        [
            "create function seen() returns trigger language plpgsql as 'begin return new; end'",
            "create trigger seen before insert on docs for each row"
            " when (new.embedding is not null) execute function seen()",
        ],
        [("trigger", "seen on public.docs")],
    ),
}

# Statements after which nothing depends on the column.
OTHERS: list[LiteralString] = [
    "create index on docs using hnsw (embedding vector_cosine_ops)",
    "create index on docs using ivfflat (embedding vector_l2_ops) where id > 1",
    "comment on column docs.embedding is 'a comment'",
    "grant select (embedding), update (embedding) on docs to reader",
    "create view texts as select id, body from docs",
    "create publication every for table docs",
    "create function f() returns setof docs language sql as 'select * from docs'",
    "create function stored() returns bigint language sql"
    " as 'select count(embedding) from public.docs'",
    "alter table docs alter column embedding set storage plain",
    "alter table docs alter column embedding set default '[1,2,3]'",
    "alter table docs alter column embedding set not null",
    "create policy seen on docs using (id > 0)",
]


def dependents(db: Database, table: str = "docs", column: str = "embedding") -> list[Any]:
    return rows(db, QUERY, table, column)


@pytest.mark.parametrize("kind", DEPENDENTS)
def test_each_dependent_is_listed_by_its_name(docs: Database, kind: str) -> None:
    statements, expected = DEPENDENTS[kind]
    for statement in statements:
        docs.execute(statement)
    assert dependents(docs) == expected
    assert dependents(docs, column="body") == []


def test_nothing_else_is_listed(docs: Database) -> None:
    create_role(docs, "reader")
    for statement in OTHERS:
        docs.execute(statement)
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', match_function => true)")
    assert dependents(docs) == []
    docs.execute("alter table docs drop column embedding")  # without `cascade`


@pytest.mark.parametrize("kind", DEPENDENTS)
def test_what_a_drop_takes_along_is_what_was_listed(docs: Database, kind: str) -> None:
    for statement in DEPENDENTS[kind][0]:
        docs.execute(statement)
    docs.execute("alter table docs drop column embedding cascade")
    docs.execute("alter table docs add column embedding vector(3)")
    assert dependents(docs) == []


def test_each_dependent_has_a_cure(docs: Database) -> None:
    for number, (statements, _) in enumerate(DEPENDENTS.values()):
        docs.execute("begin")
        for statement in statements:
            docs.execute(statement)
        cures = rows(docs, "select cure from embedding.dependents_of('docs', 'embedding')")
        assert cures, number
        assert all(cure.endswith(".") and "column" in cure for (cure,) in cures)
        docs.execute("rollback")


def test_of_a_text_in_chunks_what_reads_the_tables_of_its_chunks_is_listed(db: Database) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', dimensions => 3, chunks => true,"
        " language => 'english', match_function => true)"
    )
    db.execute("create index on docs_chunks using hnsw (embedding vector_cosine_ops)")
    assert dependents(db) == []
    db.execute("create view pages as select id, page from docs_passages")
    db.execute("create view hashes as select hash from docs_chunks")
    db.execute("create view texts as select body from docs")
    assert dependents(db) == [("view", "public.hashes"), ("view", "public.pages")]


def test_a_column_that_is_not_there_has_no_dependents(docs: Database) -> None:
    assert dependents(docs, column="missing") == []
