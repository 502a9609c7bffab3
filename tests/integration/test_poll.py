"""What a waiting worker asks: is there a command for it, and would a claim find a job?"""

from __future__ import annotations

from dataclasses import replace
from typing import LiteralString

import pytest

from tests.conftest import Database, value
from tests.integration.jobs import SCOPE, claim, insert
from worker.queue import AdminQueue, Command, Scope

OF_ANOTHER_TABLE = replace(SCOPE, table="public.other")
OF_ANOTHER_COLUMN = replace(SCOPE, column="other")
WITH_ANOTHER_MODEL = replace(SCOPE, default_model="another:model")


def job_is(state: LiteralString) -> LiteralString:
    return "update embedding_queue set " + state


LEASED: LiteralString = "status = 'processing', lease = gen_random_uuid(), lease_expires_at = now()"


@pytest.mark.parametrize(
    ("statement", "scope", "is_due"),
    [
        ("", SCOPE, True),
        ("delete from embedding_queue", SCOPE, False),
        (job_is("available_at = now() + '1 minute'"), SCOPE, False),
        (job_is("status = 'completed'"), SCOPE, False),
        (job_is("status = 'failed', error_message = 'rejected'"), SCOPE, False),
        (job_is(LEASED + " + interval '1 minute'"), SCOPE, False),
        (job_is(LEASED + " - interval '1 minute'"), SCOPE, True),
        ("update embedding_targets set enabled = false", SCOPE, False),
        ("update embedding_targets set problem = 'broken'", SCOPE, False),
        ("", OF_ANOTHER_TABLE, False),
        ("", OF_ANOTHER_COLUMN, False),
        ("", replace(SCOPE, table="docs", column="embedding"), True),
        ("update embedding_targets set model = 'a:b'", WITH_ANOTHER_MODEL, True),
        (
            "update embedding_targets set model = 'a:b', model_is_default = true",
            WITH_ANOTHER_MODEL,
            False,
        ),
    ],
)
def test_a_poll_sees_what_a_claim_would_find(
    docs: Database, queue: AdminQueue, statement: LiteralString, scope: Scope, is_due: bool
) -> None:
    insert(docs, 1)
    if statement:
        docs.execute(statement)
    assert queue.poll(scope) == (Command(), is_due)
    assert bool(claim(queue, scope=scope)) is is_due
    assert queue.poll(scope) == (Command(), False)


@pytest.mark.contract
def test_it_passes_over_the_same_targets(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    target = value(docs, "select id from embedding_targets")
    assert queue.poll(SCOPE, [target]) == (Command(), False)
    assert queue.poll(SCOPE, [target + 1]) == (Command(), True)


@pytest.mark.contract
def test_it_brings_the_command(docs: Database, queue: AdminQueue) -> None:
    queue.control("pause")
    command, is_due = queue.poll(SCOPE)
    assert (command, is_due) == (queue.command(SCOPE), False)
    assert command.desired_state == "pause"


def test_it_writes_nothing(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 1)
    with docs.transaction():
        docs.execute("set transaction read only")
        assert value(docs, "select due from poll_embeddings('test')")


def test_it_reads_few_of_many_jobs_that_are_not_due_yet(db: Database, queue: AdminQueue) -> None:
    """It is called several times a second, and a claim from time to time."""
    db.execute("create table notes (id bigint primary key, user_id uuid, body text)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute(
        "with owner as (select gen_random_uuid() as id, n from generate_series(1, 2) as n),"
        "     first as (select id from owner order by uuid_hash(id) limit 1)"
        " insert into notes select i, case when i = 0 then last.id else first.id end, 'text'"
        "   from generate_series(0, 1000) as i, first,"
        "        (select id from owner order by uuid_hash(id) desc limit 1) as last"
    )
    db.execute("update embedding_queue set available_at = now() + '1 hour' where record_id <> '0'")
    assert queue.poll(SCOPE) == (Command(), False)
    db.execute("delete from embedding_queue where record_id = '1'")
    assert queue.poll(SCOPE) == (Command(), True)
    db.execute("insert into notes select 2000, user_id, 'text' from notes where id = 1")
    db.execute("update embedding_queue set available_at = now() + '1 hour' where record_id <> '0'")
    assert queue.poll(SCOPE) == (Command(), False)
    assert [job.record_id for job in claim(queue)] == ["0"]
