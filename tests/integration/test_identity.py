"""Tables and columns that are not the ones that were watched any more, though they have the name.

No vector of one model gets into the column of another, and no text of one column passes for that
of another: the target is suspended and says what to run. A restored dump is no such change.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from tests.conftest import Database, Server, rows, value
from tests.integration import chunks
from tests.integration.jobs import claim, insert
from tests.integration.runs import hand_in
from tests.integration.tables import embed_all, jobs, refusal, vector_of, vectors
from worker.queue.postgres import PostgresQueue

WATCH: LiteralString = "select watch_embeddings('docs', embedding_column => 'embedding')"
EXCHANGE: LiteralString = (
    "alter table docs rename embedding to old; alter table docs rename next to embedding"
)
STORED: LiteralString = "select body, embedding::text from docs"


@dataclass(frozen=True)
class Swap:
    """A change after which a name leads to something else, and which name that is."""

    change: LiteralString
    named: str
    watch: LiteralString = WATCH


SWAPS = {
    "vector columns exchanged": Swap(
        "alter table docs add next vector(3);"
        " alter table docs rename embedding to old; alter table docs rename next to embedding",
        "column docs.embedding is not the one",
    ),
    "vector column added again": Swap(
        "alter table docs drop embedding; alter table docs add embedding vector(3)",
        "column docs.embedding is not the one",
    ),
    "source columns exchanged": Swap(
        "alter table docs rename body to x; alter table docs rename title to body",
        "column docs.body is not the one",
    ),
    "source column added again": Swap(
        "alter table docs drop body cascade; alter table docs add body text, add shouted text"
        " default ''; update docs set body = title",
        "column docs.body is not the one",
    ),
    "generated source column exchanged": Swap(
        "alter table docs rename shouted to x; alter table docs rename title to shouted",
        "column docs.shouted is not the one",
    ),
    "filter columns exchanged": Swap(
        "alter table docs rename views to x; alter table docs rename likes to views",
        "column docs.views is not the one",
    ),
    "key columns exchanged": Swap(
        "alter table docs rename id to x; alter table docs rename likes to id",
        "column docs.id is not the one",
    ),
    "table exchanged": Swap(
        "create table docs_new (like docs including all); insert into docs_new"
        " (id, body, title, views, likes) select id, body, title, views, likes from docs;"
        " alter table docs rename to docs_old; alter table docs_new rename to docs",
        "public.docs is not the table",
    ),
    "table created again": Swap(
        "create table kept as select * from docs; drop table docs;"
        " create table docs (id bigint primary key, body text, title text, views integer,"
        " likes integer unique, embedding vector(3), shouted text default '');"
        " insert into docs select id, body, title, views, likes from kept",
        "public.docs is not the table",
    ),
}


@pytest.fixture
def books(db: Database) -> Database:
    """The watched table `docs` of three rows with vectors, and columns that can be exchanged."""
    db.execute(
        "create table docs (id bigint primary key, body text, title text, views integer,"
        " likes integer unique, shouted text generated always as (upper(body)) stored)"
    )
    db.execute(
        "select watch_embeddings('docs', 'body || left(shouted, 0)', 'embedding',"
        " dimensions => 3, filter => 'views = 0')"
    )
    db.execute(
        "insert into docs select i, 'body ' || i, 'title ' || i, 0, 0 + 10 * i"
        "  from generate_series(1, 3) i"
    )
    return db


def problem(db: Database) -> str:
    return str(value(db, "select problem from embedding_targets where embedding_column <> 'next'"))


@pytest.mark.parametrize("swap", SWAPS.values(), ids=list(SWAPS))
def test_a_target_whose_name_leads_elsewhere_is_suspended_until_it_is_watched_again(
    books: Database, queue: PostgresQueue, swap: Swap
) -> None:
    embed_all(queue)
    books.execute("update docs set body = body || ' edited'")
    taken = claim(queue, 2)
    books.execute(swap.change)

    told = str(value(books, "select problem from embedding_status"))
    assert swap.named in told, "before any worker comes upon it"
    assert told.endswith("; run `worker watch docs --column embedding`")
    assert rows(books, "select check_name, hint from diagnose_embeddings() limit 1") == [
        ("identity_changed", "Run `worker watch docs --column embedding`.")
    ]
    with_query: LiteralString = "select * from search_embeddings('docs', 'embedding', '[1,2,3]')"
    assert refusal(books, with_query) == (told, "")

    before = vectors(books, STORED)
    assert hand_in(queue, taken).released == 2
    assert problem(books) == told
    books.execute("update embedding_targets set problem = null")
    books.execute("update embedding_queue set available_at = now()")
    assert claim(queue) == []
    assert problem(books) == told
    assert vectors(books, STORED) == before, "nothing is written into a column of that name"

    books.execute(swap.watch)
    embed_all(queue)
    in_view = rows(books, "select body || left(shouted, 0) from docs where views = 0")
    assert vectors(books, STORED + " where embedding is not null") == {
        text: vector_of(text) for (text,) in in_view
    }
    assert value(books, "select count(*) from diagnose_embeddings()") == 0
    assert value(books, "select count(distinct tgrelid) from pg_trigger where tgname ~ '_1$'") == 1


# -- two that are watched exchange their names


@pytest.fixture
def two_models(docs: Database, queue: PostgresQueue) -> Database:
    """`docs` with a vector column of another model beside the first, both of three rows."""
    docs.execute(
        "select watch_embeddings('docs', 'upper(body)', 'next', 'a:b', dimensions => 3,"
        " match_function => true)"
    )
    insert(docs, 3)
    embed_all(queue)
    return docs


def test_two_watched_columns_that_exchange_their_names_keep_their_vectors_and_models(
    two_models: Database, queue: PostgresQueue
) -> None:
    docs = two_models
    docs.execute(EXCHANGE)
    docs.execute("update docs set body = 'edited' where id = 1")
    assert claim(queue) == []
    docs.execute(WATCH)
    assert rows(
        docs, "select embedding_column, source, model from embedding_targets order by id"
    ) == [("old", "body", "test:model"), ("embedding", "upper(body)", "a:b")]
    assert embed_all(queue) == ["EDITED"]
    docs.execute("select watch_embeddings('docs', embedding_column => 'old')")
    assert embed_all(queue) == ["edited"]
    assert rows(
        docs, "select embedding_column, count(*) from embedding_queue group by 1 order by 1"
    ) == [("embedding", 3), ("old", 3)]
    found = vectors(docs, "select upper(body), embedding::text from docs")
    assert found == {text: vector_of(text) for text in ("EDITED", "TEXT 2", "TEXT 3")}
    found = vectors(docs, "select body, old::text from docs")
    assert found == {text: vector_of(text) for text in ("edited", "text 2", "text 3")}
    assert value(docs, "select count(*) from diagnose_embeddings()") == 0


def test_a_true_exchange_of_two_names_is_followed(
    two_models: Database, queue: PostgresQueue
) -> None:
    two_models.execute(
        "alter table docs rename embedding to x; alter table docs rename next to embedding;"
        " alter table docs rename x to next"
    )
    two_models.execute(WATCH)
    two_models.execute("select watch_embeddings('docs', embedding_column => 'next')")
    assert rows(
        two_models, "select embedding_column, source, model from embedding_targets order by id"
    ) == [("next", "body", "test:model"), ("embedding", "upper(body)", "a:b")]
    assert embed_all(queue) == [], "nothing is embedded again"
    assert [status for _, status in jobs(two_models)] == ["completed"] * 6
    assert value(two_models, "select count(*) from diagnose_embeddings()") == 0


def test_a_column_that_takes_the_place_of_one_that_was_dropped_keeps_its_jobs(
    two_models: Database, queue: PostgresQueue
) -> None:
    two_models.execute("alter table docs drop embedding; alter table docs rename next to embedding")
    two_models.execute(WATCH)
    assert rows(two_models, "select embedding_column, model from embedding_targets") == [
        ("embedding", "a:b")
    ]
    assert embed_all(queue) == []
    assert [status for _, status in jobs(two_models)] == ["completed"] * 3
    assert rows(two_models, "select content from match_docs('[1,2,3]') limit 1") != []


def test_an_exchange_by_hand_keeps_the_vectors_and_the_name_of_the_match_function(
    two_models: Database, queue: PostgresQueue
) -> None:
    two_models.execute(
        "select watch_embeddings('docs', embedding_column => 'next', match_function => false),"
        " watch_embeddings('docs', embedding_column => 'embedding', match_function => true)"
    )
    with two_models.transaction():
        two_models.execute("select unwatch_embeddings('docs', 'embedding')")
        two_models.execute("alter table docs rename embedding to embedding_old")
        two_models.execute("alter table docs rename next to embedding")
        two_models.execute(
            "select watch_embeddings('docs', embedding_column => 'embedding',"
            " match_function => true)"
        )
    assert embed_all(queue) == []
    assert rows(two_models, "select content from match_docs('[1,2,3]') order by 1") == [
        ("TEXT 1",),
        ("TEXT 2",),
        ("TEXT 3",),
    ]
    two_models.execute("update docs set body = 'edited' where id = 1")
    assert embed_all(queue) == ["EDITED"]
    assert value(two_models, "select count(*) from diagnose_embeddings()") == 0


def test_a_column_that_another_model_filled_is_embedded_again_whole(
    docs: Database, queue: PostgresQueue
) -> None:
    """Though its texts are known, by the hashes of the column that had the name before."""
    insert(docs, 3)
    embed_all(queue)
    docs.execute("alter table docs add next vector(3) default '[9,9,9]'; " + EXCHANGE)
    docs.execute(WATCH)
    assert len(embed_all(queue)) == 3
    assert vectors(docs, STORED) == {f"text {i}": vector_of(f"text {i}") for i in (1, 2, 3)}


def test_a_table_that_was_renamed_is_watched_under_its_new_name_although_another_has_the_old(
    docs: Database, queue: PostgresQueue
) -> None:
    insert(docs, 3)
    embed_all(queue)
    docs.execute("alter table docs rename to pages; create table docs (like pages including all)")
    docs.execute("select watch_embeddings('pages', embedding_column => 'embedding')")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    docs.execute(
        "insert into docs values (9, 'new'); update pages set body = 'edited' where id = 1"
    )
    assert embed_all(queue) == ["edited", "new"]
    assert rows(docs, "select table_name from embedding_targets order by id") == [
        ("pages",),
        ("docs",),
    ]


# -- what is no change


def test_a_column_that_is_renamed_back_goes_on(docs: Database, queue: PostgresQueue) -> None:
    insert(docs, 1)
    docs.execute("alter table docs rename embedding to x; alter table docs rename x to embedding")
    assert embed_all(queue) == ["text 1"]


def test_a_column_that_nobody_reads_may_be_renamed(docs: Database, queue: PostgresQueue) -> None:
    insert(docs, 1)
    docs.execute("alter table docs rename views to likes")
    assert embed_all(queue) == ["text 1"]


@contextmanager
def dumped_and_restored(
    db: Database, server: Server, database: str, empty_database: str, tmp_path: Path
) -> Iterator[Database]:
    """A copy of the database, made by pg_dump and psql, in which its tables have other numbers."""
    programs = Path(value(db, "select setting from pg_config where name = 'BINDIR'"))
    dump = tmp_path / "dump.sql"
    subprocess.run(
        [programs / "pg_dump", "--file", dump, server.direct_url_of(database)], check=True
    )
    restored_url = server.direct_url_of(empty_database)
    quietly = ["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--output", os.devnull]
    with psycopg.connect(restored_url, autocommit=True) as restored:
        restored.execute("create table first (id bigint primary key)")
        subprocess.run([programs / "psql", *quietly, "--file", dump, restored_url], check=True)
        yield restored


def test_a_restored_dump_goes_on_where_it_was(
    docs: Database,
    queue: PostgresQueue,
    server: Server,
    database: str,
    empty_database: str,
    tmp_path: Path,
) -> None:
    """Its tables have other numbers, and so have columns behind one that was dropped."""
    docs.execute("alter table docs drop column views")
    docs.execute("alter table docs add title text, add views integer")
    docs.execute("select watch_embeddings('docs', 'body, title', 'embedding')")
    docs.execute("create table later (id bigint primary key)")
    insert(docs, 2)
    embed_all(queue)
    docs.execute("update docs set title = 'edited' where id = 1")
    docs.execute("drop table later")

    with dumped_and_restored(docs, server, database, empty_database, tmp_path) as restored:
        numbers: LiteralString = "select relation_id, column_numbers from embedding_targets"
        assert rows(restored, numbers) == rows(docs, numbers)
        assert not value(restored, "select relation_id = 'docs'::regclass from embedding_targets")
        assert value(restored, "select problem from embedding_status") is None
        with PostgresQueue(server.direct_url_of(empty_database), "tests") as fresh:
            assert embed_all(fresh) == ["text 1\n\nedited"]
            assert value(restored, "select relation_id = 'docs'::regclass from embedding_targets")
            restored.execute("alter table docs rename body to x")
            restored.execute("alter table docs rename title to body")
            restored.execute("alter table docs rename x to title")
            restored.execute("update docs set body = 'wrong'")
            assert claim(fresh) == [], "the new numbers are known"
            assert "column docs.body is not the one" in problem(restored)


def test_texts_in_chunks_of_a_restored_dump_go_on_where_they_were(
    db: Database, server: Server, database: str, empty_database: str, tmp_path: Path
) -> None:
    chunks.create_chunked(db)
    db.execute("insert into docs (id, body) values (1, 'One. Two.'), (2, 'Three.')")
    chunks.embed(db)
    db.execute("update docs set body = 'One. Four.' where id = 1")
    document = chunks.claim_one(db)
    chunks.stage(db, document)
    db.execute("update embedding_queue set status = 'pending' where status = 'processing'")
    with dumped_and_restored(db, server, database, empty_database, tmp_path) as restored:
        assert chunks.passages(restored) == chunks.passages(db)
        assert chunks.embed(restored) == []  # what was staged is there
        assert chunks.passages(restored) == [(1, 0, "One. "), (1, 1, "Four."), (2, 0, "Three.")]
        restored.execute("delete from docs where id = 2")
        assert chunks.faults(restored) == {}


def test_a_restored_dump_can_be_watched_again_at_no_cost(
    docs: Database, queue: PostgresQueue
) -> None:
    insert(docs, 2)
    embed_all(queue)
    docs.execute(
        "update embedding_targets set relation_id = 1, column_numbers = "
        '\'{"id": 7, "body": 8, "embedding": 9}\''
    )
    docs.execute(WATCH)
    assert [status for _, status in jobs(docs)] == ["completed"] * 2
    assert value(docs, "select relation_id = 'docs'::regclass from embedding_targets")
