"""The screens of backups and of the audit, through a real server and with real backups."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, rows, value
from tests.integration.tables import embed_all
from tests.web import HOSTILE, Web, read, served_web
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

ROWS = 60


@pytest.fixture(scope="module")
def served(
    shared_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Web, Database]]:
    settings = Settings(database_url=shared_url, backup_to=str(tmp_path_factory.mktemp("backups")))
    with psycopg.connect(shared_url, autocommit=True) as db, served_web(settings) as web:
        db.execute("create table docs (id bigint primary key, body text)")
        db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
        db.execute("insert into docs select i, 'text ' || i from generate_series(1, %s) i", [ROWS])
        with PostgresQueue(db.info.dsn, "tests") as queue:
            embed_all(queue)
        yield web, db


@pytest.fixture
def web(served: tuple[Web, Database]) -> Web:
    return served[0]


@pytest.fixture
def db(served: tuple[Web, Database]) -> Database:
    return served[1]


def backed_up(web: Web) -> str:
    """Make a backup. Returns its name."""
    assert "has started" in web.press("/backups/make")
    assert f"{ROWS} vectors" in web.task_ends()
    [name, *_] = re.findall(r"\d{4}-\d\d-\d\dT[\d-]+Z", web.page("/backups"))
    return str(name)


# -- backups


def test_a_backup_is_made_as_a_task_and_checked_again(web: Web, db: Database) -> None:
    name = backed_up(web)
    shown = read(web.page("/backups"))
    assert re.search(rf"{name} complete \d+ s ago {ROWS} \d\.\d all never", shown)
    web.press("/backups/check", {"name": name})
    assert "as it was written" in web.task_ends()
    assert re.search(r"all sound \d+ s ago", read(web.page("/backups")))
    assert value(
        db, "select source from embedding_audit where event = 'backup_completed' limit 1"
    ) in ("api", "web")


def test_a_check_says_what_is_damaged(web: Web, db: Database) -> None:
    name = backed_up(web)
    [folder] = rows(db, "select destination from embedding_backups limit 1")
    [part, *_] = Path(folder[0], "daily", name).rglob("*.parquet")
    part.write_bytes(b"nothing")
    web.press("/backups/check", {"name": name})
    assert part.name in web.task_ends()
    assert re.search(f"damaged: [^:]*{part.name}", read(web.page("/backups")))


def test_a_check_of_what_is_no_backup_fails_with_its_cure(web: Web) -> None:
    web.press("/backups/check", {"name": "../../etc"})
    assert "is not the name of a backup" in web.task_ends("failed")


# -- the audit


def record(db: Database, table: str, count: int, figures: str = "{}") -> None:
    db.execute(
        "select record_embedding_audit('repaired', %s, 'embedding', 'sql', %s)"
        " from generate_series(1, %s)",
        [table, figures, count],
    )


def test_the_audit_says_who_did_what_and_goes_on_page_by_page(web: Web, db: Database) -> None:
    record(db, "public.audited", 120)
    path, seen = "/audit?table=public.audited", list[str]()
    while path:
        page = web.page(path)
        seen += re.findall(r'<tr id="entry-(\d+)"', page)
        links = re.findall(r'href="([^"]+)" rel="next"', page)
        path = links[0].replace("&amp;", "&") if links else ""
    expected = rows(
        db,
        "select id from embedding_audit where table_name = 'public.audited' order by id desc",
    )
    assert seen == [str(id) for (id,) in expected]
    assert "repaired public.audited. embedding postgres sql" in read(web.page("/audit"))


def test_a_filter_for_a_table_that_is_not_there_is_answered_with_a_cure(web: Web) -> None:
    answer = web.get("/audit", table="nowhere")
    assert (answer.status_code, "there is no table nowhere" in read(answer.text)) == (400, True)


# -- all of them


@pytest.mark.parametrize("path", ["/audit", "/backups"])
def test_hostile_names_stay_text(web: Web, db: Database, path: str) -> None:
    record(db, HOSTILE, 1, '{"why": "<script>alert(1)</script>"}')
    db.execute(
        sql.SQL(
            "insert into embedding_backups (destination, name, only_table, state, worker,"
            " finished_at, error_message, problem, checked_at)"
            " values ({0}, {0}, {0}, 'failed', {0}, now(), {0}, {0}, now())"
            " on conflict do nothing"
        ).format(sql.Literal(HOSTILE))
    )
    page = web.page(path)
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("action", ["make", "check"])
def test_a_reader_sees_no_button_and_presses_none(web: Web, action: str) -> None:
    assert f"/backups/{action}" not in web.as_reader.get("/backups").text
    answer = web.as_reader.post(f"/backups/{action}", headers=web.of_a_browser)
    assert answer.status_code == 403
