"""Files that are read: each job of a file ends, and no text is that of other bytes."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.conftest import Database
from worker.errors import ParseFailure
from worker.files.directory import Directory
from worker.files.parsing.results import ParsedFile
from worker.files.patterns import Patterns
from worker.files.reading import FileReader, ReadStats
from worker.files.scan import ScanOptions, scan
from worker.queue import Scope
from worker.queue.postgres import PostgresQueue

LEASE = timedelta(minutes=1)


class Shelf:
    """A folder with its files, and how they are parsed: as texts, unless a test says otherwise."""

    def __init__(self, queue: PostgresQueue, root: Path) -> None:
        self.queue = queue
        self.root = root
        self.folder = queue.add_folder("shelf", "directory", str(root), [], [], "here")
        self.source = Directory(root, Patterns([], []))
        self.parse: Callable[[Path, str], ParsedFile] = as_text
        self.stop = Event()

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def scan(self) -> None:
        assert scan(self.queue, self.folder, self.source, ScanOptions(LEASE, 1000), Event())

    def read(self, worker: str = "w", lease: timedelta = LEASE) -> ReadStats:
        scope = Scope(worker=worker, lease=lease, default_model="local:x")
        reader = FileReader(
            self.queue, scope, {self.folder.id: self.source}, self.parse, 1000, 2, self.stop
        )
        return reader.read_due([self.folder])

    @property
    def states(self) -> dict[str, tuple[str, str | None]]:
        return {file.path: (file.state, file.error_class) for file in self.queue.files()}


def as_text(path: Path, name: str) -> ParsedFile:
    return ParsedFile(content=path.read_text(), mime="text/plain", title=name)


@pytest.fixture
def shelf(queue: PostgresQueue, db: Database, tmp_path: Path) -> Shelf:
    shelf = Shelf(queue, tmp_path)
    db.execute(
        "select watch_embeddings('embedding_files', 'content', 'embedding', dimensions => 3,"
        " chunks => true)"
    )
    return shelf


def contents(db: Database) -> dict[str, str | None]:
    return dict(db.execute("select path, content from embedding_files").fetchall())


def test_all_files_are_read_and_then_none_is_due(shelf: Shelf, db: Database) -> None:
    for number in range(5):
        shelf.write(f"{number}.txt", f"text {number}")
    shelf.scan()
    assert shelf.read().read == 5
    assert contents(db) == {f"{number}.txt": f"text {number}" for number in range(5)}
    stats = shelf.read()
    assert (stats.read, stats.failed) == (0, 0)


def test_a_file_that_cannot_be_read_says_why_and_holds_up_no_other(shelf: Shelf) -> None:
    def parse(path: Path, name: str) -> ParsedFile:
        if name == "bad.pdf":
            raise ParseFailure("it needs a password", "Save a copy.", error_class="encrypted")
        return as_text(path, name)

    shelf.parse = parse
    shelf.write("bad.pdf", "x")
    shelf.write("good.txt", "x")
    shelf.scan()
    stats = shelf.read()
    assert (stats.read, stats.failed) == (1, 1)
    assert shelf.states == {"bad.pdf": ("unread", "encrypted"), "good.txt": ("waiting", None)}
    [bad] = shelf.queue.files("bad")
    assert bad.error_message == "it needs a password: Save a copy."


def test_a_file_that_is_mended_is_read(shelf: Shelf, db: Database) -> None:
    def parse(path: Path, name: str) -> ParsedFile:
        if path.read_text() == "broken":
            raise ParseFailure("it is damaged", "Save it again.", error_class="damaged")
        return as_text(path, name)

    shelf.parse = parse
    shelf.write("a.txt", "broken")
    shelf.scan()
    shelf.read()
    shelf.write("a.txt", "mended")
    shelf.scan()
    assert shelf.read().read == 1
    assert contents(db) == {"a.txt": "mended"}


def test_a_file_that_changes_while_it_is_read_is_left_to_the_next_scan(
    shelf: Shelf, db: Database
) -> None:
    def parse(path: Path, name: str) -> ParsedFile:
        parsed = as_text(path, name)
        if parsed.content == "old":
            path.write_text("new text")
        return parsed

    shelf.parse = parse
    shelf.write("a.txt", "old")
    shelf.scan()
    assert shelf.read().read == 0
    assert contents(db) == {"a.txt": None}
    shelf.scan()
    assert shelf.read().read == 1
    assert contents(db) == {"a.txt": "new text"}


def test_a_file_that_is_gone_costs_nothing_and_fails_nothing(shelf: Shelf) -> None:
    shelf.write("a.txt", "x")
    shelf.scan()
    (shelf.root / "a.txt").unlink()
    stats = shelf.read()
    assert (stats.read, stats.failed) == (0, 0)
    assert shelf.states == {"a.txt": ("found", None)}


def test_a_file_that_may_not_be_read_is_tried_again_later(shelf: Shelf) -> None:
    def parse(path: Path, name: str) -> ParsedFile:
        raise PermissionError(errno.EACCES, "Permission denied")

    shelf.write("a.txt", "x")
    shelf.scan()
    shelf.parse, usual = parse, shelf.parse
    shelf.read()
    assert shelf.states == {"a.txt": ("found", "unreadable")}
    shelf.parse = usual
    shelf.queue.requeue(status="pending")
    assert shelf.read().read == 1


def test_a_file_that_is_too_large_is_not_fetched(shelf: Shelf) -> None:
    def parse(path: Path, name: str) -> ParsedFile:
        raise AssertionError

    shelf.parse = parse
    shelf.write("a.txt", "x" * 1001)
    shelf.scan()
    shelf.read()
    assert shelf.states == {"a.txt": ("unread", "too_large")}


def test_a_slow_parser_keeps_its_lease(shelf: Shelf, db: Database) -> None:
    def parse(path: Path, name: str) -> ParsedFile:
        time.sleep(3)
        return as_text(path, name)

    shelf.parse = parse
    shelf.write("a.txt", "x")
    shelf.scan()
    assert shelf.read(lease=timedelta(seconds=2)).read == 1


def test_a_stop_releases_what_is_in_flight(shelf: Shelf, db: Database) -> None:
    began, may_end = Event(), Event()

    def parse(path: Path, name: str) -> ParsedFile:
        began.set()
        may_end.wait(30)
        return as_text(path, name)

    shelf.parse = parse
    for name in "abc":
        shelf.write(name, name)
    shelf.scan()
    reading = Thread(target=shelf.read)
    reading.start()
    assert began.wait(10)
    shelf.stop.set()
    reading.join(10)
    assert not reading.is_alive()
    may_end.set()
    assert db.execute(
        "select count(*) from embedding_queue where status = 'processing'"
    ).fetchone() == (0,)
    shelf.stop = Event()
    assert shelf.read().read == 3


def test_a_text_that_the_database_refuses_fails_in_the_end(shelf: Shelf, db: Database) -> None:
    db.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin if new.content = 'no' then raise 'not this one'; end if; return new; end $$;"
        " create trigger refuse before update on embedding_files"
        " for each row execute function refuse()"
    )
    shelf.write("a", "no")
    shelf.write("b", "yes")
    shelf.scan()
    for _ in range(12):
        shelf.read()
        db.execute("update embedding_queue set available_at = now() where status = 'pending'")
    assert shelf.states["b"][0] == "waiting"
    state, error_class = shelf.states["a"]
    assert (state, error_class) == ("unread", "unwritten")


def test_two_hosts_share_the_work(shelf: Shelf, connect: Callable[[], Database]) -> None:
    for number in range(20):
        shelf.write(f"{number}", f"{number}")
    shelf.scan()
    first = shelf.queue.claim_files("one", [shelf.folder], 7, LEASE).jobs
    assert len(first) == 7
    assert shelf.read("two").read == 13
    shelf.queue.release(first)
    assert shelf.read("two").read == 7
