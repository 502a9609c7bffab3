"""Vectors in a side table: as right, as safe and as well found as those in a column."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.jobs import SCOPE
from tests.integration.reembeddings import (
    NAME,
    NEW,
    OLD,
    are_in_step,
    completion_of,
    create_embedded_beside,
    create_searched,
    embed_all,
    fill,
    literal,
    make_ready,
    model_vector,
    nearest,
    stores,
)
from tests.integration.tables import Connect, acting_as, create_role, jobs, refusal, vector_of
from tests.integration.tables import embed_all as embed
from tests.integration.test_chunk_tables import KEYS, RLS, create_keyed
from worker.errors import SettingsError
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue

FAULTS: LiteralString = "select check_name, subject from diagnose_embeddings()"
RELATIONS: LiteralString = (
    "select relname::text from pg_class where relnamespace = 'public'::regnamespace"
    " and relname ~ '^docs' and relkind in ('r', 'p', 'v') order by 1"
)


FIRST_TABLES = {"docs": create_embedded_beside}


@pytest.fixture
def docs(db: Database) -> Database:
    """A table `docs` of three rows with their vectors in `docs_embedding`."""
    return db


def stored(db: Database) -> list[tuple[Any, str]]:
    """The keys and vectors of the side table."""
    return rows(db, "select id, embedding::text from docs_embedding order by id")


def expected(*texts: str) -> list[tuple[Any, str]]:
    """The vectors of these texts, of rows that are numbered from 1."""
    return [
        (key, literal(model_vector(OLD, text)).replace(".0", ""))
        for key, text in enumerate(texts, 1)
    ]


# -- as a column


def test_the_vectors_follow_texts_keys_and_rows(docs: Database, queue: AdminQueue) -> None:
    assert stored(docs) == expected("text 1", "text 2", "text 3")
    docs.execute("update docs set body = 'new' where id = 2")
    docs.execute("update docs set id = 4 where id = 1")
    docs.execute("delete from docs where id = 3")
    assert [key for key, _ in stored(docs)] == [2, 4]
    docs.execute("update docs set id = id / 2")
    assert embed_all(queue) == [(OLD, "new"), (OLD, "text 1")]
    assert stored(docs) == expected("new", "text 1")
    docs.execute("update docs set body = ' ' where id = 1")
    assert embed_all(queue) == []
    assert [key for key, _ in stored(docs)] == [2]
    assert rows(docs, FAULTS) == []
    message, hint = refusal(docs, "truncate docs")
    assert "foreign key" in message
    assert "CASCADE" in hint
    docs.execute("truncate docs cascade")
    assert (stored(docs), jobs(docs)) == ([], [])


def test_on_change_clear_takes_the_vector_away_at_once(docs: Database, queue: AdminQueue) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', on_change => 'clear')"
    )
    docs.execute("update docs set body = 'new', id = 7 where id = 1")
    docs.execute("update docs set tenant = 2 where id = 2")
    assert [key for key, _ in stored(docs)] == [2, 3]
    assert embed_all(queue) == [(OLD, "new")]
    assert are_in_step(docs)


def test_a_row_outside_the_filter_loses_its_vector(docs: Database, queue: AdminQueue) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', filter => 'tenant = 1')"
    )
    docs.execute("update docs set tenant = 2 where id = 2")
    search: LiteralString = "select record_id from search_embeddings('docs', 'embedding', %s)"
    query = literal(model_vector(OLD, "text 2"))
    assert {key for (key,) in rows(docs, search, query)} == {"1", "3"}
    embed_all(queue)
    assert [key for key, _ in stored(docs)] == [1, 3]


def test_another_model_clears_all_vectors(docs: Database, queue: AdminQueue) -> None:
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', model => %s)", [NEW]
    )
    assert stored(docs) == []
    assert len(embed_all(queue)) == 3
    assert nearest(docs, NEW, "text 2") == ("text 2", 1.0)


@pytest.mark.parametrize("key", rest_in_full(KEYS, first=5))
def test_a_key_of_any_type_leads_to_its_vector(db: Database, queue: AdminQueue, key: str) -> None:
    create_keyed(db, key, "store => 'table'")
    assert embed(queue) == ["One. Two.", "One. Two."]
    db.execute("set datestyle = 'SQL, DMY'")
    db.execute("set timezone = 'Asia/Kolkata'")
    assert rows(db, "select distinct embedding::real[] from docs_embedding") == [
        (vector_of("One. Two."),)
    ]
    records = {record for (record,) in rows(db, "select record_id from embedding_queue")}
    for words in ("null", "'one'"):
        search = (
            "select record_id from search_embeddings('docs', 'embedding', '[1,2,3]',"
            f" query_text => {words})"
        )
        assert {record for (record,) in rows(db, search)} == records
    assert value(db, "select count(*) from match_docs('[1,2,3]', query_text => 'one')") == 2
    db.execute("update docs set body = 'Three.'")
    assert embed(queue) == ["Three.", "Three."]
    db.execute("delete from docs")
    assert value(db, "select count(*) from docs_embedding") == 0


@pytest.mark.parametrize("schema", ["public", 'My "App"'])
@pytest.mark.parametrize("name", ['Weird "T"; %s', "ü" * 31])
def test_any_names_will_do(db: Database, queue: PostgresQueue, schema: str, name: str) -> None:
    table = sql.Identifier(schema, name)
    db.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
    db.execute(sql.SQL('create table {} ("The Key" text primary key, "100 %s" text)').format(table))
    target = queue.watch(table.as_string(), '"100 %s"', 'E "v', dimensions=3, store="table")
    assert target.store == "table"
    db.execute(sql.SQL("insert into {} values ('a''\"', 'one')").format(table))
    assert embed(queue) == ["one"]
    begun = queue.start_reembedding(table.as_string(), 'E "v', NEW, 3)
    while queue.backfill(queue.target(target.table_name, begun.new_column), 9):
        pass
    assert embed(queue) == ["one"]
    assert {each.store for each in queue.targets()} == {"table"}
    make_ready(queue)
    step = target.table_name, 'E "v'
    for take in (queue.swap_reembedding, queue.finish_reembedding, queue.rename_reembedded):
        take(*step)
    [renamed] = queue.targets()
    assert (renamed.embedding_column, renamed.store_relation) == ('E "v', target.store_relation)
    found = "select content from search_embeddings(%s, %s, '[1,2,3]')"
    assert rows(db, found, *step) == [("one",)]
    assert queue.unwatch(*step)
    assert value(db, "select to_regclass(%s) is null", target.store_relation)


# -- searches: two targets of one table have the same vectors

TWO_STORES: LiteralString = """
    create table docs (id integer primary key, body text, tenant integer);
    select watch_embeddings('docs', 'body', 'embedding', 'test:model', 'tenant <> 3', 3,
                            match_function => true, language => 'english');
    select watch_embeddings('docs', 'body', 'beside', 'test:model', 'tenant <> 3', 3,
                            match_function => true, language => 'english', store => 'table');
    insert into docs select i, format('word%s word%s number %s', i % 3, i % 5, i), i % 4
      from generate_series(1, 60) as i;
