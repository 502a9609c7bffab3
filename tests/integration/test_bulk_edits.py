"""An UPDATE of many rows, whose records are listed by one trigger and enqueued by another."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.integration.tables import create_role, embed_all, jobs
from worker.queue.postgres import PostgresQueue

MANY = 2_000
"""Rows whose record ids are several full lists."""

ANNA = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"


def pending(db: Database) -> list[str]:
    return [
        record
        for (record,) in rows(
            db, "select record_id from embedding_queue where status = 'pending' order by id"
        )
    ]


@pytest.fixture
def many(docs: Database, queue: PostgresQueue) -> Database:
    """The table `docs` with many rows that have their vectors."""
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [MANY])
    embed_all(queue)
    return docs


def test_every_row_of_a_large_update_is_pending(many: Database, queue: PostgresQueue) -> None:
    many.execute("update docs set body = body || ' edited' where id <> 7")
    assert len(pending(many)) == MANY - 1
    assert value(many, "select pending from embedding_status") == MANY - 1
    assert len(embed_all(queue)) == MANY - 1
    assert jobs(many)[6] == ("7", "completed")


def test_the_owners_of_a_large_update_come_from_the_table(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table docs add user_id uuid")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [MANY])
    embed_all(queue)
    docs.execute("update docs set user_id = %s, body = body || '.'", [ANNA])
    assert rows(docs, "select user_id::text, count(*) from embedding_queue group by 1") == [
        (ANNA, MANY)
    ]
    docs.execute("update docs set user_id = null")
    assert value(docs, "select count(user_id) from embedding_queue") == 0


def test_owners_are_copied_when_a_column_for_them_is_added(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    embed_all(queue)
    docs.execute("alter table docs add user_id uuid")
    docs.execute("update docs set user_id = %s where id = 1", [ANNA])
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    owners = "select user_id::text from embedding_queue order by id"
    assert rows(docs, owners) == [(ANNA,), (None,)]
    docs.execute("update docs set body = 'edited'")
    assert rows(docs, owners) == [(ANNA,), (None,)]


def test_owners_are_copied_whatever_ids_the_jobs_have(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute(
        "insert into embedding_queue (table_name, record_id, embedding_column)"
        " values ('docs', 'no key', 'embedding')"
    )
    docs.execute("alter table docs add user_id uuid default '" + ANNA + "'")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert rows(docs, "select record_id, user_id::text from embedding_queue order by id") == [
        ("1", ANNA),
        ("no key", None),
    ]


def test_rows_without_a_job_are_enqueued_by_a_large_update(
    docs: Database, queue: PostgresQueue
) -> None:
    """The claim drops the job of a row outside the filter."""
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views > 0')")
    docs.execute(
        "insert into docs select i, 'text ' || i, i %% 2 from generate_series(1, %s) i", [MANY]
    )
    assert len(embed_all(queue)) == MANY / 2
    assert len(jobs(docs)) == MANY / 2
    docs.execute("update docs set views = views + 1")
    assert len(pending(docs)) == MANY
    assert len(embed_all(queue)) == MANY / 2  # the texts of the others did not change


STRANGE = ["", " ", "\x1f", "a\x1fb", "\x1f\x1f", "{}", "a,b", "'", "\\", "NULL", "é" * 1500]


def test_the_list_holds_any_record_id(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("create table notes (slug text primary key, body text, embedding vector(3))")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding')")
    for slug in STRANGE:
        docs.execute("insert into notes values (%s, 'text')", [slug])
    embed_all(queue)
    docs.execute("update notes set body = 'edited'")
    edited = rows(docs, "select record_id from embedding_queue where status <> 'completed'")
    assert len(edited) == len(STRANGE)
    embed_all(queue)
    done = rows(docs, "select record_id from embedding_queue where status = 'completed'")
    assert sorted(record for (record,) in done) == sorted(STRANGE[:-1])  # the last is too long


# -- statements within statements


NESTED: LiteralString = """
create function follow() returns trigger language plpgsql as $$
begin
    if new.id <= 2 then
        {statement};
    end if;
    return null;
