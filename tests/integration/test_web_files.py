"""The screen of folders and files, through a real server, with real files."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Database, rows, value
from tests.integration.chunks import embed as embed_chunks
from tests.integration.files import Handbook, add_folder
from tests.web import HOSTILE, Web, served_web
from worker.queue import FileState
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

FILES = 130


@pytest.fixture(scope="module")
def served(
    shared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Web, Database, PostgresQueue]]:
    root = tmp_path_factory.mktemp("handbook")
    settings = Settings(database_url=shared_url)
    with (
        psycopg.connect(shared_url, autocommit=True) as db,
        PostgresQueue(shared_url, "tests") as queue,
        served_web(settings) as web,
    ):
        add_folder(db, "handbook", root)
        add_folder(db, HOSTILE, tmp_path_factory.mktemp("other"))
        db.execute(
            "select watch_embeddings('embedding_files', 'content', 'embedding', dimensions => 3,"
            " chunks => true)"
        )
        [folder] = [each for each in queue.folders() if each.name == "handbook"]
        handbook = Handbook(queue, queue, folder, root)
        for number in range(FILES):
            handbook.write(f"{number}.md")
        handbook.write("<script>alert(1)</script> \u202e💥.md")
        handbook.scanned()
        handbook.read()
        embed_chunks(db)
        yield web, db, queue


@pytest.fixture
def web(served: tuple[Web, Database, PostgresQueue]) -> Web:
    return served[0]


@pytest.fixture
def db(served: tuple[Web, Database, PostgresQueue]) -> Database:
    return served[1]


@pytest.fixture
def queue(served: tuple[Web, Database, PostgresQueue]) -> PostgresQueue:
    return served[2]


def fail(db: Database, column: str, *paths: str) -> None:
    """Let the jobs of files fail that read them (`content`), or embed their texts."""
    db.execute(
        "update embedding_queue set status = 'failed', error_class = 'unreadable',"
        " error_message = %s from embedding_files as file where record_id = file.id::text"
        " and embedding_column = %s and path = any (%s)",
        [HOSTILE, column, list(paths)],
    )


def pages(web: Web, path: str) -> list[str]:
    """The names of the files on all pages of a list."""
    seen: list[str] = []
    while path:
        page = web.page(path)
        seen += re.findall(r'<tr id="file-\d+">.*?>handbook/([^<]+)</a>', page, re.DOTALL)
        links = re.findall(r'href="([^"]+)" rel="next"', page)
        path = links[0].replace("&amp;", "&") if links else ""
    return seen


def test_all_files_are_shown_page_by_page_the_latest_first(web: Web, db: Database) -> None:
    paths = [path for (path,) in rows(db, "select path from embedding_files order by id desc")]
    assert len(pages(web, "/files")) == len(paths)
    assert pages(web, "/files?folder=handbook") == pages(web, "/files")
    assert [path for path in pages(web, "/files") if path.endswith(".md")][1:] == paths[1:]


def test_files_are_filtered_by_state_and_say_what_failed(web: Web, db: Database) -> None:
    fail(db, "content", "7.md")
    fail(db, "embedding", "3.md", "5.md")
    assert pages(web, "/files?state=unread") == ["7.md"]
    assert sorted(pages(web, "/files?state=failed")) == ["3.md", "5.md"]
    assert "unreadable: &lt;script&gt;" in web.page("/files?state=unread")
    assert pages(web, "/files?state=missing") == []
    assert web.get("/files", state="lost").status_code == 400


def test_a_page_of_any_state_has_the_files_of_that_state(
    queue: PostgresQueue, db: Database
) -> None:
    fail(db, "content", "7.md", "9.md")
    db.execute("update embedding_files set missing_since = now() where path = '11.md'")
    db.execute(
        "select requeue_embeddings(null, only_record => id::text) from embedding_files"
        " where path in ('13.md', '15.md')"
    )
    states: list[FileState] = [
        "found",
        "parsing",
        "unread",
        "waiting",
        "searchable",
        "failed",
        "missing",
    ]
    by_state = {state: {file.path for file in queue.files(states=[state])} for state in states}
    assert sum(map(bool, by_state.values())) >= 4
    for state in states:
        seen: set[str] = set()
        before: int | None = None
        while True:
            page = queue.page_files(None, state, before, 7)
            assert {file.state for file in page.files} <= {state}
            seen |= {file.path for file in page.files}
            before = page.next
            if before is None:
                break
        assert seen == by_state[state]
    db.execute("update embedding_files set missing_since = null")


def test_one_file_is_retried_or_all_that_failed(web: Web, db: Database) -> None:
    fail(db, "content", "1.md", "2.md")
    fail(db, "embedding", "3.md")
    id = value(db, "select id from embedding_files where path = '1.md'")
    web.press("/files/retry", {"id": str(id), "back": "/files?state=unread"})
    status = "select status from embedding_queue where record_id = %s and embedding_column = %s"
    assert value(db, status, str(id), "content") == "pending"
    assert "2.md" in pages(web, "/files?state=unread")
    web.press("/files/retry_all")
    assert "pending again" in web.task_ends()
    assert value(db, "select count(*) from embedding_queue where status = 'failed'") == 0


def test_hostile_names_stay_text(web: Web, db: Database) -> None:
    fail(db, "content", "7.md")
    page = web.page("/files")
    assert "<script>alert" not in page
    assert "\u202e" not in re.sub(r"value=\"[^\"]*\"", "", page)
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("action", ["retry", "retry_all"])
def test_a_reader_sees_no_button_and_presses_none(web: Web, db: Database, action: str) -> None:
    fail(db, "content", "7.md")
    assert f'action="/files/{action}"' in web.page("/files")
    assert f"/files/{action}" not in web.as_reader.get("/files").text
    answer = web.as_reader.post(f"/files/{action}", headers=web.of_a_browser)
    assert answer.status_code == 403
