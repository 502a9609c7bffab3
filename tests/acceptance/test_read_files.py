"""Files from the disk to a search: what `worker run` and `worker process` do with folders."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import pytest

from tests.acceptance.conftest import Start
from tests.conftest import Database, Worker, rest_in_full, rows
from tests.nasty_files import pdf

ENVIRONMENT = {
    "FILES_HOST": "here",
    "EMBEDDING_LEASE_SECONDS": "2",
    # the local model does not step back for the other tests
    "WORKER_MAX_LOAD": "1000",
    "WORKER_MAX_CPU_PRESSURE": "100",
}
PAGES = ("About pumps.", "Open the valve before you start the pump.", "Who to call.")


@pytest.fixture
def library(tmp_path: Path, worker: Worker, db: Database) -> Path:
    """A folder with a PDF, a text and a file that cannot be read."""
    root = tmp_path / "library"
    root.mkdir()
    (root / "pumps.pdf").write_bytes(pdf(*PAGES, title="Pumps"))
    (root / "garage.txt").write_text("The garage opens at seven.")
    (root / "broken.pdf").write_bytes(pdf(*PAGES)[:200])
    assert worker("files", "add", str(root), **ENVIRONMENT).returncode == 0
    return root


def states(db: Database) -> dict[str, tuple[str, str | None]]:
    found = rows(db, "select path, state, error_class from embedding_file_states")
    return {path: (state, error_class) for path, state, error_class in found}


def are_searchable(db: Database, most: int) -> bool:
    return sum(state == "searchable" for state, _ in states(db).values()) >= most


def eventually(holds: Callable[[], bool], seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.only_in_full
def test_a_search_names_the_page(library: Path, worker: Worker, db: Database) -> None:
    worker("files", "scan", **ENVIRONMENT)
    done = worker("process", **ENVIRONMENT)
    assert "2 files read, 1 cannot be read" in done.stderr
    assert "broken.pdf cannot be read: damaged" in done.stderr
    found = worker("search", "which valve", "--file", "*.pdf", "--json")
    [match] = json.loads(found.stdout)
    assert (match["path"], match["page"]) == ("pumps.pdf", 1)
    assert "Open the valve" in match["content"]
    assert states(db) == {
        "pumps.pdf": ("searchable", None),
        "garage.txt": ("searchable", None),
        "broken.pdf": ("unread", "damaged"),
    }


def test_reprocess_reads_the_files_again_whose_path_matches(
    library: Path, worker: Worker, db: Database
) -> None:
    worker("files", "scan", **ENVIRONMENT)
    worker("process", **ENVIRONMENT)
    assert worker("reprocess", "*pumps*", "--yes").returncode == 0
    done = worker("process", **ENVIRONMENT)
    assert "1 files read, 0 cannot be read" in done.stderr
    assert states(db)["pumps.pdf"] == ("searchable", None)


@pytest.mark.parametrize(
    "trouble",
    rest_in_full(["perform pg_terminate_backend(pg_backend_pid())", "raise sqlstate '53100'"]),
    ids=["a lost connection", "a full disk"],
)
def test_trouble_of_the_database_costs_a_pause_and_no_file(
    library: Path, worker: Worker, db: Database, trouble: LiteralString
) -> None:
    worker("files", "scan", **ENVIRONMENT)
    db.execute(
        "create sequence writes; create function cut() returns trigger language plpgsql as $$ begin"
        f" if nextval('public.writes') = 1 then {trouble}; end if;"
        " return new; end $$;"
        " create trigger cut before update of content on embedding_files"
        " for each row execute function cut()"
    )
    done = worker("process", **ENVIRONMENT | {"EMBEDDING_LEASE_SECONDS": "300"})
    assert done.returncode == 0
    assert "waiting for the database" in done.stderr
    assert states(db)["pumps.pdf"] == states(db)["garage.txt"] == ("searchable", None)


def events(log: str, name: str) -> list[dict[str, Any]]:
    """The events of a name in a log."""
    every = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [event for event in every if event["event"] == name]


def test_a_service_follows_a_folder_and_is_killed_without_a_loss(
    library: Path, start: Start, worker: Worker, db: Database
) -> None:
    environment = ENVIRONMENT | {"WORKER_LOG_FORMAT": "json", "FILES_LOG_PATHS": "false"}
    for number in range(60):
        (library / f"{number}.md").write_text(f"# Number {number}\n\nThe text of {number}.")
    for kill_at in (2, 20, 45):
        first = start("run", **environment)
        eventually(partial(are_searchable, db, kill_at))
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    last = start("run", **environment)
    eventually(lambda: set(states(db).values()) == {("searchable", None), ("unread", "damaged")})
    (library / "garage.txt").rename(library / "parking.txt")
    (library / "0.md").write_text("# Zero\n\nAnother text.")
    eventually(lambda: states(db).get("parking.txt") == ("searchable", None))
    eventually(lambda: "Another" in worker("search", "another text", "--file", "0.md").stdout)
    last.send_signal(signal.SIGTERM)
    _, log = last.communicate(20)
    assert last.returncode == 0
    assert sum(event["renamed"] for event in events(log, "folder_scanned")) == 1
    assert "garage" not in log
    assert "parking" not in log
    found = rows(db, "select path from embedding_files group by path having count(*) > 1")
    assert found == []
