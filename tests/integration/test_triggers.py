"""Whatever changes a text makes its record pending, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.jobs import claim
from tests.integration.tables import (
    Connect,
    acting_as,
    create_role,
    embed,
    embed_all,
    jobs,
    refusal,
    vector_of,
    vectors,
)
from worker.queue.postgres import PostgresQueue

ANNA = "6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"
BEN = "9f2c7a54-3e81-4d06-8b7a-5c10e4d2f963"


@pytest.fixture
def done(docs: Database, queue: PostgresQueue) -> Database:
    """The table `docs` with two rows, `one` and `two`, that have their vectors."""
    docs.execute("insert into docs values (1, 'one'), (2, 'two')")
    embed_all(queue)
    return docs


# -- rows that come in


@pytest.mark.parametrize(
    "statement",
    [
        "insert into docs values (1, 'one'), (2, 'two'), (3, 'three')",
        "insert into docs select i, 'text ' || i from generate_series(3, 1, -1) i",
        "with new as (insert into docs values (2, 'b'), (1, 'a') returning id)"
        " insert into docs select 3, 'c' from new limit 1",
        "merge into docs using generate_series(1, 3) i on docs.id = i"
        " when not matched then insert (id, body) values (i, 'text ' || i)",
    ],
)
def test_rows_that_are_inserted_are_pending(docs: Database, statement: LiteralString) -> None:
    docs.execute(statement)
    assert sorted(jobs(docs)) == [("1", "pending"), ("2", "pending"), ("3", "pending")]


def test_rows_that_are_copied_are_pending_in_key_order(docs: Database) -> None:
    with docs.cursor().copy("copy docs (id, body) from stdin") as copy:
        for key in (10, 2, 33):
            copy.write_row((key, f"text {key}"))
    assert jobs(docs) == [("2", "pending"), ("10", "pending"), ("33", "pending")]


def test_an_insert_of_no_rows_is_no_matter(docs: Database) -> None:
    docs.execute("insert into docs select 1, 'one' where false")
    docs.execute("delete from docs")
    assert jobs(docs) == []


def test_an_upsert_makes_new_and_changed_rows_pending(done: Database) -> None:
    done.execute(
        "insert into docs values (1, 'one'), (2, 'two, edited'), (3, 'three')"
        " on conflict (id) do update set body = excluded.body"
    )
    assert sorted(jobs(done)) == [("1", "completed"), ("2", "pending"), ("3", "pending")]


def test_a_merge_makes_new_and_changed_rows_pending_and_forgets_deleted_ones(
    done: Database,
) -> None:
    done.execute(
        "merge into docs using (values (1, null), (2, 'two, edited'), (3, 'three'))"
        " as given (id, body) on docs.id = given.id"
        " when matched and given.body is null then delete"
        " when matched then update set body = given.body"
        " when not matched then insert (id, body) values (given.id, given.body)"
    )
    assert sorted(jobs(done)) == [("2", "pending"), ("3", "pending")]


# -- edits


CHANGES: list[tuple[LiteralString, bool]] = [
    ("body = 'edited'", True),
    ("body = upper(body), views = 1", True),
    ("body = null", True),
    ("body = ''", True),
    ("body = body || ' '", True),
    ("body = body", False),
    ("body = 'one', views = 7", False),
    ("views = 7", False),
    ("embedding = '[1,2,3]'", False),
    ("embedding = null", False),
]


def test_only_another_text_is_an_edit(done: Database, queue: PostgresQueue) -> None:
    for change, is_an_edit in CHANGES:
        done.execute(f"update docs set {change} where id = 1")
        status = "pending" if is_an_edit else "completed"
        assert (change, jobs(done)) == (change, [("1", status), ("2", "completed")])
        done.execute("update docs set body = 'one' where id = 1")
        embed_all(queue)


def test_values_that_are_equal_but_read_differently_are_an_edit(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table prices (id integer primary key, amount numeric)")
    db.execute("select watch_embeddings('prices', 'amount', 'embedding', dimensions => 3)")
    db.execute("insert into prices values (1, 1.0)")
    assert embed_all(queue) == ["1.0"]
    db.execute("update prices set amount = 1.00")
    assert embed_all(queue) == ["1.00"]


LENIENT_TYPE: list[LiteralString] = [
    "create type lenient",
    "create function lenient_in(cstring) returns lenient"
    " immutable strict language internal as 'textin'",
    "create function lenient_out(lenient) returns cstring"
    " immutable strict language internal as 'textout'",
    "create type lenient (input = lenient_in, output = lenient_out, like = text)",
    "create function same(lenient, lenient) returns boolean immutable strict language sql"
    " as $$ select lower($1::text) = lower($2::text) $$",
    "create operator = (leftarg = lenient, rightarg = lenient, function = same)",
]


def test_a_text_whose_type_takes_it_for_equal_is_an_edit(
    db: Database, queue: PostgresQueue
) -> None:
    """As the extension citext does, which is not there to be tested."""
    for statement in LENIENT_TYPE:
        db.execute(statement)
    db.execute("create table tags (id integer primary key, tag lenient)")
    db.execute("select watch_embeddings('tags', 'tag', 'embedding', dimensions => 3)")
    db.execute("insert into tags values (1, 'Polish')")
    embed_all(queue)
    assert value(db, "select tag = 'polish' from tags")
    db.execute("update tags set tag = 'polish'")
    assert embed_all(queue) == ["polish"]


def test_what_a_trigger_of_the_user_writes_into_the_text_is_an_edit(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table pages (id integer primary key, title text, words text, views integer)")
    db.execute(
        "create function write_words() returns trigger language plpgsql"
        " as $$ begin new.words := lower(new.title); return new; end $$"
    )
    db.execute(
        "create trigger write_words before insert or update on pages"
        " for each row execute function write_words()"
    )
    db.execute(
        "select watch_embeddings('pages', 'words', 'embedding', dimensions => 3,"
        " on_change => 'clear')"
    )
    db.execute("insert into pages values (1, 'ONE')")
    assert embed_all(queue) == ["one"]
    assert jobs(db) == [("1", "completed")]
    db.execute("update pages set views = 1")
    assert jobs(db) == [("1", "completed")]
    db.execute("update pages set title = 'TWO'")
    assert value(db, "select embedding from pages") is None
    assert embed_all(queue) == ["two"]


def test_a_time_stamp_kept_by_a_trigger_does_not_keep_the_worker_busy(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute(
        "create table pages (id integer primary key, body text, changed timestamptz default now())"
    )
    db.execute(
        "create function stamp() returns trigger language plpgsql"
        " as $$ begin new.changed := clock_timestamp(); return new; end $$"
    )
    db.execute("create trigger stamp before update on pages for each row execute function stamp()")
    db.execute(
        "create function describe(pages) returns text stable language sql as 'select $1.body'"
    )
    db.execute(
        "select watch_embeddings('pages', 'public.describe(pages)', 'embedding', dimensions => 3)"
    )
    db.execute("insert into pages values (1, 'one')")
    assert embed_all(queue) == ["one"]
    assert jobs(db) == [("1", "completed")]


def test_an_edit_during_embedding_revokes_the_lease_and_starts_over(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("update embedding_queue set attempts = 3, content = 'given by hand'")
    taken = claim(queue)
    docs.execute("update docs set body = 'two'")
    assert rows(
        docs,
        "select status, attempts, lease, lease_expires_at, worker, content from embedding_queue",
    ) == [("pending", 0, None, None, None, None)]
    assert [refused.reason for refused in embed(queue, taken)] == ["lost"]
    assert embed_all(queue) == ["two"]


def test_an_edit_of_a_failed_record_forgets_the_failure(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    queue.fail(claim(queue), "rejected", "too long")
    assert jobs(docs) == [("1", "failed")]
    docs.execute("update docs set body = 'shorter'")
    assert rows(
        docs, "select status, attempts, error_class, error_message from embedding_queue"
    ) == [("pending", 0, None, None)]


def test_a_burst_of_edits_is_embedded_once_when_it_is_over(
    docs: Database, queue: PostgresQueue
) -> None:
    due: LiteralString = "select available_at from embedding_queue"
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', debounce => '1 hour')")
    docs.execute("insert into docs values (1, 'one')")
    first = value(docs, due)
    docs.execute("update docs set body = 'two'")
    second = value(docs, due)
    assert second > first
    with docs.transaction():
        docs.execute("update docs set body = 'three'")
        docs.execute("update docs set body = 'four'")
    assert value(docs, due) > second
    assert embed_all(queue) == []
    docs.execute("update embedding_queue set available_at = now()")
    assert embed_all(queue) == ["four"]


def test_a_debounced_record_waits_also_if_it_is_made_and_edited_in_one_transaction(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', debounce => '1 hour')")
    with docs.transaction():
        docs.execute("insert into docs values (1, 'one')")
        docs.execute("update docs set body = 'two'")
    assert embed_all(queue) == []
    assert value(docs, "select available_at > now() + interval '59 minutes' from embedding_queue")


def test_an_edit_can_clear_the_vector_at_once(done: Database, queue: PostgresQueue) -> None:
    done.execute("select watch_embeddings('docs', 'body', 'embedding', on_change => 'clear')")
    done.execute("update docs set views = 7, body = body")
    assert vectors(done, "select id, embedding::text from docs") == {
        1: vector_of("one"),
        2: vector_of("two"),
    }
    done.execute("update docs set body = 'edited' where id = 1")
    assert vectors(done, "select id, embedding::text from docs") == {1: None, 2: vector_of("two")}
    assert embed_all(queue) == ["edited"]
    assert vectors(done, "select id, embedding::text from docs where id = 1") == {
        1: vector_of("edited")
    }


def test_an_edit_keeps_the_old_vector_until_the_new_one_is_there_by_default(
    done: Database,
) -> None:
    done.execute("update docs set body = 'edited' where id = 1")
    assert vectors(done, "select id, embedding::text from docs where id = 1") == {
        1: vector_of("one")
    }


# -- owner, filter, emptiness


def test_the_owner_of_a_record_is_that_of_the_row(db: Database, queue: PostgresQueue) -> None:
    owners: LiteralString = "select record_id, user_id::text from embedding_queue order by 1"
    db.execute("create table notes (id integer primary key, body text, user_id uuid)")
    db.execute("insert into notes values (3, 'backfilled', %s)", [ANNA])
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    assert queue.backfill(queue.target("notes", "embedding"), 10) == 1
    db.execute("insert into notes values (1, 'one', %s), (2, 'two', null)", [ANNA])
    assert rows(db, owners) == [("1", ANNA), ("2", None), ("3", ANNA)]
    embed_all(queue)
    db.execute("update notes set user_id = %s where id <= 2", [BEN])
    assert rows(db, owners) == [("1", BEN), ("2", BEN), ("3", ANNA)]
    assert embed_all(queue) == []


def test_a_column_user_id_that_is_no_uuid_is_no_owner(db: Database, queue: PostgresQueue) -> None:
    db.execute("create table notes (id integer primary key, body text, user_id bigint)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into notes values (1, 'one', 42)")
    assert rows(db, "select user_id from embedding_queue") == [(None,)]
    assert embed_all(queue) == ["one"]


def test_a_row_that_leaves_the_filter_loses_vector_and_job_and_gets_them_back_on_return(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table notes (id integer primary key, body text, deleted_at timestamptz)")
    db.execute(
        "select watch_embeddings('notes', 'body', 'embedding', dimensions => 3,"
        " filter => 'deleted_at is null')"
    )
    db.execute("insert into notes values (1, 'one'), (2, 'two')")
    embed_all(queue)
    db.execute("update notes set deleted_at = now() where id = 1")
    assert embed_all(queue) == []
    assert jobs(db) == [("2", "completed")]
    assert vectors(db, "select id, embedding::text from notes") == {1: None, 2: vector_of("two")}

    db.execute("update notes set body = 'edited in the bin' where id = 1")
    assert embed_all(queue) == []
    assert jobs(db) == [("2", "completed")]

    db.execute("update notes set deleted_at = null where id = 1")
    assert embed_all(queue) == ["edited in the bin"]
    assert vectors(db, "select id, embedding::text from notes") == {
        1: vector_of("edited in the bin"),
        2: vector_of("two"),
    }


@pytest.mark.parametrize("nothing", [None, "", " \n\t\u2003 "])
def test_a_text_that_becomes_nothing_is_skipped_and_embedded_when_it_is_back(
    done: Database, queue: PostgresQueue, nothing: str | None
) -> None:
    done.execute("update docs set body = %s where id = 1", [nothing])
    assert jobs(done) == [("1", "pending"), ("2", "completed")]
    assert embed_all(queue) == []
    assert jobs(done) == [("1", "skipped"), ("2", "completed")]
    assert vectors(done, "select id, embedding::text from docs") == {1: None, 2: vector_of("two")}
    done.execute("update docs set body = 'one' where id = 1")
    assert jobs(done) == [("1", "pending"), ("2", "completed")]
    assert embed_all(queue) == ["one"]
    assert vectors(done, "select id, embedding::text from docs where id = 1") == {
        1: vector_of("one")
    }


# -- rows that go


def test_deleted_rows_leave_the_queue(done: Database) -> None:
    done.execute("insert into docs values (3, 'three')")
    done.execute("delete from docs where id in (1, 3)")
    assert jobs(done) == [("2", "completed")]


def test_a_truncated_table_leaves_the_queue_to_the_others(done: Database) -> None:
    done.execute("create table notes (id integer primary key, body text)")
    done.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    done.execute("insert into notes values (7, 'seven')")
    done.execute("truncate docs")
    assert jobs(done) == [("7", "pending")]


def test_a_record_moves_in_the_queue_with_its_key(done: Database, queue: PostgresQueue) -> None:
    done.execute("update docs set id = 10 where id = 1")
    assert sorted(jobs(done)) == [("10", "pending"), ("2", "completed")]
    assert embed_all(queue) == ["one"]
    done.execute("update docs set id = id + 100")
    assert sorted(jobs(done)) == [("102", "pending"), ("110", "pending")]


def test_the_cascade_of_a_foreign_key_counts_as_well(db: Database, queue: PostgresQueue) -> None:
    db.execute("create table parents (id integer primary key)")
    db.execute(
        "create table children (id integer primary key, body text,"
        " parent integer references parents on delete cascade on update cascade)"
    )
    db.execute("select watch_embeddings('children', 'parent, body', 'embedding', dimensions => 3)")
    db.execute("insert into parents values (1), (2)")
    db.execute("insert into children values (1, 'one', 1), (2, 'two', 2)")
    embed_all(queue)
    db.execute("update parents set id = 3 where id = 1")
    assert embed_all(queue) == ["3\n\none"]
    db.execute("delete from parents where id = 2")
    assert jobs(db) == [("1", "completed")]


# -- the user's write comes first


WRITES: list[LiteralString] = [
    "insert into docs values (3, 'three'), (4, 'four')",
    "update docs set body = body || ' edited', id = id + 10",
    "delete from docs where id = 11",
    "insert into docs values (12, 'twelve') on conflict (id) do update set body = excluded.body",
]


def write(docs: Database) -> None:
    """Write to `docs` (rows 1 and 2 are there) in every way, and check that it was written."""
    for statement in WRITES:
        docs.execute(statement)
    assert value(docs, "select array_agg(id order by id) from docs") == [12, 13, 14]
    assert value(docs, "select body from docs where id = 12") == "twelve"
    docs.execute("truncate docs")
    assert value(docs, "select count(*) from docs") == 0


def test_edits_of_a_disabled_target_are_queued(done: Database) -> None:
    done.execute("update embedding_targets set enabled = false")
    done.execute("update docs set body = 'edited' where id = 1")
    assert jobs(done) == [("1", "pending"), ("2", "completed")]
    done.execute("delete from docs where id = 2")
    assert jobs(done) == [("1", "pending")]


def test_a_source_that_fails_for_a_row_does_not_fail_its_writer(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("select watch_embeddings('docs', '1 / views', 'embedding')")
    docs.execute("insert into docs values (1, 'one', 1), (2, 'two', 0), (3, 'three', 1)")
    docs.execute("update docs set views = 0 where id = 3")
    assert embed_all(queue) == ["1"]
    assert rows(docs, "select record_id, error_message from embedding_queue where id <> 1") == [
        ("2", "division by zero (SQLSTATE 22012)"),
        ("3", "division by zero (SQLSTATE 22012)"),
    ]
    docs.execute("update docs set views = 1")
    assert embed_all(queue) == ["1", "1"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "begin raise exception 'no page %', $1.body; end",
            "SQLSTATE P0001 in function public.strict_text",
        ),
        (
            "begin return (select i from generate_series(1, 2) i); end",
            "more than one row returned by a subquery used as an expression (SQLSTATE 21000)"
            " in function public.strict_text",
        ),
    ],
)
def test_a_function_in_the_source_that_raises_for_a_row_fails_that_row_alone(
    docs: Database, queue: PostgresQueue, body: LiteralString, message: str
) -> None:
    docs.execute(
        "create function strict_text(docs) returns text language plpgsql as"
        f" $$ begin if $1.body = 'bad' then {body}; end if; return $1.body; end $$"
    )
    docs.execute("select watch_embeddings('docs', 'public.strict_text(docs)', 'embedding')")
    docs.execute("insert into docs values (1, 'one'), (2, 'bad'), (3, 'three')")
    assert embed_all(queue) == ["one", "three"]
    assert rows(docs, "select error_message from embedding_queue where status = 'failed'") == [
        (message,)
    ]


@pytest.mark.parametrize(
    "damage",
    [
        "delete from embedding_targets",
        "delete from embedding_queue",
        "drop table embedding_queue cascade",
        "drop table embedding_targets cascade",
        "alter table docs rename embedding to vector",
        "alter table docs drop column embedding",
    ],
)
def test_no_damage_to_the_queue_loses_a_write(done: Database, damage: LiteralString) -> None:
    done.execute("select watch_embeddings('docs', 'body', 'embedding', on_change => 'clear')")
    done.execute(damage)
    write(done)


def test_no_queue_that_was_taken_away_by_half_loses_a_write(done: Database) -> None:
    done.execute("drop function embedding.enqueue")
    write(done)


@contextmanager
def waiting(
    db: Database, connect: Connect, holding: LiteralString, *statements: LiteralString
) -> Iterator[list[Future[Any]]]:
    """Statements that wait, each on its own connection, for what one transaction holds.

    When the block ends, so does that transaction.
    """
    holder = connect()
    with ThreadPoolExecutor(len(statements)) as pool, holder.transaction():
        holder.execute(holding)
        writers = [connect() for _ in statements]
        endings = [
            pool.submit(writer.execute, statement)
            for writer, statement in zip(writers, statements, strict=True)
        ]
        for writer in writers:
            blocked = "select pg_blocking_pids(%s) <> '{}' from pg_sleep(0.005)"
            while not value(db, blocked, writer.info.backend_pid):
                assert not any(ending.done() for ending in endings)
        yield endings


LOCKS: dict[str, LiteralString] = {
    "somebody who looks": "select from embedding_queue where record_id <= '3' for update",
    "somebody who steers": "update embedding_queue set priority = 7 where record_id <= '3'",
    "a worker that claims": "select claim_embeddings('other', 3, default_model => 'test:model')",
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=list(LOCKS))
def test_who_writes_a_record_whose_job_is_locked_waits_and_does_not_fail(
    docs: Database, queue: PostgresQueue, connect: Connect, lock: LiteralString
) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 9) i")
    with waiting(
        docs,
        connect,
        lock,
        "update docs set body = 'edited' where id = 1",
        "delete from docs where id = 2",
        "insert into docs values (3) on conflict (id) do update set body = 'edited'",
    ) as endings:
        # all others go on
        docs.execute("update docs set body = 'edited as well' where id = 4")
        docs.execute("insert into docs values (10, 'new')")
        docs.execute("update docs set views = 1 where id = 5")
        assert not any(ending.done() for ending in endings)
    assert [ending.result().rowcount for ending in endings] == [1, 1, 1]
    assert rows(docs, "select distinct status, lease from embedding_queue") == [("pending", None)]
    assert len(embed_all(queue)) == 9
    assert value(docs, "select count(*) from docs where embedding is not null") == 9


def test_who_does_not_want_to_wait_can_say_so(docs: Database, connect: Connect) -> None:
    docs.execute("insert into docs values (1, 'one')")
    writer = connect()
    writer.execute("set lock_timeout = '1ms'")
    holder = connect()
    with holder.transaction():
        holder.execute("select from embedding_queue for update")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            writer.execute("update docs set body = 'edited'")
    writer.execute("update docs set body = 'edited'")


def test_a_source_whose_function_is_gone_does_not_fail_the_writers(
    done: Database, queue: PostgresQueue
) -> None:
    done.execute(
        "create function text_of(docs) returns text language sql as 'select upper($1.body)'"
    )
    done.execute(
        "select watch_embeddings('docs', 'public.text_of(docs)', 'embedding',"
        " filter => 'public.text_of(docs) is not null', on_change => 'clear')"
    )
    done.execute("drop function text_of")
    write(done)
    done.execute("insert into docs values (3, 'three')")
    assert embed_all(queue) == []
    [target] = queue.targets()
    assert target.problem is not None
    assert "function public.text_of(public.docs) does not exist" in target.problem
    assert jobs(done) == [("3", "pending")]

    done.execute("select watch_embeddings('docs', 'body', 'embedding', filter => '')")
    assert embed_all(queue) == ["three"]


def test_a_large_update_takes_one_transaction_id_and_not_one_a_row(docs: Database) -> None:
    docs.execute("insert into docs select i, 'text ' || i from generate_series(1, 100) i")
    before = value(docs, "select pg_current_xact_id()::text::bigint")
    docs.execute("update docs set body = body || ' edited'")
    assert value(docs, "select pg_current_xact_id()::text::bigint") - before <= 2


def test_a_renamed_key_sets_the_target_aside_until_it_is_watched_again(
    done: Database, queue: PostgresQueue
) -> None:
    done.execute("alter table docs rename id to key")
    done.execute("insert into docs values (3, 'three')")
    done.execute("update docs set body = 'edited' where key = 1")
    assert value(done, "select body from docs where key = 1") == "edited"
    [target] = queue.targets()
    assert target.problem is not None
    assert target.problem.startswith("an edit could not be queued: ")
    assert "changed.id" in target.problem
    assert embed_all(queue) == []

    done.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert queue.backfill(queue.target("docs", "embedding"), 10) == 1
    assert embed_all(queue) == ["edited", "three"]
    assert vectors(done, "select body, embedding::text from docs") == {
        body: vector_of(body) for body in ("edited", "two", "three")
    }


def test_a_renamed_owner_does_not_fail_the_writers(db: Database, queue: PostgresQueue) -> None:
    db.execute("create table notes (id integer primary key, body text, user_id uuid)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute("alter table notes rename user_id to owner")
    db.execute("insert into notes values (1, 'one', %s)", [ANNA])
    db.execute("update notes set body = 'two'")
    db.execute("alter table notes drop column owner cascade")
    db.execute("insert into notes values (2, 'three')")
    assert "user_id" in str(queue.targets()[0].problem)


def test_a_conflict_of_transactions_does_reach_the_writer(
    done: Database, queue: PostgresQueue, connect: Connect
) -> None:
    """Else the edit would be lost to the queue; the writer tries again, as for any conflict."""
    other = connect()
    other.execute("set default_transaction_isolation = 'repeatable read'")
    with other.transaction(force_rollback=True):
        assert value(other, "select count(*) from docs") == 2
        queue.requeue(status="completed")
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute("update docs set body = 'edited' where id = 1")
    assert vectors(done, "select body, embedding::text from docs") == {
        body: vector_of(body) for body in ("one", "two")
    }


def test_what_is_rolled_back_leaves_nothing(done: Database, queue: PostgresQueue) -> None:
    before = rows(done, "select * from embedding_queue order by id")
    with done.transaction(force_rollback=True):
        done.execute("insert into docs values (3, 'three')")
        done.execute("update docs set body = 'edited'")
        done.execute("delete from docs where id = 1")
        assert jobs(done) != []
    assert rows(done, "select * from embedding_queue order by id") == before
    with done.transaction():
        done.execute("insert into docs values (4, 'four')")
        with done.transaction(force_rollback=True):
            done.execute("insert into docs values (5, 'five')")
    assert embed_all(queue) == ["four"]


@pytest.mark.parametrize("role", ["writer", "authenticated"])
def test_a_role_that_may_only_write_to_the_table_can_write_and_is_queued(
    docs: Database, queue: PostgresQueue, role: LiteralString
) -> None:
    create_role(docs, role)
    docs.execute(f"grant insert, update (body), delete on docs to {role}")
    docs.execute(f"grant select (id) on docs to {role}")
    docs.execute("alter table docs enable row level security")
    docs.execute("create policy everyone on docs using (true)")
    with acting_as(docs, role):
        docs.execute("insert into docs values (1, 'one'), (2, 'two'), (3, 'three')")
        docs.execute("update docs set body = 'edited' where id = 2")
        docs.execute("delete from docs where id = 3")
        for forbidden in (
            "insert into embedding_queue (table_name, record_id, embedding_column)"
            " values ('docs', '9', 'embedding')",
            "select content from embedding_queue",
            "delete from embedding_queue",
            "select * from embedding_targets",
            "select embedding.enqueue(1, array['9'], array[null::uuid])",
            "select embedding.forget(1, array['1'])",
        ):
            assert "permission denied" in refusal(docs, forbidden)[0]
    assert embed_all(queue) == ["edited", "one"]


def test_a_type_of_the_writer_cannot_slip_into_the_trigger(
    docs: Database, queue: PostgresQueue
) -> None:
    """A type of a writer's own named `text`, with a check, would run as the owner of the table."""
    docs.execute(
        "do $$ begin create role writer; exception when duplicate_object then null; end $$"
    )
    docs.execute("grant insert, update, select on docs to writer")
    docs.execute("create table log (who text)")
    docs.execute("grant insert on log to public")
    with acting_as(docs, "writer"):
        docs.execute(
            "create function pg_temp.spy(text) returns boolean language plpgsql as"
            " $$ begin insert into public.log values (current_user); return true; end $$"
        )
        docs.execute("create domain pg_temp.text as pg_catalog.text check (pg_temp.spy(value))")
        docs.execute("insert into docs values (1, 'one')")
        docs.execute("update docs set body = 'two'")
        docs.execute("update docs set id = 2")
    assert rows(docs, "select * from log") == []
    assert embed_all(queue) == ["two"]


