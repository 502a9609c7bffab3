"""Folders that are buckets, on a server that speaks S3."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event
from typing import Any
from uuid import uuid4

import pytest

from tests.s3_server import KEY, SECRET, S3Server
from worker.errors import SettingsError
from worker.files.locations import open_source, parse_location
from worker.files.scan import ScanOptions, ScanResult, scan
from worker.files.sources import FolderUnavailable, SeenFile, Source
from worker.queue import FileFacts, Folder, FolderKind
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

OPTIONS = ScanOptions(timedelta(days=1), 1000)


@dataclass
class Shelf:
    """A bucket `shelf` on a server."""

    server: S3Server
    client: Any

    def put(self, key: str, text: str = "text") -> None:
        self.client.put_object(Bucket="shelf", Key=key, Body=text.encode())

    def source(self, location: str = "shelf", *include: str) -> Source:
        return open_source(folder(location, *include), self.server.settings)

    def seen(self, location: str = "shelf", *include: str) -> list[str]:
        found = self.source(location, *include).list()
        return [file.path for file in found if isinstance(file, SeenFile)]


@pytest.fixture
def shelf(s3: S3Server) -> Shelf:
    return Shelf(s3, s3.client())


def folder(location: str, *include: str, kind: FolderKind = "s3") -> Folder:
    return Folder(
        uuid4(), "shelf", kind, location, list(include), [], [], True, None, None, {}, None, None
    )


def test_all_pages_of_a_listing_below_the_prefix(shelf: Shelf) -> None:
    for number in range(8):
        shelf.put(f"docs/{number}.md")
    for key in ("docs/", "docs/sub/", "docs/.hidden", "docs/a//b.md", "docs2/x.md", "y.md"):
        shelf.put(key)
    for name in ("ä b+c%20&.md", "日本.md"):
        shelf.put(f"docs/sub/{name}")
    assert shelf.seen("shelf/docs") == [
        *(f"{number}.md" for number in range(8)),
        "sub/ä b+c%20&.md",
        "sub/日本.md",
    ]
    assert shelf.seen("shelf", "docs/*.md", "y.md") == [
        *(f"docs/{number}.md" for number in range(8)),
        "y.md",
    ]


def test_the_stamp_is_that_of_the_bytes(shelf: Shelf) -> None:
    shelf.put("a.md", "one")
    [before] = shelf.source().list()
    assert isinstance(before, SeenFile)
    assert (before.size, before.modified is None) == (3, False)
    shelf.put("a.md", "one")
    assert [before.stamp] == [
        file.stamp for file in shelf.source().list() if isinstance(file, SeenFile)
    ]
    assert shelf.source().stamp("a.md") == before.stamp
    shelf.put("a.md", "two")
    assert shelf.source().stamp("a.md") not in (before.stamp, None)
    assert shelf.source().stamp("b.md") is None


def test_a_file_is_fetched_for_as_long_as_it_is_needed(shelf: Shelf) -> None:
    shelf.put("docs/ä+.md", "some text")
    with shelf.source("shelf/docs").local("ä+.md", 9) as local:
        assert local.read_text() == "some text"
    assert not local.exists()
    assert not local.parent.exists()


def test_a_file_that_grew_or_went_is_not_fetched(shelf: Shelf) -> None:
    shelf.put("a.md", "some text")
    for path, size, words in (("a.md", 4, "larger than the last scan saw"), ("b.md", 1, "NoSuch")):
        with pytest.raises(OSError, match=words), shelf.source().local(path, size):
            pass


def test_a_moved_object_costs_nothing(shelf: Shelf, queue: PostgresQueue) -> None:
    known = queue.add_folder("shelf", "s3", "shelf/docs", [], [], None)
    source = shelf.source("shelf/docs")

    def scanned() -> ScanResult:
        result = scan(queue, known, source, OPTIONS, Event())
        assert result
        return result

    for name in "abcd":
        shelf.put(f"docs/{name}", f"text of {name}")
    assert scanned().new == 4
    for job in queue.claim_files("tests", [known], 10, timedelta(minutes=1)).jobs:
        facts = FileFacts("text/plain")
        assert queue.complete_file(job, "text", b"1", facts) is None
    ids = {file.path: file.id for file in queue.known_files(known)}
    copied = {"Bucket": "shelf", "Key": "docs/a"}
    shelf.client.copy_object(Bucket="shelf", Key="docs/new/a", CopySource=copied)
    shelf.client.delete_object(Bucket="shelf", Key="docs/a")
    shelf.put("docs/b", "text of B")
    result = scanned()
    assert (result.renamed, result.changed, result.new, result.missing) == (1, 1, 0, 0)
    now = {file.path: file.id for file in queue.known_files(known)}
    assert (now["new/a"], now["b"]) == (ids["a"], ids["b"])
    jobs = queue.claim_files("tests", [known], 10, timedelta(minutes=1)).jobs
    assert [job.path for job in jobs] == ["b"]
    for name in ("new/a", "b", "c", "d"):
        shelf.client.delete_object(Bucket="shelf", Key=f"docs/{name}")
    assert "it is empty" in str(scanned().problem)


def test_what_is_wrong_is_said_in_a_line_with_its_cure(shelf: Shelf) -> None:
    with pytest.raises(FolderUnavailable, match="there is no such bucket") as problem:
        shelf.seen("nowhere")
    assert problem.value.hint
    shelf.server.check_keys()
    with pytest.raises(FolderUnavailable, match="does not know the access key") as problem:
        shelf.seen()
    assert "S3_ACCESS_KEY_ID" in str(problem.value.hint)
    with pytest.raises(OSError, match="may not use this bucket"):
        shelf.source().stamp("a.md")
    nobody = open_source(
        folder("shelf"), replace(shelf.server.settings, s3_endpoint="http://127.0.0.1:9")
    )
    with pytest.raises(FolderUnavailable, match="cannot be reached: EndpointConnection") as problem:
        list(nobody.list())
    assert not {KEY, SECRET} & {*str(problem.value).split(), *str(problem.value.hint).split()}


def test_without_a_key_the_chain_of_the_tools_of_aws_is_used(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(shelf.server.settings, s3_access_key_id=None, s3_secret_access_key=None)
    with pytest.raises(FolderUnavailable, match="there are no credentials") as problem:
        list(open_source(folder("shelf"), settings).list())
    assert "S3_ACCESS_KEY_ID" in str(problem.value.hint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    shelf.put("a.md")
    [found] = open_source(folder("shelf"), settings).list()
    assert found.path == "a.md"


def test_a_bucket_of_supabase_storage(shelf: Shelf) -> None:
    shelf.put("docs/a.md")
    storage = folder("shelf/docs", kind="storage")
    [found] = open_source(storage, shelf.server.settings).list()
    assert found.path == "a.md"
    project = Settings(supabase_url="https://example.supabase.co")
    with pytest.raises(SettingsError, match="S3_REGION, S3_ACCESS_KEY_ID"):
        open_source(storage, project)
    with pytest.raises(SettingsError, match="S3_ENDPOINT, S3_REGION"):
        open_source(storage, Settings())


@pytest.mark.parametrize(
    ("given", "kind", "location", "name"),
    [
        ("s3://shelf", "s3", "shelf", "shelf"),
        ("s3://shelf/a/b/", "s3", "shelf/a/b", "b"),
        ("storage://shelf/a", "storage", "shelf/a", "a"),
        ("/srv/handbook/", "directory", "/srv/handbook", "handbook"),
        ("/srv/../x", "directory", "/x", "x"),
        ("/", "directory", "/", "/"),
    ],
)
def test_a_location_as_people_write_it(given: str, kind: str, location: str, name: str) -> None:
    found = parse_location(given)
    assert (found.kind, found.location, found.name) == (kind, location, name)


@pytest.mark.parametrize("given", ["", "http://x/y", "s3://", "s3:///x", "ftp://x", "a\0b"])
def test_what_is_no_location(given: str) -> None:
    with pytest.raises(SettingsError):
        parse_location(given)