end $$;
create trigger zz_follow after update of body on docs for each row execute function follow();
"""


@pytest.mark.parametrize(
    ("statement", "edited"),
    [
        ("update docs set body = body || '.' where id = new.id + 2", "1234"),
        ("update docs set views = 1 where id = new.id", "12"),
        ("update docs set body = 'changed again' where id = 2 and body <> 'changed again'", "12"),
        ("delete from docs where id = new.id + 2", "12"),
        ("insert into docs values (new.id + 8, 'new')", "1290"),
        (
            "begin update docs set body = '' where id = new.id + 2; raise division_by_zero;"
            " exception when division_by_zero then null; end",
            "12",
        ),
    ],
)
def test_a_statement_within_the_triggers_of_another_loses_no_edit(
    docs: Database, queue: PostgresQueue, statement: LiteralString, edited: str
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 5) i")
    embed_all(queue)
    for part in NESTED.format(statement=statement).split(";\ncreate trigger"):
        docs.execute(part if part.lstrip().startswith("create") else "create trigger" + part)
    docs.execute("update docs set body = 'edited ' || id where id <= 2")
    assert sorted(record[-1] for record in pending(docs)) == sorted(edited)


def test_a_savepoint_that_is_rolled_back_takes_its_edits_with_it(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 3) i")
    embed_all(queue)
    with docs.transaction():
        docs.execute("update docs set body = 'edited' where id = 1")
        with docs.transaction(force_rollback=True):
            docs.execute("update docs set body = 'edited' where id = 2")
        docs.execute("update docs set body = 'edited' where id = 3")
    assert pending(docs) == ["1", "3"]


def test_keys_that_a_foreign_key_changes_are_followed(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("create table authors (name text primary key)")
    docs.execute(
        "create table notes (id bigint primary key, embedding vector(3),"
        " author text references authors on update cascade on delete set null)"
    )
    docs.execute("select watch_embeddings('notes', 'author', 'embedding')")
    docs.execute("insert into authors values ('Anna'), ('Ben')")
    docs.execute("insert into notes select i, null, 'Anna' from generate_series(1, %s) i", [MANY])
    embed_all(queue)
    docs.execute("update authors set name = 'Anne' where name = 'Anna'")
    assert len(pending(docs)) == MANY
    embed_all(queue)
    docs.execute("delete from authors where name = 'Anne'")
    assert len(pending(docs)) == MANY


def test_several_columns_of_a_table_have_lists_of_their_own(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table docs add title text, add title_embedding vector(3)")
    docs.execute("select watch_embeddings('docs', 'title', 'title_embedding')")
    docs.execute("insert into docs (id, body, title) values (1, 'a', 'b'), (2, 'c', 'd')")
    embed_all(queue)
    docs.execute(
        "update docs set body = case id when 1 then 'edited' else body end,"
        " title = case id when 2 then 'edited' else title end"
    )
    assert rows(
        docs, "select record_id, embedding_column from embedding_queue where status = 'pending'"
    ) == [("1", "embedding"), ("2", "title_embedding")]


def test_the_owner_that_a_trigger_gives_a_new_row_is_kept(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table docs add user_id uuid")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    docs.execute(
        "create function adopt() returns trigger language plpgsql as $$"
        f" begin update docs set user_id = '{ANNA}' where id = new.id; return null; end $$"
    )
    docs.execute("create trigger adopt after insert on docs for each row execute function adopt()")
    docs.execute("insert into docs values (1, 'one')")
    assert value(docs, "select user_id::text from embedding_queue") == ANNA


def test_an_edit_that_replication_applies_is_enqueued_at_once(
    docs: Database, queue: PostgresQueue
) -> None:
    """It fires only triggers by row, and only those that are always enabled."""
    docs.execute("insert into docs values (1, 'one')")
    embed_all(queue)
    docs.execute("alter table docs enable always trigger embedding_update_1")
    docs.execute("set session_replication_role = replica")
    docs.execute("update docs set body = 'edited'")
    assert pending(docs) == ["1"]


# -- a client that writes to the list


@pytest.mark.parametrize(
    "forged", ["2", "\x1f2", "\x1f2\x1f2\x1f99", "\x1f" + "9" * 18, "\x1f\x1f"]
)
def test_a_client_that_writes_to_the_list_can_only_have_rows_checked_again(
    docs: Database, queue: PostgresQueue, forged: str
) -> None:
    docs.execute("insert into docs values (1, 'one'), (2, 'two'), (3, 'three')")
    embed_all(queue)
    with docs.transaction():
        docs.execute("select set_config('embedding.edited_1', %s, true)", [forged])
        try:
            with docs.transaction():
                docs.execute("update docs set body = 'edited' where id = 1")
        except psycopg.errors.DataError:  # no key: this fails the statement of the forger
            docs.execute("set local embedding.edited_1 = ''")
            docs.execute("update docs set body = 'edited' where id = 1")
    assert {"1"} <= set(pending(docs)) <= {"1", "2"}
    assert value(docs, "select problem from embedding_targets") is None
    assert embed_all(queue) == ["edited"]  # what did not change is not embedded again
    assert [status for _, status in jobs(docs)] == ["completed"] * 3


def test_a_list_that_is_no_key_suspends_nothing(docs: Database, queue: PostgresQueue) -> None:
    docs.execute("insert into docs values (1, 'one')")
    embed_all(queue)
    docs.execute("set embedding.edited_1 = 'x\x1fno number'")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        docs.execute("update docs set body = 'edited'")
    docs.execute("reset embedding.edited_1")
    assert value(docs, "select problem from embedding_targets") is None
    docs.execute("update docs set body = 'edited'")
    assert embed_all(queue) == ["edited"]


@pytest.mark.parametrize(
    ("key", "forged"),
    [
        ("a text, b int, body text, primary key (a, b)", "\x1f" + "[" * 100_000),
        ("a slug primary key, body text", "\x1fNO KEY"),
    ],
)
def test_no_list_suspends_a_target(
    db: Database, queue: PostgresQueue, key: LiteralString, forged: str
) -> None:
    db.execute("create domain slug as text check (value ~ '^[a-z]+$')")
    db.execute("create table notes (" + key + ")")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute(
        "insert into notes (a, body) values ('a', 'text')"
        if "slug" in key
        else "insert into notes values ('a', 1, 'text')"
    )
    embed_all(queue)
    db.execute("select set_config('embedding.edited_1', %s, false)", [forged])
    with pytest.raises(psycopg.Error):
        db.execute("update notes set body = 'edited'")
    assert value(db, "select problem from embedding_targets") is None


def test_a_writer_without_rights_on_the_queue_edits_many_rows(many: Database) -> None:
    create_role(many, "editor")
    many.execute("grant select, update on docs to editor")
    with many.transaction():
        many.execute("set local role editor")
        many.execute("update docs set body = body || '.'")
    assert len(pending(many)) == MANY


# -- without the trigger by statement


def test_a_target_without_its_trigger_by_statement_is_suspended(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("drop trigger embedding_updated_1 on docs")
    assert embed_all(queue) == []
    assert value(docs, "select problem from embedding_targets") == (
        "table docs lacks its trigger for UPDATE"
    )
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert embed_all(queue) == ["one"]