# -- our side of it


def test_a_sequence_behind_its_rows_does_not_fail_the_writers(
    done: Database, queue: PostgresQueue
) -> None:
    """As on a logical replica that was promoted: rows are replicated, sequences are not."""
    done.execute("create table logs (id bigint primary key, body text) partition by range (id)")
    done.execute("create table logs_1 partition of logs default")
    done.execute("select watch_embeddings('logs', 'body', 'embedding', dimensions => 3)")
    for write in (
        "insert into docs values (3, 'three'), (4, 'four')",
        "insert into logs values (1, 'logged'), (2, 'logged as well')",
        "update docs set id = 5 where id = 4",
        "delete from docs where id = 3",
    ):
        done.execute("select setval('embedding_queue_id_seq', 1, false)")
        done.execute("select setval('embedding_counts_id_seq', 1, false)")
        done.execute(write.encode())
    assert embed_all(queue) == ["four", "logged", "logged as well"]
    assert [target.problem for target in queue.targets()] == [None, None]
    assert rows(
        done,
        "select sum(completed) = (select count(*) from embedding_queue where status = 'completed')"
        " from embedding_counts",
    ) == [(True,)]
    done.execute("select setval('embedding_counts_id_seq', 1, false)")
    done.execute("update docs set body = 'edited'")
    assert len(embed_all(queue)) == 3


