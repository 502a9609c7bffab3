"""Folders as tests scan them, and files that are read without a parser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from threading import Event

from tests.conftest import Database, value
from worker.files.directory import Directory
from worker.files.patterns import Patterns
from worker.files.scan import ScanOptions, ScanResult, scan
from worker.files.sources import SeenFile, Source
from worker.queue import FileFacts, Folder, KnownFile
from worker.queue.postgres import PostgresQueue

DAY = timedelta(days=1)
LEASE = timedelta(minutes=1)
HOST = "here"


@dataclass
class Handbook:
    """A folder of the database, and the directory of this host that it is.

    It is scanned over `queue`; its files are read over `reader`, a connection.
    """

    queue: PostgresQueue
    reader: PostgresQueue
    folder: Folder
    root: Path
    grace: timedelta = DAY
    most_files: int = 1000
    source: Source | None = None

    def write(self, path: str, text: str | None = None) -> Path:
        """Write a file, by default with its path as its text, so that no two are the same."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path if text is None else text)
        return file

    def scan(self, stop: Event | None = None) -> ScanResult | None:
        options = ScanOptions(self.grace, self.most_files)
        source = self.source or Directory(self.root, Patterns(self.folder.include))
        return scan(self.queue, self.folder, source, options, stop or Event())

    def scanned(self) -> ScanResult:
        result = self.scan()
        assert result
        return result

    def read(self) -> list[str]:
        """Read all files that are due, as a worker would. Returns their paths."""
        paths = []
        while claim := self.reader.claim_files("tests", [self.folder], 100, LEASE):
            for job in claim.jobs:
                text = (self.root / job.path).read_bytes()
                digest = sha256(text).digest()
                facts = FileFacts("text/plain")
                assert self.reader.complete_file(job, text.decode(), digest, facts) is None
                paths.append(job.path)
        return paths

    def seen(self, path: str) -> SeenFile:
        """A file as a scan sees it."""
        found = Directory(self.root, Patterns(self.folder.include)).list()
        [file] = [file for file in found if file.path == path and isinstance(file, SeenFile)]
        return file

    @property
    def known(self) -> dict[str, KnownFile]:
        return {file.path: file for file in self.queue.known_files(self.folder)}

    @property
    def ids(self) -> dict[str, int]:
        return {path: file.id for path, file in self.known.items()}

    @property
    def states(self) -> dict[str, str]:
        return {file.path: file.state for file in self.queue.files()}

    @property
    def problem(self) -> str | None:
        return self.queue.folders()[0].problem


def add_folder(db: Database, name: str, root: Path, hosts: Sequence[str] = (HOST,)) -> None:
    for host in hosts:
        value(
            db,
            "select add_embedding_folder(%s, 'directory', %s, '{}', '{}', %s)::text",
            name,
            str(root),
            host,
        )
