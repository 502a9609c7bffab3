"""Folders that are scanned while a worker runs: after hints, from time to time, on some hosts."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.conftest import Database, eventually
from tests.integration.runs import Log
from worker.errors import Unreachable
from worker.files import watching
from worker.operations import files, folder_scans
from worker.operations.folder_scans import FolderScans
from worker.queue import Folder
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

LONG = 20.0  # seconds; who waits for an event that long waits for one that does not come
NEVER = timedelta(days=1)
SETTINGS = Settings(files_host="here", files_scan_every=NEVER)


@dataclass
class Host:
    """A host that scans its folders in a thread, over `queue`; `log` has what it reports."""

    queue: PostgresQueue
    settings: Settings = SETTINGS
    log: Log = field(default_factory=Log)

    @contextmanager
    def scanning(self, queue: Any = None, **options: Any) -> Iterator[None]:
        stop = Event()
        scans = FolderScans(self.settings, self.log, **options)
        thread = Thread(target=scans.serve, args=(queue or self.queue, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(LONG)
        assert not thread.is_alive()

    def has_scanned(self, **wanted: object) -> Callable[[], bool]:
        """Whether a scan has been reported with these figures."""
        return lambda: any(
            wanted.items() <= fields.items() for fields in self.log.of("folder_scanned")
        )


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_scans, "REFRESH", 0.3)
    monkeypatch.setattr(watching, "LOOK_EVERY", 100)
    monkeypatch.setattr(watching, "TRY_AGAIN_AFTER", 0.3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "handbook"
    root.mkdir()
    return root


@pytest.fixture
def host(queue: PostgresQueue) -> Host:
    return Host(queue)


def add(host: Host, root: Path, name: str = "handbook", on: str = "here") -> Folder:
    return host.queue.add_folder(name, "directory", str(root), [], [], on)


def test_a_change_is_found_by_its_hint(host: Host, root: Path, database_url: str) -> None:
    add(host, root)
    (root / "a.md").write_text("text")
    with host.scanning():
        eventually(host.has_scanned(folder="handbook", files=1, new=1), LONG)
        (root / "b.md").write_text("text")
        eventually(host.has_scanned(files=2, new=1), LONG)


def test_a_folder_that_moves_while_it_is_watched(host: Host, root: Path) -> None:
    add(host, root)
    (root / "old").mkdir()
    for number in range(100):
        (root / "old" / f"{number}.md").write_text(str(number))
    [scanned] = files.scan_folders(host.queue, SETTINGS)
    assert scanned.result
    before = read_all(host)
    with host.scanning():
        eventually(host.has_scanned(files=100), LONG)
        (root / "old").rename(root / "new")
        eventually(host.has_scanned(renamed=100, new=0, missing=0), LONG)
    after = {file.path: file.id for file in host.queue.known_files(host.queue.folders()[0])}
    assert after == {path.replace("old", "new"): id for path, id in before.items()}
    assert not host.queue.claim_files("tests", host.queue.folders(), 1, NEVER)


def read_all(host: Host) -> dict[str, int]:
    """Read all files, as a worker would. Returns their ids."""
    host.queue.database.current.execute(
        "update embedding_files set sha256 = sha256(convert_to(regexp_replace(name, '.md', ''),"
        " 'UTF8'))"
    )
    host.queue.database.current.execute(
        "update embedding_queue set status = 'completed' where embedding_column = 'content'"
    )
    return {file.path: file.id for file in host.queue.known_files(host.queue.folders()[0])}


def test_folders_come_and_go_while_it_runs(host: Host, root: Path, database_url: str) -> None:
    with host.scanning(), PostgresQueue(database_url, "somebody") as somebody:
        somebody.add_folder("late", "directory", str(root), [], [], "here")
        eventually(host.has_scanned(folder="late"), LONG)
        somebody.add_folder("elsewhere", "directory", str(root), [], [], "there")
        somebody.remove_folder("late")
        somebody.add_folder("again", "directory", str(root), ["*.md"], [], "here")
        eventually(host.has_scanned(folder="again", files=0), LONG)
        (root / "a.txt").write_text("text")
        somebody.add_folder("again", "directory", str(root), [], [], "here")  # other patterns
        eventually(host.has_scanned(folder="again", files=1), LONG)
    assert not host.has_scanned(folder="elsewhere")()


def test_without_watchfiles_it_is_found_from_time_to_time(
    host: Host, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    host.settings = replace(SETTINGS, files_scan_every=timedelta(seconds=0.2))
    add(host, root)
    with host.scanning():
        eventually(host.has_scanned(files=0), LONG)
        (root / "a.md").write_text("text")
        eventually(host.has_scanned(files=1, new=1), LONG)


def test_a_watch_that_fails_is_tried_again(
    host: Host, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import watchfiles

    watch, failures = watchfiles.watch, iter(["no watches are left", "none"])

    def failing(*paths: Any, **options: Any) -> Any:
        if cause := next(failures, None):
            raise OSError(cause)
        return watch(*paths, **options)

    monkeypatch.setattr(watchfiles, "watch", failing)
    add(host, root)
    with host.scanning():
        eventually(lambda: next(failures, None) is None, LONG)
        eventually(host.has_scanned(files=0), LONG)
        (root / "a.md").write_text("text")
        eventually(host.has_scanned(files=1, new=1), LONG)


def test_a_folder_that_vanishes_is_reported_once_and_comes_back(host: Host, root: Path) -> None:
    host.settings = replace(SETTINGS, files_scan_every=timedelta(seconds=0.1))
    add(host, root)
    (root / "a.md").write_text("text")
    with host.scanning():
        eventually(host.has_scanned(files=1), LONG)
        shutil.rmtree(root)
        eventually(lambda: host.log.of("folder_problem"), LONG)
        Event().wait(0.5)  # some scans more
        assert len(host.log.of("folder_problem")) == 1
        [problem] = host.log.of("folder_problem")
        assert problem == {
            "folder": "handbook",
            "cause": "it cannot be read: No such file or directory",
            "hint": "Check that it is there and mounted, and that this user may read it.",
        }
        root.mkdir()
        (root / "b.md").write_text("text")
        eventually(host.has_scanned(files=1, new=1, missing=1), LONG)
    [folder] = host.queue.folders()
    assert folder.problem is None


def test_one_wrong_folder_does_not_hold_up_the_others(host: Host, root: Path) -> None:
    host.queue.add_folder("first", "storage", "bucket", [], [], None)
    add(host, root, "second")
    with host.scanning():
        eventually(host.has_scanned(folder="second"), LONG)
        eventually(lambda: host.log.of("folder_problem"), LONG)
    [problem] = host.log.of("folder_problem")
    assert problem["folder"] == "first"
    assert "S3_ENDPOINT" in str(problem["cause"])


def test_an_outage_of_the_database_is_survived(host: Host, root: Path, db: Database) -> None:
    class Failing:
        """A queue whose first calls find no database."""

        def __init__(self, queue: PostgresQueue) -> None:
            self.queue = queue
            self.failures = {"folders": 2, "start_scan": 1, "known_files": 1, "finish_scan": 1}

        def __getattr__(self, name: str) -> Any:
            if self.failures.get(name):
                self.failures[name] -= 1
                raise Unreachable("gone")
            return getattr(self.queue, name)

    add(host, root)
    (root / "a.md").write_text("text")
    failing = Failing(host.queue)
    with host.scanning(failing):
        eventually(lambda: host.has_scanned(files=1)() or run_out(db), LONG)
    assert not any(failing.failures.values())
    assert host.log.of("folder_problem") == []


def run_out(db: Database) -> bool:
    """Let the lease of a scan that an outage ended run out. False: go on waiting."""
    db.execute(
        "update embedding_folders set scan_lease_expires_at = now() where scan_lease is not null"
    )
    return False


def test_nothing_is_scanned_while_it_is_paused(host: Host, root: Path) -> None:
    answers = [True] * 5  # it asks again after a pause
    add(host, root)
    with host.scanning(is_paused=lambda: bool(answers) and answers.pop()):
        Event().wait(0.5)
        assert host.log.events == []
        assert answers
        eventually(host.has_scanned(folder="handbook"), LONG)


def test_two_hosts_with_one_mount_scan_in_turns(host: Host, root: Path, database_url: str) -> None:
    for name in ("here", "there"):
        add(host, root, on=name)
    for number in range(20):
        (root / f"{number}.md").write_text("text")
    with PostgresQueue(database_url, "there") as other:
        there = Host(other, replace(SETTINGS, files_host="there"))
        with host.scanning(), there.scanning():
            eventually(host.has_scanned(files=20), LONG)
            eventually(there.has_scanned(files=20), LONG)
    reported = host.log.of("folder_scanned") + there.log.of("folder_scanned")
    assert sorted(fields["new"] for fields in reported) == [0, 20]


def test_a_folder_of_another_host_is_not_scanned_here(host: Host, root: Path) -> None:
    add(host, root, on="there")
    assert list(files.scan_folders(host.queue, SETTINGS)) == []
    assert files.host_of(Settings()) == socket.gethostname()


def test_paths_can_be_kept_out_of_the_log(host: Host) -> None:
    assert folder_scans.shown_path("a/b.md", SETTINGS) == "a/b.md"
    hidden = replace(SETTINGS, files_log_paths=False)
    assert folder_scans.shown_path("a/b.md", hidden) == "(hidden)"