def test_a_queue_that_takes_no_job_does_not_fail_the_writers(
    done: Database, queue: PostgresQueue
) -> None:
    done.execute("alter table embedding_queue add check (record_id <> '3')")
    done.execute("insert into docs values (3, 'three')")
    assert "check constraint" in str(queue.targets()[0].problem)
    assert value(done, "select count(*) from docs") == 3


# Random, so that Postgres cannot compress it into its index; `ö` takes two bytes.
LONG_KEY = (
    "(select left(string_agg({letter} || encode(sha256(i::text::bytea), 'hex'), ''), {length})"
    " from generate_series(1, 200) i)"
)


@pytest.mark.parametrize(
    ("key", "length"),
    rest_in_full(
        [
            (LONG_KEY.format(letter="''", length=2000), 2000),
            (LONG_KEY.format(letter="''", length=2001), 2001),
            (LONG_KEY.format(letter="''", length=2688), 2688),
            ("repeat('x', 2688)", 2688),
            ("repeat('x', 2704)", 2704),
            ("repeat('x', 10000)", 10000),
            ("repeat('ö', 1001)", 2002),
            ("repeat('ö', 1000)", 2000),
        ],
        first=3,
    ),
)
def test_a_long_key_fails_alone(
    db: Database, queue: PostgresQueue, key: LiteralString, length: int
) -> None:
    db.execute("create table pages (id text primary key, body text)")
    db.execute(f"insert into pages values ({key} || '', 'there before')")
    db.execute("select watch_embeddings('pages', 'body', 'embedding', dimensions => 3)")
    queue.backfill(queue.target("pages", "embedding"), 10)
    db.execute("delete from pages")
    assert jobs(db) == []
    db.execute(f"insert into pages values ('a', 'first'), ({key}, 'of the long key')")
    db.execute("update pages set body = body || ', edited'")
    db.execute("insert into pages values ('b', 'second')")
    fits = ["of the long key, edited"] if length <= 2000 else []
    assert embed_all(queue) == ["first, edited", *fits, "second"]
    assert queue.targets()[0].problem is None
    assert rows(
        db, "select error_class, error_message from embedding_queue where status = 'failed'"
    ) == (
        []
        if fits
        else [
            (
                "key_too_long",
                f"the key has {length} bytes, and the queue takes keys of up to 2000",
            )
        ]
    )
    db.execute("update pages set id = 'c' where id not in ('a', 'b')")
    assert embed_all(queue) == ["of the long key, edited"]
    assert sorted(jobs(db)) == [(record, "completed") for record in "abc"]


