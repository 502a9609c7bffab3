"""The screens about jobs and workers: what they show, and what a press of a button does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, eventually, rows, value
from tests.supabase_project import Project
from tests.web import HOSTILE, Web, read, served_web
from worker.settings import Settings

TABLE = "docs"
ODD = 'od"d <b>&amp; \u202etable 💥'
TARGET = json.dumps([TABLE, "embedding"])

PATHS = ("/", "/jobs", "/failures", "/workers")
LOG_OUT = '<form method="post" action="/logout">'


@pytest.fixture(scope="module")
def database_of_all(shared_url: str) -> Iterator[Database]:
    with psycopg.connect(shared_url, autocommit=True) as db:
        db.execute("create table docs (id bigint primary key, body text)")
        db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
        odd = sql.Identifier(ODD)
        db.execute(sql.SQL("create table {} (id text primary key, body text)").format(odd))
        watch = "select watch_embeddings(%s, 'body', 'embedding', dimensions => 3)"
        db.execute(watch, [odd.as_string()])
        yield db


@pytest.fixture(scope="module")
def web(shared_url: str, database_of_all: Database) -> Iterator[Web]:
    with served_web(Settings(database_url=shared_url)) as web:
        yield web


@pytest.fixture
def db(database_of_all: Database) -> Iterator[Database]:
    """A connection to the database, whose tables and queue are emptied afterwards."""
    yield database_of_all
    database_of_all.execute("truncate docs")
    database_of_all.execute("truncate embedding_workers, embedding_control, embedding_providers")


def fail(db: Database, count: int, error_class: str = "rejected", message: str = "no") -> None:
    db.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [count])
    db.execute(
        "update embedding_queue set status = 'failed', error_class = %s, error_message = %s,"
        " updated_at = clock_timestamp()",
        [error_class, message],
    )


def heartbeat(db: Database, worker: str, host: str = "here", cause: str | None = None) -> None:
    db.execute(
        "select embedding_worker_heartbeat(%s, %s, 7, cause => %s, rss_mb => 123)",
        [worker, host, cause],
    )


def test_failures_are_shown_by_class_with_an_example(web: Web, db: Database) -> None:
    fail(db, 3, "too_long", "a text of 9000 tokens")
    shown = read(web.page("/failures"))
    assert "too_long docs. embedding 3 a text of 9000 tokens" in shown
    assert "Requeue all" in shown


def test_all_failures_that_match_are_requeued_as_a_task(web: Web, db: Database) -> None:
    fail(db, 2500)
    db.execute("update embedding_queue set error_class = 'too_long' where record_id = '7'")
    said = web.press("/failures/requeue", {"target": TARGET, "class": "rejected"})
    assert "has started" in said
    assert "2,499 of 2,499 jobs" in web.task_ends()
    assert rows(db, "select record_id from embedding_queue where status = 'failed'") == [("7",)]
    recorded = "select figures ->> 'error_class' from embedding_audit where event = 'requeued'"
    assert rows(db, recorded) == [("rejected",)]


@pytest.mark.parametrize(
    "query", [{"target": TARGET}, {"table": TABLE, "column": "embedding"}, {"column": "embedding"}]
)
def test_what_is_shown_is_what_would_be_requeued(
    web: Web, db: Database, query: dict[str, str]
) -> None:
    fail(db, 2)
    page = web.page("/failures?" + urlencode(query))
    form = page[page.rindex('action="/failures/requeue"') :]
    fields = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form.partition("</form>")[0])
    assert {name: unescape(given) for name, given in fields} == query


def test_a_requeue_shows_how_far_it_is_and_can_be_cancelled(web: Web, db: Database) -> None:
    fail(db, 2500)
    waiting = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
    db.execute(
        "create or replace function hold() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(7); return null; end $$"
    )
    db.execute("create trigger hold after update on embedding_queue execute function hold()")
    try:
        db.execute("select pg_advisory_lock(7)")
        assert "0 of 2,500 jobs" in web.press("/failures/requeue", {"back": "/failures"})
        [task] = re.findall(r'<li id="task-(\d+)">[^<]*: running', web.page("/failures"))
        eventually(lambda: value(db, waiting), 10)  # else it could end before its first batch
        said = web.press("/tasks/cancel", {"id": task, "back": "/failures"})
        assert f"Task {task} ends after its current step." in said
        assert ": ending, 0 of 2,500 jobs" in said
    finally:
        db.execute("select pg_advisory_unlock(7)")
        db.execute("drop trigger hold on embedding_queue")
    assert "2,000 of 2,500 jobs" in web.task_ends("cancelled")
    assert value(db, "select count(*) from embedding_queue where status = 'failed'") == 500
    assert "had ended before" in web.press("/tasks/cancel", {"id": task})


def test_hostile_names_and_messages_stay_text(web: Web, db: Database) -> None:
    fail(db, 1, HOSTILE, HOSTILE)
    heartbeat(db, HOSTILE, HOSTILE, HOSTILE)
    stopped = "insert into embedding_providers (provider, error, hint) values (%s, %s, %s)"
    db.execute(stopped, [HOSTILE] * 3)
    db.execute("update embedding_workers set version = %s", [HOSTILE])
    for path in PATHS:
        page = web.page(path)
        assert "<script>alert" not in page
        assert "\u202e" not in read(page)
        assert "<b>" not in page
        assert "💥" in page


def test_one_worker_is_paused_and_resumed(web: Web, db: Database) -> None:
    heartbeat(db, "one:1:aa")
    heartbeat(db, HOSTILE)
    assert "Pause" in web.page("/workers")
    web.press("/workers/one/pause", {"worker": "one:1:aa"})
    assert rows(db, "select worker, desired_state from embedding_control") == [
        ("one:1:aa", "pause")
    ]
    assert "told to pause" in read(web.page("/workers"))
    web.press("/workers/one/sleep", {"worker": HOSTILE})
    web.press("/workers/one/work", {"worker": "one:1:aa"})
    assert set(rows(db, "select worker, desired_state from embedding_control")) == {
        ("one:1:aa", "work"),
        (HOSTILE, "sleep"),
    }


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/failures/requeue", {}),
        ("/workers/one/pause", {"worker": "one:1:aa"}),
        ("/workers/all/sleep", {}),
        ("/goals/set", {"target": TARGET, "percent": "5"}),
        ("/jobs/requeue", {"chosen": "1"}),
        ("/jobs/1/requeue", {}),
        ("/tasks/cancel", {"id": "1"}),
    ],
)
def test_a_reader_sees_no_button_and_presses_none(
    web: Web, db: Database, path: str, form: dict[str, str]
) -> None:
    fail(db, 1)
    heartbeat(db, "one:1:aa")
    for page in PATHS:
        assert 'method="post"' not in web.as_reader.get(page).text.replace(LOG_OUT, "")
    assert web.as_reader.post(path, data=form).status_code == 403
    assert rows(db, "select from embedding_control") == []
    assert value(db, "select count(*) from embedding_queue where status = 'failed'") == 1


def test_what_does_not_exist_is_said_with_its_cure(web: Web) -> None:
    answer = web.post("/workers/one/pause", {"worker": "gone"})
    assert answer.status_code == 400
    assert "there is no worker gone" in read(answer.text)
    assert web.get("/failures?target=nonsense").status_code == 400


def test_the_overview_says_whether_all_is_well(web: Web, db: Database) -> None:
    heartbeat(db, "one:1:aa", cause="load 0.97 a core")
    db.execute(
        "update embedding_workers set throttle_level = 'slow', cpu_percent = 93.5, load = 0.97"
    )
    eventually(lambda: "The database was checked" in read(web.page("/")), 20)
    said = read(web.page("/"))
    assert "All is well." in said
    assert "one:1:aa 93.5 % 0.97 123 MB slow : load 0.97 a core" in said
    assert "0 of 100 sessions in a transaction" in said


def test_the_overview_says_what_is_wrong(web: Web, db: Database) -> None:
    heartbeat(db, "one:1:aa")
    db.execute("update embedding_workers set seen_at = now() - interval '1 hour'")
    db.execute(
        "insert into embedding_providers (provider, error, hint)"
        " values ('openai', 'OpenAI refuses the key', 'Check OPENAI_API_KEY.')"
    )
    said = read(web.page("/"))
    assert "All is well" not in said
    assert "1 worker sent no heartbeat" in said
    assert "OpenAI refuses the key Check OPENAI_API_KEY." in said


def test_the_overview_draws_the_jobs_of_each_hour_of_the_last_day(web: Web, db: Database) -> None:
    try:
        db.execute(
            "insert into embedding_usage (minute, model, completed, failed)"
            " values (date_trunc('minute', now()), 'one', 4000, 0),"
            " (date_trunc('minute', now()) - interval '5 hours', 'one', 1500, 0),"
            " (date_trunc('minute', now()) - interval '5 hours', 'other', 500, 1000),"
            " (date_trunc('minute', now()) - interval '25 hours', 'one', 9999, 9999)"
        )
        page = web.page("/")
        said = read(page)
        assert "6,000 completed, 1,000 failed; most in an hour: 4,000" in said
        drawn = {
            kind: [float(height) for height in re.findall(f'"{kind}" x.*height="(.*?)"', page)]
            for kind in ("fill", "failed")
        }
        assert drawn["fill"] == [*[0] * 18, 10, *[0] * 4, 20]
        assert drawn["failed"] == [*[0] * 18, 5, *[0] * 5]
        assert read(page.split('id="hours"')[1]).count(" UTC ") >= 24
    finally:
        db.execute("truncate embedding_usage")


def test_all_workers_are_paused_put_to_sleep_and_resumed(web: Web, db: Database) -> None:
    assert "All workers, and those that start later, are paused" in web.press("/workers/all/pause")
    assert "are in deep sleep since" in web.press("/workers/all/sleep")
    assert "are in deep sleep since" not in web.press("/workers/all/work")
    source = "select distinct source, address from embedding_audit where event = 'controlled'"
    assert ("web", "127.0.0.1") in rows(db, source)


def test_a_goal_is_set_shown_and_removed(web: Web, db: Database) -> None:
    fail(db, 4)
    said = web.press("/goals/set", {"target": TARGET, "percent": "99.5"})
    assert "0 % of 99.5 % wanted" in said
    assert "also needs rows that failed or are not in the queue: 4." in said
    assert "% wanted" not in web.press("/goals/set", {"target": TARGET, "percent": ""})
    for wrong in ("0", "101", "nan", "much"):
        answer = web.post("/goals/set", {"target": TARGET, "percent": wrong})
        assert answer.status_code == 400
        assert f"not a percentage: {wrong}" in read(answer.text)
    recorded = "select source, count(*) from embedding_audit where event = 'goal_set' group by 1"
    assert rows(db, recorded) == [("web", 2)]


# -- jobs


def test_jobs_are_found_by_state_class_column_and_record(web: Web, db: Database) -> None:
    fail(db, 3, "too_long", "a text of 9000 tokens")
    db.execute("update embedding_queue set status = 'pending' where record_id = '2'")

    def found(query: str) -> list[str]:
        return re.findall(r'href="/jobs/\d+">(\w+)</a>', web.page(f"/jobs?{query}"))

    assert found("") == ["3", "2", "1"]
    assert sorted(found("status=failed")) == ["1", "3"]
    assert found("status=pending") == ["2"]
    assert found("record=3") == ["3"]
    assert sorted(
        found(urlencode({"target": TARGET, "class": "too_long", "status": "failed"}))
    ) == [
        "1",
        "3",
    ]
    assert found("status=failed&class=rejected") == []
    assert "too_long: a text of 9000 tokens" in read(web.page("/jobs?record=3"))


def test_all_pages_together_show_each_job_once(web: Web, db: Database) -> None:
    fail(db, 120)
    shown: list[str] = []
    address: str | None = "/jobs?status=failed"
    while address:
        page = web.page(address)
        shown += re.findall(r'href="/jobs/\d+">(\w+)</a>', page)
        next_page = re.search(r'href="([^"]*)" rel="next"', page)
        address = unescape(next_page[1]) if next_page else None
    assert sorted(shown, key=int) == [str(i) for i in range(1, 121)]


def test_chosen_jobs_are_requeued_or_a_whole_page(web: Web, db: Database) -> None:
    fail(db, 5)
    shown = re.findall(r'name="chosen" value="(\d+)"', web.page("/jobs?status=failed"))
    back = "/jobs?status=failed"
    said = web.press("/jobs/requeue", {"chosen": shown[:2], "back": back})
    assert "2 made pending again." in said
    assert "Failed jobs" in said
    said = web.press("/jobs/requeue", {"every": "yes", "shown": ",".join(shown)})
    assert "5 made pending again." in said
    assert value(db, "select count(*) from embedding_queue where status = 'failed'") == 0
    answer = web.post("/jobs/requeue", {"back": back})
    assert answer.status_code == 400
    assert "no job is chosen" in answer.text


def job_of(db: Database) -> int:
    """The only job, which failed: that of a text that means harm."""
    db.execute("insert into docs values (1, %s)", [HOSTILE])
    db.execute(
        "update embedding_queue set status = 'failed', error_class = %s, error_message = %s",
        [HOSTILE, HOSTILE],
    )
    id: int = value(db, "select id from embedding_queue")
    return id


def test_a_job_shows_what_is_known_and_is_requeued(web: Web, db: Database) -> None:
    fail(db, 1, "too_long", "a text of 9000 tokens")
    db.execute("update embedding_queue set attempts = 2, model = 'openai:small', tokens = 1234")
    [id] = rows(db, "select id from embedding_queue")[0]
    said = read(web.page(f"/jobs/{id}"))
    for shown in ("too_long: a text of 9000 tokens", "Attempts 2", "openai:small", "1,234"):
        assert shown in said
    assert "1 made pending again." in web.press(f"/jobs/{id}/requeue")
    assert value(db, "select status from embedding_queue") == "pending"
    assert web.get("/jobs/999999").status_code == 404
    assert web.get(f"/jobs/{10**30}").status_code == 404


def test_a_text_is_hidden_until_an_admin_reveals_it_which_is_recorded(
    web: Web, db: Database
) -> None:
    id = job_of(db)
    db.execute("update embedding_queue set error_message = 'no', error_class = 'rejected'")
    for page in (f"/jobs/{id}", "/jobs", "/failures"):
        assert "quoted" not in web.page(page)
    assert web.as_reader.post(f"/jobs/{id}/reveal").status_code == 403
    answer = web.post(f"/jobs/{id}/reveal")
    assert "quoted" in answer.text
    assert "<script>alert" not in answer.text
    assert "hx-sse:connect" not in answer.text
    assert "quoted" not in web.page(f"/jobs/{id}")
    recorded = "select source, address from embedding_audit where event = 'text_revealed'"
    assert rows(db, recorded) == [("web", "127.0.0.1")]


def test_hostile_jobs_stay_text(web: Web, db: Database) -> None:
    id = job_of(db)
    for path in (
        "/jobs",
        f"/jobs/{id}",
        "/jobs?" + urlencode({"class": HOSTILE, "record": HOSTILE}),
    ):
        page = web.page(path)
        assert "<script>alert" not in page
        assert "\u202e" not in read(page)
    deep = "target=" + "[" * 5000
    for query in ("status=gone", "after=nonsense", "after=%7B%7D", "target=5", deep):
        assert web.get(f"/jobs?{query}").status_code == 400


@pytest.mark.over_the_data_api
def test_over_the_data_api_it_shows_and_does_the_same(project: Project, owner: Database) -> None:
    owner.execute("create table docs (id bigint primary key, body text)")
    owner.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    fail(owner, 3)
    heartbeat(owner, "one:1:aa")
    settings = Settings(supabase_url=project.url, supabase_service_role_key=project.secret_key)
    with served_web(settings) as web:
        for path in PATHS:
            web.page(path)
        web.press("/failures/requeue", {"target": TARGET})
        assert "3 of 3 jobs" in web.task_ends()
        assert "told to pause" in web.press("/workers/one/pause", {"worker": "one:1:aa"})
    assert value(owner, "select count(*) from embedding_queue where status = 'pending'") == 3
