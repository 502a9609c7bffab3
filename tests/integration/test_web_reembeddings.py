"""The screens of re-embeddings, through a real server, with a stand-in for the models."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.openai_server import OpenAIServer
from tests.supabase_project import Project
from tests.web import HOSTILE, Web, read, served_web
from worker.operations.processing import process
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

OLD, NEW = "openai:text-embedding-3-small", "openai:text-embedding-3-large"
ASKED = {"column": "docs.embedding", "model": NEW, "dimensions": "12", "store": "column"}
STATE = "select state from embedding_reembeddings order by id desc limit 1"


@pytest.fixture(scope="module")
def served(shared_url: str) -> Iterator[tuple[Web, Database]]:
    with OpenAIServer() as openai:
        settings = Settings(
            database_url=shared_url,
            openai_api_key=openai.api_key,
            openai_base_url=openai.base_url,
            embedding_model=OLD,
        )
        with psycopg.connect(shared_url, autocommit=True) as db, served_web(settings) as web:
            db.execute("create table docs (id bigint primary key, body text)")
            db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 8)")
            db.execute("insert into docs select i, 'text ' || i from generate_series(1, 20) i")
            with PostgresQueue(db.info.dsn, "tests") as queue:
                process(queue, settings)
            yield web, db


@pytest.fixture
def web(served: tuple[Web, Database]) -> Web:
    return served[0]


@pytest.fixture
def db(served: tuple[Web, Database]) -> Iterator[Database]:
    """The database; a re-embedding that is open is cancelled after the test."""
    yield served[1]
    if value(served[1], STATE) == "swapped":
        served[1].execute("select rollback_reembedding('docs', 'embedding')")
    if value(served[1], "select count(*) from embedding_reembeddings where ended_at is null"):
        served[1].execute("select cancel_reembedding('docs', 'embedding')")


@pytest.fixture
def other(served: tuple[Web, Database]) -> Iterator[Database]:
    with psycopg.connect(served[1].info.dsn, autocommit=True) as connection:
        yield connection


def begin(db: Database) -> None:
    """Begin a re-embedding whose stages nobody runs."""
    db.execute("select start_reembedding('docs', 'embedding', %s, 16)", [NEW])


def page_of_latest(db: Database) -> str:
    return f"/reembeddings/{value(db, 'select max(id) from embedding_reembeddings')}"


def test_a_column_is_re_embedded_swapped_rolled_back_and_cleaned_up(web: Web, db: Database) -> None:
    found = read(web.get("/reembeddings/new", **ASKED).text)
    assert "Estimate 20 texts" in found
    assert "the new vectors go into a column of the table" in found
    assert value(db, "select count(*) from embedding_reembeddings") == 0

    web.press("/reembeddings/start", ASKED)
    assert "ready" in web.task_ends(within=60)
    page = page_of_latest(db)
    shown = read(web.page(page))
    assert "20 of 20 (100 %)" in shown
    assert re.search("Verification vectors: ok|Verification [a-z_]+: (ok|note)", shown)

    web.press(f"{page}/swap")
    assert "swapped" in web.task_ends()
    db.execute(
        "create or replace function near() returns void language plpgsql as"
        " $$ begin perform embedding from docs; end $$"
    )
    db.execute("update docs set body = 'edited' where id = 1")
    shown = read(web.page(page))
    assert "edits are embedded by both models" in shown
    assert "Old vectors that are not those of the texts: 1 pending, 0 failed." in shown
    assert "warning : function public.near(): its text has the names" in shown
    web.press(f"{page}/roll_back")
    assert "ready" in web.task_ends()
    web.press(f"{page}/swap")
    web.task_ends()
    web.press(f"{page}/finish", {"rename": "yes"})
    assert "finished" in web.task_ends()
    assert "Clean up" not in read(web.page(page))
    names = rows(
        db,
        "select attname from pg_attribute where attrelid = 'docs'::regclass and attnum > 0"
        " and not attisdropped order by 1",
    )
    assert [name for (name,) in names] == ["body", "embedding", "id"]
    steps = rows(
        db,
        "select event from embedding_audit where reembedding_id = %s order by id",
        int(page.rpartition("/")[2]),
    )
    assert [event for (event,) in steps][-4:] == ["rolled_back", "swapped", "finished", "renamed"]


def test_it_is_paused_gone_on_with_and_cancelled(web: Web, db: Database) -> None:
    begin(db)
    page = page_of_latest(db)
    assert "Paused" in web.press(f"{page}/pause")
    assert "Pause" not in re.findall(r"<summary[^>]*>([^<]+)<", web.page(page))
    web.press(f"{page}/run")
    assert "ready" in web.task_ends(within=60)
    web.press(f"{page}/cancel")
    assert "cancelled" in web.task_ends()
    assert value(db, STATE) == "cancelled"


def test_a_step_that_its_state_does_not_allow_is_refused(web: Web, db: Database) -> None:
    begin(db)
    answer = web.post(f"{page_of_latest(db)}/finish")
    assert answer.status_code == 400
    assert "is filling by now" in read(answer.text)
    assert web.post("/reembeddings/999/cancel").status_code == 404
    assert web.get("/reembeddings/999").status_code == 404


def test_the_preflight_says_what_speaks_against_it(web: Web) -> None:
    for given, said in (
        ({"column": "public.nowhere.embedding"}, "is not watched"),
        ({"dimensions": "99999"}, "`dimensions` cannot be 99999"),
        ({"model": "nobody:x"}, "nobody"),
    ):
        answer = web.get("/reembeddings/new", **(ASKED | given))
        assert answer.status_code == 200
        assert said in read(answer.text)
        assert "Start now" not in read(answer.text)


def test_a_step_that_waits_for_a_lock_can_be_cancelled(
    web: Web, db: Database, other: Database
) -> None:
    begin(db)
    with other.transaction():
        other.execute("lock table docs in access share mode")
        web.press(f"{page_of_latest(db)}/cancel")
        page = web.page("/")
        [task] = re.findall(r'<li id="task-(\d+)">Cancellation[^:]*: running', page)
        web.press("/tasks/cancel", {"id": task})
        web.task_ends("cancelled")
    assert value(db, STATE) == "filling"


def test_hostile_words_stay_text(web: Web, db: Database) -> None:
    begin(db)
    db.execute("update embedding_reembeddings set problem = %s, old_model = %s", [HOSTILE] * 2)
    for path in ("/reembeddings", page_of_latest(db)):
        page = web.page(path)
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "&lt;script&gt;" in page
    asked = web.get("/reembeddings/new", **(ASKED | {"model": HOSTILE}))
    assert "<script>alert" not in asked.text


def test_a_reader_sees_no_button_and_presses_none(web: Web, db: Database) -> None:
    begin(db)
    page = page_of_latest(db)
    for path in ("/reembeddings", page):
        assert "/reembeddings/" not in "".join(
            re.findall(r'action="([^"]+)"', web.as_reader.get(path).text)
        )
    assert web.as_reader.get("/reembeddings/new", params=ASKED).status_code == 403
    for path in ("/reembeddings/start", f"{page}/cancel", f"{page}/swap_unverified"):
        assert web.as_reader.post(path, data=ASKED, headers=web.of_a_browser).status_code == 403
    assert value(db, STATE) == "filling"


@pytest.mark.only_in_full
@pytest.mark.over_the_data_api
def test_over_the_data_api_it_is_only_shown_with_the_cure(
    project: Project, owner: Database
) -> None:
    owner.execute("create table docs (id bigint primary key, body text)")
    owner.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 8)")
    begin(owner)
    settings = Settings(supabase_url=project.url, supabase_service_role_key=project.secret_key)
    with served_web(settings) as web:
        page = page_of_latest(owner)
        for path in ("/reembeddings", "/reembeddings/new", page):
            shown = web.page(path)
            assert "this needs a connection to the database" in read(shown)
            assert "Set DATABASE_URL" in read(shown)
            assert 'action="/reembeddings' not in shown
        for path in (f"{page}/cancel", f"{page}/pause", "/reembeddings/start"):
            answer = web.post(path, ASKED)
            assert (answer.status_code, "Set DATABASE_URL" in read(answer.text)) == (400, True)
    assert value(owner, STATE) == "filling"


@pytest.mark.over_the_data_api
def test_over_the_data_api_the_other_screens_do_the_same(project: Project, owner: Database) -> None:
    owner.execute("select add_embedding_folder('notes', 'directory', '/x', '{}', '{}', 'h')")
    owner.execute(
        "select watch_embeddings('embedding_files', 'content', 'embedding', dimensions => 3,"
        " chunks => true)"
    )
    owner.execute(
        "insert into embedding_files (folder_id, path, size, stamp, version)"
        " select id, 'file ' || n, 1, 's', 's' from embedding_folders, generate_series(1, 60) n"
    )
    owner.execute("update embedding_queue set status = 'failed', error_message = 'why'")
    settings = Settings(supabase_url=project.url, supabase_service_role_key=project.secret_key)
    with served_web(settings) as web:
        assert "file 60" in web.page("/files?state=unread&folder=notes")
        assert "1 " in web.press("/files/retry", {"id": "60"})
        document = "table=embedding_files&column=embedding"
        assert 'id="document-' in web.page(f"/documents?{document}")
        assert "not embedded yet" in web.page(f"/documents/passages?{document}&record=1")
        assert "requeued" in web.page("/audit")
        for path in ("/backups", "/search"):
            web.page(path)
