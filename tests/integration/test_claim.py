from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.conftest import Database, Server, rest_in_full, rows, value
from tests.integration.jobs import (
    SCOPE,
    SQLSTATES,
    claim,
    claim_one,
    complete,
    create_poison,
    expire_leases,
    insert,
    let_nothing_wait,
    poison_trigger,
    vector_of,
)
from worker.errors import Busy
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue


def test_a_claim_hands_out_the_text_and_a_lease(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    job = claim_one(queue)
    assert (job.table_name, job.record_id, job.embedding_column) == ("docs", "1", "embedding")
    assert (job.content, job.dimensions, job.model) == ("text 1", 3, "test:model")
    assert job.content_hash == value(docs, "select sha256('text 1')")
    assert rows(
        docs,
        "select status, abandoned_claims, worker, lease, lease_expires_at > now()"
        "  from embedding_queue",
    ) == [("processing", 1, "test", job.lease, True)]


def test_a_claim_never_exceeds_its_limit(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1000)
    docs.execute("analyze embedding_queue")
    assert len(claim(queue, 10)) == 10
    assert value(docs, "select count(*) from embedding_queue where status = 'processing'") == 10


@pytest.mark.parametrize("setting", ["enable_hashjoin", "enable_seqscan", "enable_indexscan"])
def test_a_claim_never_exceeds_its_limit_whatever_the_planner_does(
    docs: Database, server: Server, database: str, setting: str
) -> None:
    insert(docs, 1000)
    # Poolers refuse it among the options of a connection, and have no session yet that lacks it.
    docs.execute(f"alter database {database} set {setting} = off".encode())
    with PostgresQueue(server.url_of(database), "tests") as queue:
        assert len(claim(queue, 10)) == 10


def test_the_higher_priority_is_claimed_first_and_then_the_older(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 4)
    docs.execute("update embedding_queue set priority = 5 where record_id = '3'")
    docs.execute(
        "update embedding_queue set available_at = now() - interval '1 hour' where record_id = '4'"
    )
    order = [claim_one(queue).record_id for _ in range(4)]
    assert order == ["3", "4", "1", "2"]


def test_a_job_that_is_not_due_is_not_claimed(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    docs.execute("update embedding_queue set available_at = now() + interval '1 hour'")
    assert not queue.claim(SCOPE, 10)


def test_two_workers_never_get_the_same_job(
    docs: Database, queue: AdminQueue, database_url: str
) -> None:
    insert(docs, 10)
    with PostgresQueue(database_url, "other") as other:
        mine, theirs = claim(queue, 5), claim(other, 10)
    assert sorted(int(job.record_id) for job in mine + theirs) == list(range(1, 11))


def test_a_claim_under_way_is_passed_over_without_waiting(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 3)
    other = connect()
    with other.transaction():
        other.execute("select claim_embeddings('other', 1, default_model => 'test:model')")
        assert {job.record_id for job in claim(queue)} == {"2", "3"}


def test_an_expired_lease_is_due_again_for_any_worker(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    first = claim_one(queue)
    assert not queue.claim(SCOPE, 1)
    expire_leases(docs)
    second = claim_one(queue)
    assert second.attempts == 0
    assert second.lease != first.lease
    assert [refusal.reason for refusal in complete(queue, [first])] == ["lost"]
    assert complete(queue, [second]) == []


def test_a_job_that_is_never_answered_is_failed_when_it_is_claimed(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    for _ in range(5):
        claim_one(queue)
        expire_leases(docs)
    claimed = queue.claim(SCOPE, 1)
    assert claimed.jobs == []
    assert claimed.settled == {"failed": 1}
    assert rows(docs, "select status, error_class, error_message from embedding_queue") == [
        (
            "failed",
            "no_answer",
            "claimed 5 times, never answered: it probably kills its worker",
        )
    ]


def test_jobs_of_deleted_records_do_not_hide_those_behind_them(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 60)
    docs.execute("alter table docs disable trigger user")
    docs.execute("delete from docs where id <= 50")
    claimed = queue.claim(SCOPE, 50)
    assert claimed.settled == {"dropped": 50}
    assert claimed, "an empty batch is not the end of the queue"
    assert len(claim(queue, 50)) == 10
    assert value(docs, "select count(*) from embedding_queue") == 10


def test_unchanged_text_and_model_complete_without_a_vector(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    complete(queue, claim(queue))
    docs.execute("update embedding_queue set status = 'pending'")
    claimed = queue.claim(SCOPE, 1)
    assert (claimed.jobs, claimed.settled) == ([], {"completed": 1})


@pytest.mark.parametrize(
    "change",
    [
        "update docs set embedding = null",
        "update embedding_queue set content_hash = sha256('another text')",
        "update embedding_queue set model = 'another:model'",
    ],
)
def test_another_text_or_model_or_no_vector_is_embedded_anew(
    docs: Database, queue: AdminQueue, change: str
) -> None:
    insert(docs, 1)
    complete(queue, claim(queue))
    docs.execute(change.encode())
    docs.execute("update embedding_queue set status = 'pending'")
    assert claim_one(queue).content == "text 1"


def test_requeued_jobs_are_embedded_anew_even_if_nothing_changed(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 1)
    complete(queue, claim(queue))
    assert queue.requeue(status="completed").requeued == 1
    assert claim_one(queue).content == "text 1"


@pytest.mark.parametrize("text", ["", " \t\n ", "\u2003", None])
def test_nothing_to_embed_is_skipped_and_loses_its_vector(
    docs: Database, queue: AdminQueue, text: str | None
) -> None:
    insert(docs, 1)
    complete(queue, claim(queue))
    docs.execute("update docs set body = %s", [text])
    assert queue.claim(SCOPE, 1).settled == {"skipped": 1}
    assert value(docs, "select embedding from docs") is None
    assert value(docs, "select status from embedding_queue") == "skipped"
    docs.execute("update docs set body = 'a text again'")
    assert claim_one(queue).content == "a text again"


def test_a_row_that_somebody_writes_keeps_its_vector_until_it_can_be_taken(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 1)
    complete(queue, claim(queue))
    docs.execute("update docs set body = ''")
    writer = connect()
    with writer.transaction():
        writer.execute("update docs set views = 1")
        assert queue.claim(SCOPE, 1).settled == {"pending": 1}
    assert rows(docs, "select status, attempts, available_at > now() from embedding_queue") == [
        ("pending", 0, True)
    ]
    docs.execute("update embedding_queue set available_at = now()")
    assert queue.claim(SCOPE, 1).settled == {"skipped": 1}
    assert value(docs, "select embedding from docs") is None


def test_a_row_that_cannot_be_read_fails_alone_with_the_reason(
    db: Database, queue: AdminQueue
) -> None:
    db.execute("create table events (id integer primary key, data json)")
    db.execute(
        "select watch_embeddings('events', 'data ->> ''text''', 'embedding', dimensions => 3)"
    )
    nul, surrogate = r'{"text": "a\u0000b"}', r'{"text": "a\ud800b"}'
    for record, data in enumerate(['{"text": "good"}', nul, surrogate, '{"text": "fine"}']):
        db.execute("insert into events values (%s, %s)", [record, data])
    claimed = queue.claim(SCOPE, 10)
    assert sorted(job.content for job in claimed.jobs) == ["fine", "good"]
    assert claimed.settled == {"failed": 2}
    assert rows(
        db, "select record_id, error_class from embedding_queue where status = 'failed' order by 1"
    ) == [("1", "unreadable"), ("2", "unreadable")]


def test_a_record_id_that_is_no_key_fails_alone(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    docs.execute(
        "insert into embedding_queue (table_name, record_id, embedding_column)"
        " values ('docs', 'no number', 'embedding')"
    )
    claimed = queue.claim(SCOPE, 10)
    assert [job.record_id for job in claimed.jobs] == ["1"]
    assert claimed.settled == {"failed": 1}


def test_a_target_whose_column_is_gone_is_set_aside_and_the_others_go_on(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("create table notes (id integer primary key, body text)")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    docs.execute("insert into notes values (1, 'a note')")
    insert(docs, 1)
    docs.execute("alter table notes drop column embedding")
    assert [job.table_name for job in claim(queue)] == ["docs"]
    assert not queue.claim(SCOPE, 1)
    [problem] = [target.problem for target in queue.targets() if target.table_name == "notes"]
    assert problem is not None
    assert "embedding" in problem
    assert value(docs, "select status from embedding_queue where table_name = 'notes'") == "pending"
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    assert [job.table_name for job in claim(queue)] == ["notes"]


def test_a_target_whose_table_is_gone_is_set_aside(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    docs.execute("drop table docs")
    assert not queue.claim(SCOPE, 1)
    assert [target.problem is None for target in queue.targets()] == [False]


@pytest.mark.contract
def test_a_locked_table_is_passed_over_and_told_if_there_is_nothing_else(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    docs.execute("create table notes (id integer primary key, body text)")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    docs.execute("insert into notes values (1, 'a note')")
    insert(docs, 1)
    other = connect()
    with other.transaction():
        other.execute("lock table docs in access exclusive mode")
        assert [job.table_name for job in claim(queue)] == ["notes"]
        with pytest.raises(Busy, match="docs is locked"):
            queue.claim(SCOPE, 1)
    assert claim_one(queue).table_name == "docs"


def test_a_disabled_target_is_not_claimed(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    docs.execute("update embedding_targets set enabled = false")
    assert not queue.claim(SCOPE, 1)


@pytest.mark.contract
def test_a_claim_can_be_narrowed_to_a_table_and_column(docs: Database, queue: AdminQueue) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'second', dimensions => 3)")
    insert(docs, 2)
    jobs = claim(queue, scope=replace(SCOPE, table="docs", column="second"))
    assert [job.embedding_column for job in jobs] == ["second", "second"]
    assert not queue.claim(replace(SCOPE, table="elsewhere"), 1)


def test_the_model_of_the_target_goes_before_the_default(docs: Database, queue: AdminQueue) -> None:
    docs.execute("update embedding_targets set model = 'its:own'")
    insert(docs, 1)
    assert claim_one(queue).model == "its:own"


def test_an_old_text_is_never_handed_out_with_a_new_job(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    """The claim reads the text after it has leased the job, with a younger snapshot."""
    insert(docs, 1)
    complete(queue, claim(queue))
    writer = connect()
    with writer.transaction():
        writer.execute("update docs set body = 'new'")
        assert not queue.claim(SCOPE, 1), "the job is the writer's until it commits"
    job = claim_one(queue)
    assert job.content == "new"
    assert complete(queue, [job], vector_of(job)) == []


# -- rows over which the source or the filter raises an error


POISONED = "update docs set body = 'poison ' || id where id in (2, 4)"


@pytest.mark.parametrize("part", ["source", "filter"])
def test_a_row_that_raises_any_error_fails_alone(
    docs: Database, queue: AdminQueue, part: str
) -> None:
    create_poison(docs, SQLSTATES[0])
    if part == "source":
        docs.execute("select watch_embeddings('docs', 'public.poison(body)', 'embedding')")
    else:
        docs.execute(
            "select watch_embeddings('docs', 'body', 'embedding',"
            " filter => 'public.poison(body) is not null')"
        )
    insert(docs, 5)
    docs.execute(POISONED.encode())
    for sqlstate in SQLSTATES:
        create_poison(docs, sqlstate)
        docs.execute("update embedding_queue set status = 'pending'")
        claimed = queue.claim(SCOPE, 10)
        assert sorted(job.record_id for job in claimed.jobs) == ["1", "3", "5"], sqlstate
        assert claimed.settled == {"failed": 2}, sqlstate
        failed = rows(
            docs,
            "select record_id, error_class from embedding_queue where status = 'failed' order by 1",
        )
        assert failed == [("2", "unreadable"), ("4", "unreadable")], sqlstate
        assert value(docs, "select problem from embedding_targets") is None, sqlstate


@pytest.mark.parametrize("sqlstate", ["22012", "42704", "3F000", "40001", "57014"])
def test_rows_that_raise_an_error_fail_also_where_nothing_else_is_due(
    docs: Database, queue: AdminQueue, sqlstate: str
) -> None:
    create_poison(docs, sqlstate)
    docs.execute("select watch_embeddings('docs', 'public.poison(body)', 'embedding')")
    insert(docs, 5)
    assert complete(queue, claim(queue)) == []
    docs.execute(POISONED.encode())
    assert queue.claim(SCOPE, 10).settled == {"failed": 2}
    assert value(docs, "select problem from embedding_targets") is None


@pytest.mark.parametrize("sqlstate", rest_in_full(SQLSTATES, 5))
def test_a_row_whose_trigger_does_not_let_its_vector_go_fails_alone(
    docs: Database, queue: AdminQueue, sqlstate: str
) -> None:
    insert(docs, 3)
    complete(queue, claim(queue))
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'views = 0')")
    docs.execute("update docs set views = 1 where id <> 3")
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set body = 'poison' where id = 2")
    docs.execute("alter table docs enable trigger user")
    poison_trigger(docs, sqlstate)
    assert queue.claim(SCOPE, 10).settled == {"failed": 1, "dropped": 1, "completed": 1}
    assert rows(docs, "select id, embedding is null from docs order by id") == [
        (1, True),
        (2, False),
        (3, False),
    ]


def test_what_every_row_raises_for_want_of_a_table_sets_the_target_aside(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute("create table words (word text)")
    docs.execute(
        "create function words(body text) returns text language plpgsql as"
        " $$ begin return (select body || min(word) from public.words); end $$"
    )
    docs.execute("select watch_embeddings('docs', 'public.words(body)', 'embedding')")
    insert(docs, 3)
    docs.execute("drop table words")
    assert not queue.claim(SCOPE, 10)
    assert "public.words" in str(value(docs, "select problem from embedding_targets"))
    assert value(docs, "select count(*) from embedding_queue where status = 'pending'") == 3


def test_halving_finds_a_few_rows_among_many(docs: Database, queue: AdminQueue) -> None:
    create_poison(docs, "42704")
    docs.execute("select watch_embeddings('docs', 'public.poison(body)', 'embedding')")
    insert(docs, 300)
    docs.execute("update docs set body = 'poison' where id in (1, 150, 151, 300)")
    claimed = queue.claim(SCOPE, 300)
    assert len(claimed.jobs) == 296
    assert claimed.settled == {"failed": 4}


def test_a_row_that_takes_too_long_fails_alone_after_some_attempts(
    docs: Database, server: Server, database: str
) -> None:
    docs.execute(
        "create function slow(body text) returns text language plpgsql as $$ begin"
        " if body = 'slow' then perform pg_sleep(60); end if; return body; end $$"
    )
    docs.execute("select watch_embeddings('docs', 'public.slow(body)', 'embedding')")
    docs.execute("update embedding_targets set max_attempts = 2")
    insert(docs, 4)
    docs.execute("update docs set body = 'slow' where id = 1")
    # Before the first session of a pooler, which keeps what it began with.
    docs.execute(f"alter database {database} set statement_timeout = '200ms'".encode())
    texts = []
    with PostgresQueue(server.url_of(database), "tests") as queue:
        for _ in range(4):
            texts += [job.content for job in claim(queue)]
            docs.execute(
                "update embedding_queue set available_at = now() where status = 'pending'"
                " and attempts = 1 and lease is null and error_class = 'unreadable'"
            )
    assert sorted(texts) == ["text 2", "text 3", "text 4"]
    assert rows(
        docs, "select record_id, error_class from embedding_queue where status = 'failed'"
    ) == [("1", "unreadable")]


def test_a_record_id_that_matches_two_rows_fails(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    insert(db, 3)
    db.execute("update embedding_targets set record_match_sql = 'docs.id >= eq_record::bigint'")
    claimed = queue.claim(SCOPE, 10)
    assert [job.record_id for job in claimed.jobs] == ["3"]
    assert claimed.settled == {"failed": 2}


# -- rows that somebody holds


def test_a_row_that_somebody_writes_is_not_handed_out_and_comes_back_with_growing_pauses(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 3)
    writer = connect()
    pauses = []
    with writer.transaction():
        writer.execute("update docs set views = 1 where id = 2")
        assert {job.record_id for job in claim(queue)} == {"1", "3"}
        for _ in range(8):
            pauses.append(
                value(
                    docs,
                    "select extract(epoch from available_at - updated_at)::float"
                    " from embedding_queue where record_id = '2'",
                )
            )
            docs.execute("update embedding_queue set available_at = now(), attempts = 0")
            assert queue.claim(SCOPE, 10).settled == {"pending": 1}
    assert all(2 * 2**i <= pause <= 3 * 2**i for i, pause in enumerate(pauses[:5]))
    assert all(60 <= pause <= 90 for pause in pauses[5:])
    assert rows(
        docs,
        "select status, unwritten, passed_over, error_class from embedding_queue"
        " where record_id = '2'",
    ) == [("pending", 0, 9, "locked")]
    docs.execute("update embedding_queue set available_at = now() where record_id = '2'")
    job = claim_one(queue)
    assert complete(queue, [job]) == []
    assert value(docs, "select max(passed_over) from embedding_queue") == 0


@pytest.mark.parametrize("mode", ["update", "no key update", "share"])
def test_a_row_that_is_locked_against_a_writer_is_passed_over(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue, mode: str
) -> None:
    insert(docs, 1)
    let_nothing_wait(docs)
    holder = connect()
    with holder.transaction():
        holder.execute(f"select from docs for {mode}".encode())
        assert queue.claim(SCOPE, 1).settled == {"pending": 1}


def test_a_row_that_only_its_key_is_held_of_is_handed_out(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    """As a foreign key does, while rows that refer to it are inserted."""
    insert(docs, 1)
    holder = connect()
    with holder.transaction():
        holder.execute("select from docs for key share")
        assert complete(queue, [claim_one(queue)]) == []


def test_a_row_that_nobody_holds_is_not_locked_by_a_claim(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 1)
    other = connect()
    with other.transaction():
        other.execute("select claim_embeddings('other', 1, default_model => 'test:model')")
        docs.execute("set lock_timeout = '1s'")
        assert value(docs, "update docs set views = 1 returning views") == 1


def test_an_expired_job_that_somebody_holds_is_passed_over(
    docs: Database, connect: Callable[[], Database], queue: AdminQueue
) -> None:
    insert(docs, 2)
    claim(queue)
    expire_leases(docs)
    let_nothing_wait(docs)
    holder = connect()
    with holder.transaction():
        holder.execute("select from embedding_queue where record_id = '1' for update")
        assert [job.record_id for job in claim(queue)] == ["2"]


def test_a_skipped_job_has_neither_hash_nor_model(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    complete(queue, claim(queue))
    docs.execute("update docs set body = ''")
    assert queue.claim(SCOPE, 1).settled == {"skipped": 1}
    assert rows(
        docs, "select content_hash, model, tokens, cost, truncated_to from embedding_queue"
    ) == [(None, None, None, None, None)]
