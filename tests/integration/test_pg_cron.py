"""What pg_cron is to do by itself, where it is.

The embedded Postgres has none: here is its schema, with the parts of it that the file names. The
commands that are scheduled are run as they stand.
"""

from __future__ import annotations

import re

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.documentation import blocks
from tests.integration.tables import embed_all, jobs
from worker.database.migrations import scheduled
from worker.queue.postgres import PostgresQueue

PG_CRON = """
create schema cron;
create table cron.job (jobid bigserial, schedule text, command text, jobname text unique);
create table cron.job_run_details (jobid bigint, end_time timestamptz);
create function cron.schedule(job_name text, schedule text, command text) returns bigint
language sql as $$
    insert into cron.job (jobname, schedule, command) values (job_name, schedule, command)
    on conflict (jobname) do update set schedule = excluded.schedule, command = excluded.command
    returning jobid
$$;
create function cron.unschedule(job_name name) returns boolean language sql as $$
    with gone as (delete from cron.job where jobname = job_name returning 1)
    select exists (select from gone)
$$;
"""


@pytest.fixture
def cron(docs: Database) -> Database:
    """The watched table `docs`, in a database with pg_cron where the file was run twice."""
    docs.execute(PG_CRON)
    for _ in range(2):
        docs.execute(scheduled().sql.encode())
    return docs


def run_job(db: Database, name: str) -> None:
    """As pg_cron does it: all statements at once, with the search path of nobody in particular."""
    db.execute("set search_path = ''")
    db.execute(value(db, "select command from cron.job where jobname = %s", name).encode())
    db.execute("reset search_path")


def test_each_job_is_scheduled_once(cron: Database) -> None:
    assert rows(cron, "select jobname, schedule from cron.job order by jobid") == [
        ("embedding-backfill", "* * * * *"),
        ("embedding-retry", "7 3 * * *"),
        ("embedding-cleanup", "17 3 * * *"),
    ]


def test_the_page_about_uninstalling_removes_our_jobs_and_no_others(cron: Database) -> None:
    cron.execute("insert into cron.job (jobname) values ('of-mine')")
    [block] = blocks("docs/uninstall.md", "1. Stop the workers", ["sql"])
    cron.execute(block.text.encode())
    assert rows(cron, "select jobname from cron.job") == [("of-mine",)]


def test_rows_that_no_trigger_saw_are_queued(cron: Database, queue: PostgresQueue) -> None:
    cron.execute("set session_replication_role = replica")
    cron.execute("insert into docs values (1, 'replicated')")
    cron.execute("set session_replication_role = origin")
    assert jobs(cron) == []
    run_job(cron, "embedding-backfill")
    assert jobs(cron) == [("1", "pending")]
    assert embed_all(queue) == ["replicated"]
    run_job(cron, "embedding-backfill")
    assert jobs(cron) == [("1", "completed")]


def test_a_column_that_is_set_aside_does_not_hold_up_the_others(cron: Database) -> None:
    cron.execute("create table broken (id bigint primary key, body text)")
    cron.execute("select watch_embeddings('broken', 'body', 'embedding', dimensions => 3)")
    cron.execute("drop table broken")
    cron.execute("update embedding_targets set problem = 'gone' where table_name = 'broken'")
    cron.execute("set session_replication_role = replica")
    cron.execute("insert into docs values (1, 'replicated')")
    cron.execute("set session_replication_role = origin")
    run_job(cron, "embedding-backfill")
    assert jobs(cron) == [("1", "pending")]
    problems = "select table_name, problem from embedding_targets order by 1"
    assert rows(cron, problems) == [("broken", "gone"), ("docs", None)]


def test_jobs_whose_model_failed_for_a_time_are_tried_again(cron: Database) -> None:
    cron.execute("insert into docs values (1, 'slow'), (2, 'too long'), (3, 'done')")
    cron.execute("update embedding_queue set status = 'completed' where record_id = '3'")
    for record, reason in ("1", "timed_out"), ("2", "too_long"):
        cron.execute(
            "update embedding_queue set status = 'failed', error_class = %s, error_message = 'why'"
            " where record_id = %s",
            [reason, record],
        )
    run_job(cron, "embedding-retry")
    assert jobs(cron) == [("1", "pending"), ("2", "failed"), ("3", "completed")]


def test_what_is_old_is_swept_and_what_is_not_stays(cron: Database) -> None:
    cron.execute(
        "insert into embedding_workers (worker, host, pid, seen_at)"
        " values ('old', 'h', 1, now() - interval '25 hours'), ('new', 'h', 2, now())"
    )
    cron.execute(
        "insert into embedding_usage (minute, model)"
        " values (now() - interval '8 days', 'a:b'), (now(), 'a:b')"
    )
    cron.execute(
        "insert into cron.job_run_details (jobid, end_time)"
        " values (1, now() - interval '8 days'), (1, now()), (99, now() - interval '8 days')"
    )
    run_job(cron, "embedding-cleanup")
    assert rows(cron, "select worker from embedding_workers") == [("new",)]
    assert value(cron, "select count(*) from embedding_usage") == 1
    theirs_and_new = rows(cron, "select jobid from cron.job_run_details order by jobid")
    assert theirs_and_new == [(1,), (99,)]


def test_the_undo_of_the_file_leaves_no_job(cron: Database) -> None:
    [undo] = re.findall(r"^-- Undo: +(.*)$", scheduled().sql, re.M)
    cron.execute(undo.encode())
    assert rows(cron, "select * from cron.job") == []


def test_without_pg_cron_one_sentence_says_so(docs: Database) -> None:
    said: list[str | None] = []

    def listen(diagnosis: psycopg.errors.Diagnostic) -> None:
        said.append(diagnosis.message_primary)

    docs.add_notice_handler(listen)
    docs.execute(scheduled().sql.encode())
    assert said == [
        "pg_cron is not enabled: nothing is scheduled; enable it, then run this file again"
    ]
