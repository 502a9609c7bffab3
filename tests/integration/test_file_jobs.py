"""Folders, files and their jobs in the queue: what scans record, and what workers claim."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from tests.conftest import Database
from worker.errors import SettingsError
from worker.queue import FileFacts, FileJob, Folder, FoundFile
from worker.queue.postgres import PostgresQueue

LEASE = timedelta(minutes=1)
NO_GRACE = timedelta(0)


@pytest.fixture
def folder(queue: PostgresQueue, db: Database) -> Folder:
    added = queue.add_folder("handbook", "directory", "/srv/handbook", [], [], "here")
    db.execute(
        "select watch_embeddings('embedding_files', 'content', 'embedding', dimensions => 3,"
        " chunks => true, context => 'title')"
    )
    return added


def new(path: str, stamp: str = "1") -> FoundFile:
    return FoundFile(None, path, 10, None, stamp, None)


def scan(
    queue: PostgresQueue,
    folder: Folder,
    found: Sequence[FoundFile],
    missing: Sequence[int] = (),
    grace: timedelta = NO_GRACE,
    problem: str | None = None,
) -> int:
    lease = queue.start_scan(folder, LEASE)
    assert lease
    queue.record_files(folder, lease, LEASE, found)
    return queue.finish_scan(
        folder,
        lease,
        files=len(found),
        missing=missing,
        grace=grace,
        skipped={},
        seconds=0.1,
        problem=problem,
    )


def claim(queue: PostgresQueue, *folders: Folder) -> list[FileJob]:
    return queue.claim_files("w", folders, 100, LEASE).jobs


def jobs(db: Database) -> int:
    [(count,)] = db.execute("select count(*) from embedding_queue")
    return int(count)


def states(queue: PostgresQueue) -> dict[str, str]:
    return {file.path: file.state for file in queue.files()}


def test_a_file_is_found_by_its_name_before_it_is_read(
    queue: PostgresQueue, folder: Folder
) -> None:
    scan(queue, folder, [new("hr/Notice-Period_2024.pdf"), new("it/vpn.md")])
    assert [file.path for file in queue.files("notice 2024")] == ["hr/Notice-Period_2024.pdf"]
    assert [file.path for file in queue.files(path_regex=r"\.md$")] == ["it/vpn.md"]
    assert set(states(queue).values()) == {"found"}


def test_the_text_of_a_file_becomes_a_text_to_embed(
    queue: PostgresQueue, folder: Folder, db: Database
) -> None:
    scan(queue, folder, [new("a.md")])
    [job] = claim(queue, folder)
    assert (job.path, job.folder) == ("a.md", folder.id)
    assert states(queue) == {"a.md": "parsing"}
    facts = FileFacts("text/markdown", "utf-8", "A title", "Somebody", 2)
    assert queue.complete_file(job, "one\ftwo", b"\1" * 32, facts) is None
    [file] = queue.files("somebody")
    assert (file.title, file.pages, file.state) == ("A title", 2, "waiting")
    [text] = db.execute("select content from claim_embeddings('w', default_model => 'local:x')")
    assert text[0] == "A title\x1fone\ftwo"


def test_only_hosts_with_the_folder_get_its_files(queue: PostgresQueue, folder: Folder) -> None:
    other = queue.add_folder("other", "directory", "/srv/other", [], [], "there")
    scan(queue, folder, [new("a.md")])
    scan(queue, other, [new("b.md")])
    assert [job.path for job in claim(queue, other)] == ["b.md"]
    assert claim(queue, other) == []
    assert [job.path for job in claim(queue, folder)] == ["a.md"]


def test_a_renamed_file_keeps_its_row(queue: PostgresQueue, folder: Folder, db: Database) -> None:
    scan(queue, folder, [new("a.md"), new("b.md")])
    for job in claim(queue, folder):
        queue.complete_file(job, job.path, b"\1" * 32, FileFacts("text/markdown"))
    a, b = sorted(queue.known_files(folder), key=lambda file: file.path)
    swapped = [
        FoundFile(a.id, "b.md", 10, None, "1", None),
        FoundFile(b.id, "c/a.md", 10, None, "1", None),
    ]
    scan(queue, folder, swapped)
    assert {file.id: file.path for file in queue.known_files(folder)} == {
        a.id: "b.md",
        b.id: "c/a.md",
    }
    assert claim(queue, folder) == []


def test_names_exchanged_in_two_calls(queue: PostgresQueue, folder: Folder) -> None:
    scan(queue, folder, [new("a"), new("b")])
    a, b = sorted(queue.known_files(folder), key=lambda file: file.path)
    lease = queue.start_scan(folder, LEASE)
    assert lease
    queue.record_files(folder, lease, LEASE, [FoundFile(a.id, "b", 10, None, "1", None)])
    queue.record_files(folder, lease, LEASE, [FoundFile(b.id, "a", 10, None, "1", None)])
    assert {file.id: file.path for file in queue.known_files(folder)} == {a.id: "b", b.id: "a"}


def test_other_bytes_are_read_again_and_a_touched_file_is_not(
    queue: PostgresQueue, folder: Folder
) -> None:
    scan(queue, folder, [new("a"), new("b")])
    for job in claim(queue, folder):
        queue.complete_file(job, job.path, b"\1" * 32, FileFacts("text/plain"))
    a, b = sorted(queue.known_files(folder), key=lambda file: file.path)
    scan(
        queue,
        folder,
        [FoundFile(a.id, "a", 10, None, "2", None), FoundFile(b.id, "b", 11, None, "2", "2")],
    )
    assert [job.path for job in claim(queue, folder)] == ["b"]


def test_a_file_that_changed_while_it_was_read_is_refused(
    queue: PostgresQueue, folder: Folder
) -> None:
    scan(queue, folder, [new("a")])
    [job] = claim(queue, folder)
    scan(queue, folder, [FoundFile(job.file_id, "a", 10, None, "2", "2")])
    assert queue.complete_file(job, "old", b"\1" * 32, FileFacts("text/plain")) == "lost"
    [again] = claim(queue, folder)
    assert again.stamp == "2"


def test_missing_files_are_deleted_after_the_grace(
    queue: PostgresQueue, folder: Folder, db: Database
) -> None:
    scan(queue, folder, [new("a"), new("b")])
    a, b = sorted(queue.known_files(folder), key=lambda file: file.path)
    assert scan(queue, folder, [], [a.id], timedelta(days=1)) == 0
    assert states(queue) == {"a": "missing", "b": "found"}
    scan(queue, folder, [FoundFile(a.id, "a", 10, None, "1", None)], [b.id], timedelta(days=1))
    assert states(queue) == {"a": "found", "b": "missing"}
    assert scan(queue, folder, [], [b.id]) == 1
    assert states(queue) == {"a": "found"}
    assert jobs(db) == 2  # to read the other file, and to embed it


def test_a_problem_deletes_nothing(queue: PostgresQueue, folder: Folder) -> None:
    scan(queue, folder, [new("a")])
    [a] = queue.known_files(folder)
    assert scan(queue, folder, [], [a.id], problem="the folder is empty") == 0
    [known] = queue.folders()
    assert (states(queue), known.problem) == ({"a": "found"}, "the folder is empty")


def test_one_host_scans_at_a_time(queue: PostgresQueue, folder: Folder) -> None:
    lease = queue.start_scan(folder, timedelta(seconds=-1))
    assert lease
    second = queue.start_scan(folder, LEASE)  # the lease of the first ran out
    assert second
    assert queue.start_scan(folder, LEASE) is None
    with pytest.raises(SettingsError, match="another host may have begun one"):
        queue.record_files(folder, lease, LEASE, [new("a")])
    queue.record_files(folder, second, LEASE, [new("a")])


def test_a_folder_is_shared_or_has_another_name(queue: PostgresQueue, folder: Folder) -> None:
    again = queue.add_folder("handbook", "directory", "/srv/handbook", ["*.md"], [], "there")
    assert (again.id, again.hosts, again.include) == (folder.id, ["here", "there"], ["*.md"])
    with pytest.raises(SettingsError, match="there is a folder handbook already"):
        queue.add_folder("handbook", "directory", "/elsewhere", [], [], "here")


def test_a_removed_folder_takes_all_with_it(
    queue: PostgresQueue, folder: Folder, db: Database
) -> None:
    scan(queue, folder, [new("a")])
    assert queue.remove_folder("handbook") == 1
    assert queue.remove_folder("handbook") is None
    assert jobs(db) == 0


def test_a_file_whose_worker_died_is_read_again(queue: PostgresQueue, folder: Folder) -> None:
    scan(queue, folder, [new("a")])
    [first] = queue.claim_files("dead", [folder], 1, timedelta(seconds=-1)).jobs
    [second] = claim(queue, folder)
    assert (second.id, second.lease) != (first.id, first.lease)
    assert queue.complete_file(first, "x", b"\1" * 32, FileFacts("text/plain")) == "lost"


def test_the_engine_and_the_searches_leave_files_to_read_alone(
    queue: PostgresQueue, folder: Folder, db: Database
) -> None:
    scan(queue, folder, [new("a")])
    assert not any(
        row for row in db.execute("select 1 from claim_embeddings('w') where status = 'processing'")
    )
    assert [target.embedding_column for target in queue.targets()] == ["embedding"]
    assert isinstance(folder.id, UUID)
