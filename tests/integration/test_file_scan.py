"""Scans of a directory: what they record of it, and what they leave alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from tests.conftest import REPOSITORY, Database, Server, rows, value
from tests.integration.chunks import embed as embed_chunks
from tests.integration.files import Handbook, add_folder
from tests.integration.tables import acting_as, create_role, refusal
from tests.path_patterns import FITS
from worker.errors import SettingsError
from worker.files.directory import Directory
from worker.files.patterns import Patterns, path_regex
from worker.files.sources import FolderUnavailable, SeenFile, SkippedFile
from worker.queue.postgres import PostgresQueue


@pytest.fixture
def reader(server: Server, database: str) -> Iterator[PostgresQueue]:
    """The queue of a worker that reads files, over a connection."""
    with PostgresQueue(server.direct_url_of(database), "reader") as reader:
        yield reader


@pytest.fixture
def handbook(queue: PostgresQueue, reader: PostgresQueue, db: Database, tmp_path: Path) -> Handbook:
    root = tmp_path / "handbook"
    root.mkdir()
    add_folder(db, "handbook", root)
    db.execute(
        "select watch_embeddings('embedding_files', 'content', 'embedding', dimensions => 3,"
        " chunks => true, context => 'title')"
    )
    [folder] = queue.folders()
    return Handbook(queue, reader, folder, root)


def touch(file: Path, seconds: int = 10) -> None:
    """Give a file another time of change."""
    changed = file.stat().st_mtime_ns + seconds * 10**9
    os.utime(file, ns=(changed, changed))


def jobs(db: Database) -> int:
    return int(value(db, "select count(*) from embedding_queue where status = 'pending'"))


@pytest.mark.contract
def test_files_are_found_by_their_names_at_once(handbook: Handbook) -> None:
    handbook.write("hr/Notice-Period_2024.md")
    handbook.write("it/vpn.md")
    result = handbook.scanned()
    assert (result.files, result.new, result.problem) == (2, 2, None)
    [found] = handbook.queue.files("notice 2024")
    assert (found.path, found.state) == ("hr/Notice-Period_2024.md", "found")
    assert found.modified_at
    [folder] = handbook.queue.folders()
    assert (folder.files, folder.problem, folder.skipped) == (2, None, {})


def test_a_scan_without_changes_records_nothing(handbook: Handbook, db: Database) -> None:
    handbook.write("a.md")
    handbook.scanned()
    before = rows(db, "select xmin::text, * from embedding_files")
    result = handbook.scanned()
    assert (result.new, result.changed, result.touched, result.missing) == (0, 0, 0, 0)
    assert rows(db, "select xmin::text, * from embedding_files") == before


def test_a_moved_folder_costs_nothing(handbook: Handbook, db: Database) -> None:
    for number in range(100):
        handbook.write(f"old/{number}.md")
    handbook.scanned()
    handbook.read()
    before, waiting = handbook.ids, jobs(db)
    (handbook.root / "old").rename(handbook.root / "new")
    result = handbook.scanned()
    assert (result.renamed, result.new, result.missing) == (100, 0, 0)
    assert handbook.ids == {path.replace("old", "new"): id for path, id in before.items()}
    assert (handbook.read(), jobs(db)) == ([], waiting)


def test_a_renamed_file_of_other_bytes_is_a_new_one(handbook: Handbook) -> None:
    handbook.write("a.md", "one")
    handbook.scanned()
    handbook.read()
    (handbook.root / "a.md").unlink()
    handbook.write("b.md", "two")
    result = handbook.scanned()
    assert (result.renamed, result.new, result.missing) == (0, 1, 1)
    assert handbook.read() == ["b.md"]


def test_a_rename_by_case_only(handbook: Handbook) -> None:
    handbook.write("Report.md")
    handbook.scanned()
    handbook.read()
    before = handbook.ids["Report.md"]
    (handbook.root / "Report.md").rename(handbook.root / "report.md")
    assert handbook.scanned().renamed == 1
    assert handbook.ids == {"report.md": before}


def test_files_that_exchange_their_names_are_read_again(handbook: Handbook) -> None:
    handbook.write("a.md", "one")
    handbook.write("b.md", "two")
    handbook.scanned()
    handbook.read()
    (handbook.root / "a.md").rename(handbook.root / "c")
    (handbook.root / "b.md").rename(handbook.root / "a.md")
    (handbook.root / "c").rename(handbook.root / "b.md")
    touch(handbook.root / "a.md")
    touch(handbook.root / "b.md")
    assert handbook.scanned().changed == 2
    assert sorted(handbook.read()) == ["a.md", "b.md"]


def test_a_touched_file_costs_nothing(handbook: Handbook, db: Database) -> None:
    file = handbook.write("a.md")
    handbook.scanned()
    handbook.read()
    waiting = jobs(db)
    touch(file)
    result = handbook.scanned()
    assert (result.touched, result.changed) == (1, 0)
    assert (handbook.read(), jobs(db)) == ([], waiting)
    assert handbook.scanned().touched == 0


def test_other_bytes_of_the_same_size_are_read_again(handbook: Handbook) -> None:
    file = handbook.write("a.md", "one")
    handbook.scanned()
    handbook.read()
    file.write_text("two")
    touch(file)
    assert handbook.scanned().changed == 1
    assert handbook.read() == ["a.md"]


def test_a_file_that_has_its_old_bytes_again_is_read_again(handbook: Handbook) -> None:
    """A worker may have read what it was in between, and complete that afterwards."""
    file = handbook.write("a.md", "one")
    handbook.scanned()
    handbook.read()
    file.write_text("two")
    touch(file)
    handbook.scanned()
    file.write_text("one")
    touch(file, 20)
    assert handbook.scanned().changed == 1
    assert handbook.read() == ["a.md"]


@pytest.mark.contract
def test_a_missing_file_is_kept_for_the_grace(handbook: Handbook) -> None:
    handbook.write("a.md")
    file = handbook.write("b.md")
    handbook.scanned()
    handbook.read()
    before = handbook.ids
    file.unlink()
    result = handbook.scanned()
    assert (result.missing, result.deleted) == (1, 0)
    assert handbook.states == {"a.md": "waiting", "b.md": "missing"}
    handbook.write("b.md")
    assert handbook.scanned().missing == 0
    assert (handbook.ids, handbook.states["b.md"]) == (before, "waiting")
    file.unlink()
    handbook.scanned()
    handbook.grace = timedelta(0)
    assert handbook.scanned().deleted == 1
    assert handbook.ids.keys() == {"a.md"}


def test_an_empty_folder_deletes_nothing(handbook: Handbook) -> None:
    handbook.grace = timedelta(0)
    assert handbook.scanned().problem is None  # it has had no files yet
    file = handbook.write("a.md")
    handbook.scanned()
    file.unlink()
    assert "it is empty" in str(handbook.scanned().problem)
    assert handbook.states == {"a.md": "found"}
    handbook.write("b.md")
    assert (handbook.scanned().deleted, handbook.problem) == (1, None)


def test_a_folder_that_has_vanished_deletes_nothing(handbook: Handbook) -> None:
    handbook.grace = timedelta(0)
    handbook.write("a.md")
    handbook.scanned()
    handbook.root.rename(handbook.root.with_name("elsewhere"))
    assert "No such file or directory" in str(handbook.scanned().problem)
    assert (handbook.states, handbook.problem is None) == ({"a.md": "found"}, False)
    handbook.root.with_name("elsewhere").rename(handbook.root)
    assert (handbook.scanned().problem, handbook.problem) == (None, None)


def test_what_an_unreadable_folder_hides_is_not_missing(handbook: Handbook) -> None:
    handbook.grace = timedelta(0)
    handbook.write("a/b/c.md")
    gone = handbook.write("d.md")
    handbook.write("e.md")
    handbook.scanned()
    gone.unlink()
    handbook.source = Listed([handbook.seen("e.md"), SkippedFile("a/b", "unreadable")])
    result = handbook.scanned()
    assert "folders with known files cannot be read: a/b. Let" in str(result.problem)
    assert (result.deleted, result.skipped) == (0, {"unreadable": 1})
    assert handbook.states == {"a/b/c.md": "found", "d.md": "found", "e.md": "found"}
    handbook.source = Listed([handbook.seen("e.md"), SkippedFile("x", "unreadable")])
    assert handbook.scanned().problem is None  # nothing that is known was in it


class Listed(Directory):
    """A folder in which a scan finds just these."""

    def __init__(self, found: list[SeenFile | SkippedFile]) -> None:
        super().__init__(Path("/nowhere"), Patterns())
        self.found = found

    def list(self) -> Iterator[SeenFile | SkippedFile]:
        yield from self.found


class Breaking(Listed):
    """A folder that goes away while it is listed."""

    def list(self) -> Iterator[SeenFile | SkippedFile]:
        yield from self.found
        raise FolderUnavailable("it cannot be read: Stale file handle", "Mount it.")


@pytest.mark.contract
def test_a_folder_that_goes_away_during_a_scan_changes_nothing(handbook: Handbook) -> None:
    handbook.grace = timedelta(0)
    handbook.write("a.md")
    handbook.write("b.md")
    handbook.scanned()
    handbook.source = Breaking([handbook.seen("a.md")])
    assert "Stale" in str(handbook.scanned().problem)
    assert handbook.states == {"a.md": "found", "b.md": "found"}


def test_too_many_files_are_a_problem_and_delete_nothing(handbook: Handbook) -> None:
    handbook.grace = timedelta(0)
    for name in "abc":
        handbook.write(name)
    handbook.scanned()
    handbook.most_files = 2
    result = handbook.scanned()
    assert "it has more than 2 files. Raise FILES_MOST" in str(result.problem)
    assert (result.files, sorted(handbook.states)) == (2, ["a", "b", "c"])


@pytest.mark.contract
def test_one_host_scans_a_folder_at_a_time(handbook: Handbook) -> None:
    handbook.write("a.md")
    assert handbook.queue.start_scan(handbook.folder, timedelta(minutes=1))
    assert handbook.scan() is None
    assert handbook.ids == {}


@pytest.mark.contract
def test_a_scan_whose_lease_was_taken_over_records_nothing(
    handbook: Handbook, db: Database
) -> None:
    class Slow(Listed):
        def list(self) -> Iterator[SeenFile | SkippedFile]:
            db.execute("update embedding_folders set scan_lease = gen_random_uuid()")
            yield from super().list()

    handbook.write("a.md")
    handbook.source = Slow([handbook.seen("a.md")])
    with pytest.raises(SettingsError, match="another host may have begun one"):
        handbook.scan()
    assert handbook.ids == {}


@pytest.mark.contract
def test_a_stopped_scan_leaves_the_folder_to_others(handbook: Handbook) -> None:
    handbook.write("a.md")
    stop = Event()
    stop.set()
    assert handbook.scan(stop) is None
    assert handbook.scanned().new == 1


@pytest.mark.contract
def test_more_files_than_fit_into_one_call(handbook: Handbook) -> None:
    handbook.most_files = 3000
    seen: list[SeenFile | SkippedFile] = [
        SeenFile(f"{number}.md", 1, None, "1") for number in range(2100)
    ]
    handbook.source = Listed(seen)
    assert handbook.scanned().new == 2100
    assert handbook.scanned().new == 0
    moved = [replace(file, path=f"new/{file.path}") for file in seen if isinstance(file, SeenFile)]
    handbook.source = Listed([*moved])
    assert (handbook.scanned().new, len(handbook.known)) == (2100, 4200)


def test_a_pattern_means_the_same_to_postgres(db: Database) -> None:
    found = rows(
        db,
        "select path ~ regex from unnest(%s::text[], %s::text[]) as given (regex, path)",
        [path_regex(pattern) for pattern, _, _ in FITS],
        [path for _, path, _ in FITS],
    )
    assert [fits for (fits,) in found] == [fits for _, _, fits in FITS]


@pytest.mark.contract
def test_files_are_found_by_patterns(handbook: Handbook) -> None:
    for path in ("a.pdf", "b/c.pdf", "b/d.md"):
        handbook.write(path)
    handbook.scanned()
    ids = handbook.ids
    found = handbook.queue.files(path_regex=path_regex("b/*.{pdf,md}"))
    assert [file.path for file in found] == ["b/c.pdf", "b/d.md"]
    assert handbook.queue.file_ids(path_regex("*.pdf"), 10) == [ids["a.pdf"], ids["b/c.pdf"]]
    assert len(handbook.queue.file_ids(path_regex("*"), 2)) == 2
    assert [file.path for file in handbook.queue.files(ids=[ids["b/d.md"]])] == ["b/d.md"]
    assert handbook.queue.files(ids=[]) == []
    with pytest.raises(SettingsError):
        handbook.queue.file_ids("(", 2)


def test_reprocessing_matches_the_paths_of_files(handbook: Handbook) -> None:
    handbook.write("2024/invoice-7.md", "no such word in it")
    handbook.write("2024/letter.md")
    handbook.scanned()
    handbook.read()
    assert handbook.queue.reprocess("*invoice*", None, None, 0, dry_run=False).matched == 1
    assert handbook.read() == ["2024/invoice-7.md"]


@pytest.mark.over_a_connection
def test_the_statements_of_the_documentation(handbook: Handbook, db: Database) -> None:
    handbook.write("hr/contract.pdf", "One. Two.\fThree.")
    handbook.write("a.md", "Three.")
    handbook.scanned()
    handbook.read()
    embed_chunks(db)
    page = (REPOSITORY / "docs" / "files.md").read_text()
    [searches, grants] = re.findall(r"```sql\n(.*?)```", page, re.S)
    found, passages, _ = searches.replace("$1", "'[1,2,3]'").split(";")
    found = found.replace("notice period", "contract")
    assert rows(db, found) == [("hr/contract.pdf", "searchable", None)]
    assert [row[0] for row in rows(db, passages)] == ["hr/contract.pdf"]
    create_role(db, "authenticated")
    seen = "select count(*) from embedding_files_passages"
    with acting_as(db, "authenticated"):
        assert "permission denied" in refusal(db, seen)[0]
    for statement in grants.replace("…", str(handbook.folder.id)).split(";")[:-1]:
        db.execute(statement)
    with acting_as(db, "authenticated"):
        assert value(db, seen) == 3


@pytest.mark.over_a_connection
def test_files_that_were_truncated_are_found_again(handbook: Handbook, db: Database) -> None:
    handbook.write("a.md")
    handbook.scanned()
    handbook.read()
    db.execute("truncate embedding_files cascade")
    assert handbook.scanned().new == 1
    assert handbook.read() == ["a.md"]


@pytest.mark.over_a_connection
def test_files_whose_texts_are_not_watched_are_found_by_name(
    handbook: Handbook, db: Database
) -> None:
    handbook.write("a.md", "One.")
    handbook.scanned()
    handbook.read()
    handbook.queue.unwatch("embedding_files", "embedding")
    handbook.write("b.md", "Two.")
    handbook.scanned()
    assert handbook.read() == ["b.md"]
    assert handbook.states == {"a.md": "waiting", "b.md": "waiting"}
    db.execute(
        "select watch_embeddings('embedding_files', 'content', 'embedding', dimensions => 3,"
        " chunks => true, context => 'title')"
    )
    [target] = handbook.queue.targets()
    assert handbook.queue.backfill(target, 10) == 2
    embed_chunks(db)
    assert handbook.states == {"a.md": "searchable", "b.md": "searchable"}