def test_an_edit_starts_the_count_of_unanswered_claims_over(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    docs.execute("update embedding_queue set abandoned_claims = 5")
    docs.execute("update docs set body = 'two'")
    assert embed_all(queue) == ["two"]


@pytest.mark.parametrize(
    ("column", "named"), [("body", "docs.body"), ("id", "id"), ("user_id", "user_id")]
)
def test_a_column_that_is_dropped_with_our_trigger_leaves_nothing_stale_in_silence(
    db: Database, queue: PostgresQueue, column: LiteralString, named: str
) -> None:
    """Postgres itself refuses the DROP without CASCADE, and names the trigger."""
    db.execute("create table notes (id integer primary key, body text, title text, user_id uuid)")
    db.execute(
        "select watch_embeddings('notes', 'body, title', 'embedding', dimensions => 3,"
        " match_function => true)"
    )
    db.execute("insert into notes values (1, 'one', 'first')")
    embed_all(queue)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        db.execute(f"alter table notes drop column {column}")
    db.execute(f"alter table notes drop column {column} cascade")
    db.execute("update notes set title = 'second'")
    found = rows(db, "select check_name from diagnose_embeddings()")
    assert ("triggers_missing",) in found
    db.execute("update embedding_queue set status = 'pending'")
    assert embed_all(queue) == []
    assert queue.targets()[0].problem is not None


@pytest.mark.parametrize(
    "drop",
    [
        "alter table docs drop column embedding",
        "alter table docs drop column views",
        "alter table docs rename column body to words",
        "alter table docs rename column id to key",
        "alter table docs rename to pages",
        "drop table docs",
        "drop schema app cascade",
    ],
)
def test_no_trigger_of_ours_blocks_other_changes(docs: Database, drop: LiteralString) -> None:
    docs.execute("create schema app; create table app.notes (id integer primary key, body text)")
    docs.execute("select watch_embeddings('app.notes', 'body', 'embedding', dimensions => 3)")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', match_function => true)")
    docs.execute(drop)


def test_a_key_whose_text_raises_does_not_fail_the_writers(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create type level as enum ('low', 'high')")
    db.execute("create table notes (id level primary key, body text)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute(
        "create function shout(level) returns text language plpgsql as"
        " $$ begin raise exception 'no text for you'; end $$"
    )
    db.execute("create cast (level as text) with function shout(level)")
    db.execute("insert into notes values ('low', 'one')")
    db.execute("delete from notes")
    assert str(queue.targets()[0].problem).endswith("SQLSTATE P0001 in function shout")