"""
SEARCHES: list[LiteralString] = [
    "'[1,9,4]', 7",
    "'[1,9,4]', 7, filter => '{\"tenant\": [1, 2]}'",
    "'[1,9,4]', 80, filter => '{\"body\": \"/* eq_filter */\"}'",
    "'[1,9,4]', 7, query_text => 'word1 number'",
    "'[1,9,4]', 80, query_text => 'word1', filter => '{\"tenant\": 2}'",
    "null, 7, query_text => 'word1 late'",
]


@pytest.fixture
def twins(db: Database, queue: AdminQueue) -> Database:
    """A column of vectors and a side table with the same ones, and rows without a vector."""
    db.execute(TWO_STORES)
    embed(queue)
    db.execute("insert into docs values (61, 'word1 late', 2), (62, 'late', 3)")
    db.execute("update docs set tenant = 3 where id in (1, 5)")
    return db


@pytest.mark.parametrize("indexed", [False, True])
def test_a_search_finds_the_same_as_in_a_column(
    twins: Database, queue: PostgresQueue, indexed: bool
) -> None:
    if indexed:
        for statement in queue.full_text_statements(queue.target("docs", "beside")):
            twins.execute(statement)
        twins.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
        twins.execute("create index on docs_beside using hnsw (embedding vector_cosine_ops)")
    columns = "content, round(score::numeric, 9), vector_rank is null, text_rank"
    for arguments in SEARCHES:
        for kind, call, first, second in (
            ("distance", "search_embeddings('docs', %s, ", "'embedding'", "'beside'"),
            ("similarity", "match_docs%s(", "", "_beside"),
        ):
            search = f"select {columns}, {kind} from {call}{arguments})"
            found = rows(twins, search.replace("%s", first))
            assert sorted(rows(twins, search.replace("%s", second))) == sorted(found)
            assert found or "eq_filter" in arguments


def test_a_verification_finds_the_same_as_in_a_column(
    twins: Database, queue: PostgresQueue
) -> None:
    twins.execute("update docs set embedding = null where id = 6")
    twins.execute("delete from docs_beside where id = 6")
    twins.execute("update docs set embedding = '[0,0,0]' where id = 8")
    twins.execute("update docs_beside set embedding = '[0,0,0]' where id = 8")
    twins.execute("update embedding_queue set content_hash = '' where record_id = '9'")
    found = [
        rows(
            twins,
            "select finding, found, record_ids from verify_embeddings('docs', %s, width => 3,"
            " usual_length => 1, tolerance => 0.1)",
            column,
        )
        for column in ("embedding", "beside")
    ]
    assert found[0] == found[1]
    assert {("lost", 1), ("zero", 1), ("stale", 1)} <= {
        (name, count) for name, count, _ in found[0]
    }
    samples = [
        sorted(
            (each.record_id, each.content, tuple(each.vector))
            for each in queue.sample_vectors(queue.target("docs", column), 100)
        )
        for column in ("embedding", "beside")
    ]
    assert samples[0] == samples[1] != []


def test_without_conditions_a_search_looks_into_no_other_table(docs: Database) -> None:
    """Then each vector would cost a look-up, and the index over them could not end the scan."""
    statement = value(
        docs,
        "select replace(embedding.vector_sql(target), embedding.unconditional_sql(target), 'true')"
        " from embedding_targets as target",
    )
    assert "public.docs_embedding" in statement
    assert "public.docs " not in statement


# -- who sees it

READ: dict[str, LiteralString] = {
    "side table": "select id from docs_embedding order by 1",
    "nearest": "select id from match_docs('[1,2,3]') order by 1",
    "words": "select id from match_docs(null, query_text => 'text') order by 1",
    "both": "select id from match_docs('[1,2,3]', query_text => 'text') order by 1",
}


@pytest.fixture
def tenants(docs: Database, queue: AdminQueue) -> Database:
    """Rows of two tenants, of whom `reader` and `writer` see that in `app.tenant`."""
    for role in ("reader", "writer", "nobody"):
        create_role(docs, role)
    for statement in RLS:
        docs.execute(statement)
    docs.execute("create policy all_of_tenant on docs to writer using (tenant = 1)")
    docs.execute("grant select on docs to reader")
    docs.execute("grant all on docs to writer")
    docs.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', language => 'english')"
    )
    docs.execute("insert into docs select i, 'text ' || i, 2 from generate_series(4, 6) as i")
    embed_all(queue)
    return docs


def test_people_see_the_vectors_of_the_rows_they_see(tenants: Database) -> None:
    for where in READ.values():
        with acting_as(tenants, "reader"):
            tenants.execute("set app.tenant = 0")
            assert rows(tenants, where) == []
            tenants.execute("set app.tenant = 1")
            assert rows(tenants, where) == [(1,), (2,), (3,)]
            tenants.execute("set app.tenant = 2")
            assert rows(tenants, where) == [(4,), (5,), (6,)]
        with acting_as(tenants, "nobody"), pytest.raises(psycopg.errors.InsufficientPrivilege):
            tenants.execute(where)
    tenants.execute("revoke select on docs from reader")
    for where in READ.values():
        with acting_as(tenants, "reader"), pytest.raises(psycopg.errors.InsufficientPrivilege):
            tenants.execute(where)


WRITES: list[LiteralString] = [
    "delete from docs_embedding",
    "update docs_embedding set embedding = '[1,1,1]'",
    "insert into docs_embedding values (9, '[1,1,1]')",
    "truncate docs_embedding",
]
ROLES: list[LiteralString] = ["reader", "writer", "nobody"]


def test_nobody_but_the_owner_writes_them(tenants: Database) -> None:
    for role in ROLES:
        for write in WRITES:
            with acting_as(tenants, role), pytest.raises(psycopg.errors.InsufficientPrivilege):
                tenants.execute(write)


def test_a_writer_edits_texts_as_ever(tenants: Database, queue: AdminQueue) -> None:
    tenants.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', on_change => 'clear')"
    )
    with acting_as(tenants, "writer"):
        tenants.execute("delete from docs where id = 1")
        tenants.execute("update docs set id = 30 where id = 3")
        tenants.execute("update docs set body = 'new' where id = 2")
    assert [key for key, _ in stored(tenants)] == [4, 5, 6, 30]
    embed_all(queue)
    assert are_in_step(tenants)


def test_the_tables_are_unlogged_if_the_watched_one_is(db: Database) -> None:
    db.execute("create unlogged table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', dimensions => 3, store => 'table')")
    persistence = "select relpersistence::text from pg_class where relname = 'docs_embedding'"
    assert value(db, persistence) == "u"


# -- what is refused, and what somebody has changed

WATCH: LiteralString = "select watch_embeddings('docs', embedding_column => 'embedding')"
REFUSED: dict[str, tuple[LiteralString, LiteralString, str, str]] = {
    "another store": (
        "nothing", "select watch_embeddings('docs', embedding_column => 'embedding',"
        " store => 'column')",
        "the vectors of column embedding of table docs are in a side table", "--store column"),
    "an unknown store": (
        "nothing", "select watch_embeddings('docs', 'body', 'other', store => 'cloud')",
        "vectors cannot be stored in a 'cloud'", "The store is column or table."),
    "chunks": (
        "nothing", "select watch_embeddings('docs', 'body', 'other', dimensions => 3,"
        " chunks => true, store => 'table')",
        "a store is only for texts that are embedded as a whole", "Leave it out"),
    "a column of the name": (
        "alter table docs add column other vector(3)",
        "select watch_embeddings('docs', 'body', 'other', dimensions => 3, store => 'table')",
        "table docs has a column other already", "--column"),
    "a table of the name": (
        "create table docs_other ()",
        "select watch_embeddings('docs', 'body', 'other', dimensions => 3, store => 'table')",
        "the name public.docs_other is taken", "--column"),
    "no width": (
        "nothing", "select watch_embeddings('docs', 'body', 'other', store => 'table')",
        "the width of the vectors is not given", "--dimensions"),
    "another width": (
        "nothing", "select watch_embeddings('docs', embedding_column => 'embedding',"
        " dimensions => 5)",
        "column embedding holds 3 dimensions, not 5", "Leave out the dimensions"),
    "a key of our name": (
        "alter table docs rename id to embedding",
        "select watch_embeddings('docs', 'body', 'other', dimensions => 3, store => 'table')",
        "table docs cannot have a side table: its key has a column embedding", "rename the column"),
    "a store for the new vectors that there is not": (
        "nothing", "select start_reembedding('docs', 'embedding', 'test:new', 3,"
        " config => '{\"store\": \"cloud\"}')",
        "the new vectors cannot be stored in 'cloud'", "column or table"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_its_cause_and_a_cure(docs: Database, case: str) -> None:
    before, statement, cause, cure = REFUSED[case]
    if before != "nothing":
        docs.execute(before)
    known = rows(docs, RELATIONS)
    message, hint = refusal(docs, statement)
    assert message.startswith(cause)
    assert cure in hint
    assert rows(docs, RELATIONS) == known


def test_unwatch_takes_it_away_and_watch_begins_again(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    assert rows(docs, RELATIONS) == [("docs",)]
    docs.execute(
        "select watch_embeddings('docs', 'body', dimensions => 3, model => %s, store => 'table')",
        [OLD],
    )
    docs.execute("select backfill_embeddings('docs', 'embedding')")
    assert len(embed_all(queue)) == 3
    assert are_in_step(docs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("drop table docs_embedding", ", which holds the vectors of docs, is missing"),
        ("alter table docs_embedding rename to x", ", which holds the vectors of docs, is missing"),
        (
            "alter table docs drop constraint docs_pkey cascade, add primary key (id)",
            " has lost its foreign key to docs",
        ),
    ],
)
def test_a_side_table_that_is_missing_or_not_tied_suspends_and_watch_repairs_it(
    docs: Database, queue: AdminQueue, change: LiteralString, said: str
) -> None:
    docs.execute("update docs set body = 'new' where id = 1")
    docs.execute(change)
    assert embed_all(queue) == []
    problem = value(docs, "select problem from embedding_targets")
    assert problem == f"public.docs_embedding{said}; run `worker watch docs --column embedding`"
    assert rows(docs, FAULTS) != []
    search: LiteralString = "select * from search_embeddings('docs', 'embedding', '[1,2,3]')"
    assert refusal(docs, search)[0] == problem
    docs.execute("delete from docs where id = 3")  # nobody who writes notices
    docs.execute(WATCH)
    embed_all(queue)
    assert are_in_step(docs)
    assert [key for key, _ in stored(docs)] == [1, 2]
    assert rows(docs, FAULTS) == []


def test_a_table_that_is_renamed_keeps_its_side_tables(
    docs: Database, queue: PostgresQueue
) -> None:
    queue.start_reembedding(*NAME, NEW, 3)
    fill(queue)
    docs.execute("alter table docs rename to papers")
    docs.execute("select watch_embeddings('papers', embedding_column => 'embedding')")
    assert {each.table_name for each in queue.targets()} == {"papers"}
    docs.execute("select watch_embeddings('papers', embedding_column => 'embedding_2')")
    docs.execute("update papers set body = 'new' where id = 1")
    assert embed_all(queue) == [(NEW, "new"), (OLD, "new")]
    assert are_in_step(docs, "papers")
    assert {each.store_relation for each in queue.targets()} == {
        "public.docs_embedding",
        "public.docs_embedding_2",
    }


@pytest.mark.parametrize("refuse", ["return null;", "raise exception 'no';"])
def test_a_vector_that_its_table_refuses_fails_its_row_alone(
    docs: Database, queue: AdminQueue, refuse: str
) -> None:
    docs.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin"
        f" if new.id = 2 then {refuse} end if; return new; end $$".encode()
    )
    docs.execute(
        "create trigger refuse before insert or update on docs_embedding"
        " for each row execute function refuse()"
    )
    docs.execute("update docs set body = 'new ' || id")
    taken = queue.claim(SCOPE, 10)
    refused = queue.complete(OLD, [completion_of(job) for job in taken.jobs])
    assert [one.reason for one in refused] == ["unwritable"]
    failed = "select record_id from embedding_queue where status = 'failed'"
    assert rows(docs, failed) == [("2",)]


def test_no_completion_waits_for_a_side_table_that_another_session_holds(
    docs: Database, queue: AdminQueue, connect: Connect
) -> None:
    docs.execute("update docs set body = 'new' where id = 1")
    other = connect()
    with other.transaction():
        other.execute("lock table docs_embedding in access exclusive mode")
        docs.execute("set lock_timeout = '5s'")
        with pytest.raises(Exception, match="lock"):
            embed_all(queue)


# -- from one store to the other

STORES = ["column", "table"]


@pytest.mark.parametrize("new", STORES)
@pytest.mark.parametrize("old", STORES)
def test_a_re_embedding_leads_from_any_store_to_any_other(
    db: Database, queue: PostgresQueue, old: str, new: str
) -> None:
    create_searched(db, options=f", store => '{old}', language => 'english'")
    embed_all(queue)
    tables = {"column": [("docs",)], "table": [("docs",), ("docs_embedding",)]}
    for store, model, before in ((new, NEW, OLD), (old, "test:third", NEW)):
        queue.start_reembedding(*NAME, model, 3, config={"store": store})
        assert len(fill(queue)) == 3
        make_ready(queue)
        for take in (queue.swap_reembedding, queue.rollback_reembedding, queue.swap_reembedding):
            take(*NAME)
            for searched in (model, before):
                assert nearest(db, searched, "text 2") == ("text 2", 1.0)
            db.execute("insert into docs values (9, 'new')")
            db.execute("update docs set body = body || '!', id = id + 1 where id = 3")
            assert len(embed_all(queue)) == 4
            db.execute("update docs set body = 'text 3', id = 3 where id = 4")
            db.execute("delete from docs where id = 9")
            embed_all(queue)
            assert are_in_step(db)
        queue.finish_reembedding(*NAME)
        queue.rename_reembedded(*NAME)
        assert rows(db, RELATIONS) == tables[store]
        assert [name for name, _, _ in stores(db)] == ["embedding"]
        assert are_in_step(db)
        assert nearest(db, model, "text 2") == ("text 2", 1.0)
        assert rows(db, FAULTS) == [("full_text_index_missing", "docs.embedding")]


@pytest.mark.parametrize("new", STORES)
@pytest.mark.parametrize("old", STORES)
def test_those_who_search_by_rights_on_columns_go_on(
    db: Database, queue: PostgresQueue, old: str, new: str
) -> None:
    """They may read what the vectors are made from, and not the whole table."""
    for role in ("reader", "stranger"):
        create_role(db, role)
    create_searched(db, options=f", store => '{old}'")
    embed_all(queue)
    read = "id, body, embedding" if old == "column" else "id, body"
    db.execute(f"grant select ({read}) on docs to reader")
    db.execute("grant select (id) on docs to stranger")
    db.execute("select watch_embeddings('docs', embedding_column => 'embedding')")

    def find(role: LiteralString) -> list[tuple[int]]:
        with acting_as(db, role):
            return rows(db, "select id from match_docs('[1,2,3]') order by 1")

    assert len(find("reader")) == 3
    queue.start_reembedding(*NAME, NEW, 3, config={"store": new})
    fill(queue)
    make_ready(queue)
    for step in (queue.swap_reembedding, queue.finish_reembedding, queue.rename_reembedded):
        step(*NAME)
        assert len(find("reader")) == 3
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            find("stranger")


@pytest.mark.parametrize("new", STORES)
@pytest.mark.parametrize("old", STORES)
def test_a_cancelled_one_leaves_what_was_there_before(
    db: Database, queue: PostgresQueue, old: str, new: str
) -> None:
    create_searched(db, options=f", store => '{old}'")
    embed_all(queue)
    known = rows(db, RELATIONS), rows(db, "select * from docs order by id"), stores(db), jobs(db)
    queue.start_reembedding(*NAME, NEW, 3, config={"store": new})
    fill(queue)
    queue.cancel_reembedding(*NAME)
    assert known == (
        rows(db, RELATIONS),
        rows(db, "select * from docs order by id"),
        stores(db),
        jobs(db),
    )


def test_the_store_stays_what_it_is_unless_another_is_asked_for(
    docs: Database, queue: PostgresQueue
) -> None:
    queue.start_reembedding(*NAME, NEW, 3)
    assert [each.store for each in queue.targets()] == ["table", "table"]


def test_a_view_over_the_old_side_table_stops_the_cleanup(
    docs: Database, queue: PostgresQueue
) -> None:
    queue.start_reembedding(*NAME, NEW, 3, config={"store": "column"})
    fill(queue)
    make_ready(queue)
    queue.swap_reembedding(*NAME)
    docs.execute("create view seen as select * from docs_embedding")
    with pytest.raises(Exception, match=r"table docs is still used: view public\.seen"):
        queue.finish_reembedding(*NAME)
    docs.execute("drop view seen")
    queue.finish_reembedding(*NAME)
    assert rows(docs, RELATIONS) == [("docs",)]


def test_a_name_that_is_taken_is_not_given_to_a_side_table(
    db: Database, queue: PostgresQueue
) -> None:
    create_searched(db)
    embed_all(queue)
    db.execute("create table docs_embedding_2 ()")
    begun = queue.start_reembedding(*NAME, NEW, 3, config={"store": "table"})
    assert begun.new_column == "embedding_3"
    fill(queue, "embedding_3")
    make_ready(queue)
    queue.swap_reembedding(*NAME)
    queue.finish_reembedding(*NAME)
    db.execute("create table docs_embedding ()")
    with pytest.raises(Exception, match=r"there is a table public\.docs_embedding already"):
        queue.rename_reembedded(*NAME)
    db.execute("drop table docs_embedding")
    queue.rename_reembedded(*NAME)
    assert nearest(db, NEW, "text 2") == ("text 2", 1.0)


# -- tables that cannot get a column

OTHER_TABLES: dict[str, LiteralString] = {
    "partitioned": "create table docs (id bigint primary key, body text, tenant integer default 1,"
    " embedding vector(3)) partition by range (id);"
    " create table docs_low partition of docs for values from (0) to (4);"
    " create table docs_high partition of docs for values from (4) to (1000)",
    "of a type": "create type doc as (id bigint, body text, tenant integer, embedding vector(3));"
    " create table docs of doc (primary key (id))",
}


@pytest.mark.parametrize("kind", OTHER_TABLES)
def test_a_table_that_cannot_get_a_column_gets_a_side_table(
    db: Database, queue: PostgresQueue, kind: str
) -> None:
    db.execute(OTHER_TABLES[kind])
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', model => %s, match_function => true)",
        [OLD],
    )
    db.execute("insert into docs (id, body) select i, 'text ' || i from generate_series(1, 6) as i")
    embed_all(queue)
    queue.start_reembedding(*NAME, NEW, 5, config={"store": "table"})
    assert len(fill(queue)) == 6
    make_ready(queue)
    queue.swap_reembedding(*NAME)
    db.execute("update docs set id = 7 where id = 1")  # into another partition
    db.execute("update docs set body = 'new' where id = 5")
    embed_all(queue)
    assert are_in_step(db)
    assert nearest(db, NEW, "text 1", 5) == ("text 1", 1.0)
    if kind == "of a type":
        with pytest.raises(SettingsError, match="so none of them can be dropped") as problem:
            queue.finish_reembedding(*NAME)
        assert problem.value.hint == "Run `alter table public.docs not of` first."
        db.execute("alter table public.docs not of")
    queue.finish_reembedding(*NAME)
    queue.rename_reembedded(*NAME)
    assert nearest(db, NEW, "new", 5) == ("new", 1.0)
    assert are_in_step(db)


def test_texts_of_a_partitioned_table_in_chunks_get_second_tables(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table docs (id bigint primary key, body text) partition by range (id)")
    db.execute("create table docs_rest partition of docs default")
    db.execute("select watch_embeddings('docs', 'body', dimensions => 3, chunks => true)")
    queue.start_reembedding(*NAME, NEW, 3)
    assert ("docs_embedding_2_chunks",) in rows(db, RELATIONS)
    queue.cancel_reembedding(*NAME)
    assert ("docs_embedding_2_chunks",) not in rows(db, RELATIONS)


def test_a_partition_is_detached_after_its_vectors_are_deleted(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute(OTHER_TABLES["partitioned"])
    db.execute(
        "select watch_embeddings('docs', 'body', 'beside', 'test:old', dimensions => 3,"
        " store => 'table')"
    )
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, 6) as i")
    embed_all(queue)
    detach: LiteralString = "alter table docs detach partition docs_low"
    assert "violates foreign key" in refusal(db, detach)[0]
    db.execute("delete from docs_beside using docs_low where docs_beside.id = docs_low.id")
    db.execute(detach)
    db.execute("drop table docs_low")
    assert rows(db, "select id from docs_beside order by 1") == [(4,), (5,), (6,)]
    assert rows(db, FAULTS) == []
