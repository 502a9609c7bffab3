"""How fast a folder of files is found and compared, and what memory that takes.

The limit of a first scan is a walk through the folder and a COPY of its paths into a bare table
with the same indexes; that of a scan without changes is the walk alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.database import NARROW, Connection, Database, Server
from benchmarks.report import Figure
from benchmarks.usage import usage
from worker.operations import files
from worker.settings import Settings

HOST = "benchmark"
SETTINGS = Settings(files_host=HOST)
FILES_A_FOLDER = 100
FIRST_SCAN, NEXT_SCAN = 5.0, 1.0  # seconds, of 10,000 files
MOST_MEMORY = 1.2  # of that with a tenth of the files


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of each measurement."""

    files: int = 10_000
    repetitions: int = 3


FULL = Size()
QUICK = Size(files=300, repetitions=1)


def scan(server: Server, size: Size) -> Iterator[Figure]:
    """A first scan until the last file is found by its name, and scans without changes."""
    first, bare, again, walks = [], [], [], []
    with folder(size.files) as root:
        for _ in range(size.repetitions):
            with server.database(NARROW) as database, database.connect() as connection:
                watch(database)
                bare.append(walk_and_copy(connection, root))
                first.append(scan_until_found(database, root, size.files))
                again.append(scan_without_changes(database))
                walks.append(walk(root)[1])
    what = f"scan: {size.files:,} files"
    yield Figure(what=f"{what}, until found by name", unit="s", samples=first, at_most=FIRST_SCAN)
    yield Figure(what=f"{what}, against a walk and COPY", unit="s", samples=first, limits=bare)
    yield Figure(what=f"{what}, without changes", unit="s", samples=again, at_most=NEXT_SCAN)
    yield Figure(what=f"{what}, against a walk", unit="s", samples=again, limits=walks)


def memory(server: Server, size: Size) -> Iterator[Figure]:
    """The peak of a process that scans a folder for the first time, and once more."""
    few = size.files // 10
    for which, scans in (("first scan", 1), ("scan without changes", 2)):
        peaks = {files: peak_of_scan(server, files, scans) for files in (few, size.files)}
        yield Figure(
            what=f"memory: {which} of {size.files:,} files against {few:,}",
            unit="MB",
            samples=[peaks[size.files]],
            limits=[peaks[few]],
            at_most=MOST_MEMORY,
        )


GROUPS = {"scan": scan, "memory": memory}


def measure(server: Server, groups: Iterable[str], *, quick: bool) -> Iterator[Figure]:
    """Yield the figures of these groups."""
    for name in groups:
        yield from GROUPS[name](server, QUICK if quick else FULL)


@contextmanager
def folder(count: int) -> Iterator[Path]:
    """A folder with so many files of a line, a hundred in each of its folders."""
    with tempfile.TemporaryDirectory(prefix="embedding-worker-") as root:
        for number in range(count):
            file = Path(root, f"department-{number // FILES_A_FOLDER}", f"report-{number}.md")
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"# Report {number}\n")
        yield Path(root)


def watch(database: Database) -> None:
    """Watch the texts of files, as `worker files add` does."""
    with database.queue() as queue:
        queue.watch(
            "embedding_files", "content", "embedding", dimensions=database.dimensions, chunks=True
        )


def scan_until_found(database: Database, root: Path, count: int) -> float:
    """Return the seconds until a file is found that a scan records last."""
    with database.queue() as queue:
        queue.add_folder("folder", "directory", str(root), [], [], HOST)
        began = time.perf_counter()
        [scanned] = files.scan_folders(queue, SETTINGS)
        found = queue.files(f"report {count - 1}")
        seconds = time.perf_counter() - began
    if scanned.result is None or scanned.result.new != count or len(found) != 1:
        raise RuntimeError(f"not found: {scanned.result}")
    return seconds


def scan_without_changes(database: Database) -> float:
    with database.queue() as queue:
        began = time.perf_counter()
        [scanned] = files.scan_folders(queue, SETTINGS)
        seconds = time.perf_counter() - began
    if scanned.result is None or scanned.result.new:
        raise RuntimeError(f"there were changes: {scanned.result}")
    return seconds


def walk(root: Path) -> tuple[list[tuple[str, int, int]], float]:
    """Return the paths, sizes and times of all files, and how long that took."""
    began = time.perf_counter()
    found = []
    for at, _, names in os.walk(root):
        for name in names:
            path = os.path.join(at, name)
            status = os.stat(path)
            found.append((path, status.st_size, status.st_mtime_ns))
    return found, time.perf_counter() - began


def walk_and_copy(connection: Connection, root: Path) -> float:
    connection.execute(
        "create table bare_files (id bigint generated always as identity primary key,"
        " path text not null unique, size bigint not null, stamp bigint not null, words tsvector"
        " not null generated always as (to_tsvector('simple', path)) stored)"
    )
    connection.execute("create index on bare_files using gin (words)")
    found, seconds = walk(root)
    began = time.perf_counter()
    with connection.cursor().copy("copy bare_files (path, size, stamp) from stdin") as copying:
        for row in found:
            copying.write_row(row)
    return seconds + time.perf_counter() - began


def peak_of_scan(server: Server, count: int, scans: int) -> float:
    """Return the megabytes of the last of some scans, each a process of its own."""
    environment = {"FILES_HOST": HOST}
    with folder(count) as root, server.database(NARROW) as database:
        watch(database)
        with database.queue() as queue:
            queue.add_folder("folder", "directory", str(root), [], [], HOST)
        command = [sys.executable, "-m", "worker", "files", "scan"]
        used = [usage(command, environment | {"DATABASE_URL": database.url}) for _ in range(scans)]
    return used[-1].peak
