"""What a search finds in texts in chunks: the best passages of each text, and where they are."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.chunks import claim_one, create_chunked, embed, stage
from tests.integration.tables import create_role

MATCH: LiteralString = "select id, content, first_char, last_char from match_docs('[1,0,0]'{})"
SEARCH: LiteralString = (
    "select record_id::bigint, content, first_char, last_char"
    "  from search_embeddings('docs', 'embedding', '[1,0,0]'{})"
)


def create_matched(db: Database) -> None:
    create_chunked(db)
    db.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', match_function => true)"
    )


FIRST_TABLES = {"docs": create_matched}


@pytest.fixture
def docs(db: Database) -> Database:
    """A watched table `docs (id, title, body, tenant)` without rows, with a match function."""
    return db


@pytest.fixture(params=[MATCH, SEARCH], ids=["match", "search"])
def find(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def write(db: Database, id: int, angles: list[float], placed: bool = True, tenant: int = 1) -> None:
    """Write a text of chunks whose vectors have these angles to [1, 0, 0]."""
    db.execute("insert into docs (id, body, tenant) values (%s, 'text', %s)", [id, tenant])
    db.execute(
        "insert into docs_chunks select %s, int4send(place::integer), 'chunk ' || place, null,"
        " array[cos(angle), sin(angle), 0]::real[]::vector"
        "  from unnest(%s::float8[]) with ordinality as given (angle, place)",
        [id, angles],
    )
    if placed:
        db.execute(
            "insert into docs_chunk_places select id, row_number() over (order by hash) - 1, hash,"
            " 10 * row_number() over (order by hash), 10 * row_number() over (order by hash) + 9"
            "  from docs_chunks where id = %s",
            [id],
        )


def found(db: Database, find: str, arguments: str = "") -> list[tuple[Any, ...]]:
    return db.execute(find.replace("{}", arguments).encode()).fetchall()


def count(find: str, wanted: int) -> str:
    return f", {'match_count' if find == MATCH else 'matches'} => {wanted}"


def test_a_search_returns_the_best_passage_of_each_text(docs: Database, find: str) -> None:
    write(docs, 1, [0.5, 0.1, 0.3])
    write(docs, 2, [0.2])
    assert found(docs, find) == [(1, "chunk 2", 20, 29), (2, "chunk 1", 10, 19)]
    assert found(docs, find, ", per_document => 2") == [
        (1, "chunk 2", 20, 29),
        (2, "chunk 1", 10, 19),
        (1, "chunk 3", 30, 39),
    ]
    assert len(found(docs, find, ", per_document => 9")) == 4
    assert len(found(docs, find, ", per_document => null")) == 2
    assert len(found(docs, find, ", per_document => 9" + count(find, 3))) == 3


def test_a_chunk_that_occurs_often_is_found_where_it_is_first(docs: Database, find: str) -> None:
    docs.execute(
        "insert into docs (id, body) values (1, repeat('Two. ', 3) || repeat('One. ', 200))"
    )
    assert embed(docs) == ["One. ", "Two. "]
    assert value(docs, "select count(*) from docs_chunk_places") == 203
    assert sorted(found(docs, find, ", per_document => 9")) == [
        (1, "One. ", 15, 20),
        (1, "Two. ", 0, 5),
    ]


def test_a_place_is_that_of_its_passage(docs: Database) -> None:
    docs.execute("insert into docs (id, body) values (1, 'One. Two.')")
    document = claim_one(docs)
    stage(docs, document)
    docs.execute(
        "select * from complete_documents(%s, %s, %s, 'test:model', '{7}', '{0.5}', %s, %s,"
        " '{0,5}', '{5,9}', '{1,null}', array['A > B', null])",
        [
            [document.id],
            [document.lease],
            [document.content_hash],
            [document.id] * 2,
            [chunk.hash for chunk in document.chunks],
        ],
    )
    columns: LiteralString = "content, page, heading_path, first_char, last_char"
    expected = [("One. ", 1, "A > B", 0, 5), ("Two.", None, None, 5, 9)]
    for source in (
        "docs_passages",
        "match_docs('[1,2,3]', per_document => 2)",
        "search_embeddings('docs', 'embedding', '[1,2,3]', per_document => 2)",
    ):
        assert rows(docs, f"select {columns} from {source} order by first_char") == expected
    assert rows(docs, "select tokens, cost from embedding_queue") == [(7, 0.5)]


def test_what_is_only_staged_is_not_found(docs: Database, find: str) -> None:
    write(docs, 1, [0.001 * i for i in range(500)], placed=False)
    write(docs, 2, [1.0])
    assert found(docs, find) == [(2, "chunk 1", 10, 19)]


LIMITED: dict[str, list[LiteralString]] = {
    "nothing": [],
    "policies": [
        "grant select on docs to reader",
        "alter table docs enable row level security",
        "create policy of_tenant on docs to reader using (tenant = 1)",
        "select watch_embeddings('docs', embedding_column => 'embedding')",
        "set role reader",
    ],
    "a filter": [],
    "the filter of the column": [
        "select watch_embeddings('docs', embedding_column => 'embedding', filter => 'tenant = 1')",
    ],
}
WAYS = [(MATCH, by) for by in LIMITED] + [(SEARCH, by) for by in LIMITED if by != "policies"]


@pytest.mark.parametrize("index", [False, True], ids=["without an index", "with an index"])
@pytest.mark.parametrize(("find", "by"), rest_in_full(WAYS, first=4))
def test_many_near_chunks_of_one_text_leave_room_for_others(
    docs: Database, find: str, by: str, index: bool
) -> None:
    create_role(docs, "reader")
    write(docs, 1, [0.0001 * i for i in range(3000)])
    write(docs, 2, [0.0001 * i for i in range(100)], tenant=2)
    for id in range(3, 14):
        write(docs, id, [0.5 + 0.01 * id])
    if index:
        docs.execute("create index on docs_chunks using hnsw (embedding vector_cosine_ops)")
        docs.execute("set enable_seqscan = off")  # as for a table so large that the index pays
    for statement in LIMITED[by]:
        docs.execute(statement)
    arguments = count(find, 10)
    if by == "a filter":
        arguments += """, filter => '{"tenant": 1}'"""
    first = [1, 2] if by == "nothing" else [1]
    answer = [row[0] for row in found(docs, find, arguments)]
    assert sorted(answer[: len(first)]) == first
    assert answer[len(first) :] == [*range(3, 14)][: 10 - len(first)]


def test_exact_compares_all_vectors(docs: Database) -> None:
    docs.execute("create index on docs_chunks using hnsw (embedding vector_cosine_ops)")
    write(docs, 1, [0.3])
    write(docs, 2, [0.1])
    assert [row[0] for row in found(docs, SEARCH, ", exact => true")] == [2, 1]


@pytest.mark.parametrize("index", [False, True], ids=["without an index", "with an index"])
def test_words_of_the_headings_find_a_passage(docs: Database, index: bool) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', context => 'title',"
        " language => 'english')"
    )
    docs.execute(
        "insert into docs (id, title, body) values (1, 'Warranty', 'We repair. We pay.'),"
        " (2, 'Shipping', 'We send.')"
    )
    embed(docs)
    if index:
        for (statement,) in rows(docs, "select embedding_index_statements('docs', 'embedding')"):
            docs.execute(statement)
    for call in (
        "match_docs(null, query_text => {}, per_document => 5)",
        "search_embeddings('docs', 'embedding', null, query_text => {}, per_document => 5)",
    ):
        query = sql.SQL("select content from " + call + " order by content")
        for words, contents in {
            "warranties": ["We pay.", "We repair. "],
            "repairing": ["We repair. "],
            "unknown": [],
        }.items():
            answer = docs.execute(query.format(sql.Literal(words))).fetchall()
            assert [content for (content,) in answer] == contents


def test_words_and_vectors_find_together(docs: Database) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', language => 'english')"
    )
    write(docs, 1, [0.1, 0.2])
    write(docs, 2, [1.5])
    docs.execute("update docs_chunks set content = 'a rare animal' where id = 2")
    answer = rows(
        docs,
        "select id, vector_rank, text_rank from match_docs('[1,0,0]', query_text => 'animals')",
    )
    assert answer == [(2, 3, 1), (1, 1, None)]
    assert rows(
        docs,
        "select record_id, vector_rank, text_rank from search_embeddings('docs', 'embedding',"
        " '[1,0,0]', query_text => 'animals')",
    ) == [("2", 3, 1), ("1", 1, None)]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (", {count} => -1", "the number of rows cannot be -1"),
        (", rrf_k => -1", "rrf_k cannot be -1"),
        (", full_text_weight => 'NaN'", "full_text_weight cannot be NaN"),
        (", filter => '[]'", "the filter is not a JSON object: []"),
        (
            """, filter => '{"colour": 1}'""",
            "the filter names a column colour that table docs does not have",
        ),
    ],
)
def test_what_a_search_cannot_use_is_refused(
    docs: Database, find: str, arguments: str, cause: str
) -> None:
    name = "match_count" if find == MATCH else "matches"
    message, hint = refused(docs, find, arguments.replace("{count}", name))
    assert (message.replace("public.", ""), bool(hint)) == (cause, True)


def test_a_vector_of_another_width_is_refused(docs: Database, find: str) -> None:
    message, hint = refused(docs, find.replace("[1,0,0]", "[1,0]"), "")
    assert message.startswith("the vector of the query has 2 dimensions, and those of column")
    assert hint == "Embed the query with the model of the column."


def refused(docs: Database, find: str, arguments: str) -> tuple[str, str]:
    with pytest.raises(psycopg.Error) as problem:
        found(docs, find, arguments)
    diagnosis = problem.value.diag
    return diagnosis.message_primary or "", diagnosis.message_hint or ""
