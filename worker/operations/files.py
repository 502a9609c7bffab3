"""Adds and removes folders of files, scans them, and lists their files."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event

from worker.embedders.registry import check_model
from worker.errors import SettingsError
from worker.files.locations import Location, location_of, open_source, parse_location, source_at
from worker.files.patterns import Patterns, path_regex
from worker.files.scan import ScanOptions, ScanResult, scan
from worker.files.sources import FolderUnavailable
from worker.files.sources import Source as FileSource
from worker.operations.jobs import requeue
from worker.operations.watching import WatchRequest, plan_watch
from worker.queue import (
    AdminQueue,
    CallSource,
    FileState,
    FileStatus,
    Folder,
    FolderQueue,
    Match,
    Target,
    WatchOptions,
)
from worker.queue.files import FILES_IN_ONE_CALL
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

FILES = "embedding_files"
"""The table of files, whose texts are a column like any other."""
CONTENT, COLUMN = "content", "embedding"
MOST_SEARCHED = 10_000  # files that a search can be limited to
PENDING: Sequence[FileState] = ("found", "parsing", "waiting")
FAILED: Sequence[FileState] = ("unread", "failed")


@dataclass(frozen=True, slots=True)
class FolderRequest:
    """A folder to add, and how its texts are embedded if no other folder was added before."""

    location: str
    name: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    model: str | None = None
    dimensions: int | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class FolderScan:
    """A folder that was scanned. `result` None: another host scans it now, or it was stopped."""

    folder: Folder
    result: ScanResult | None


def host_of(settings: Settings) -> str:
    """The name by which folders know this host."""
    return settings.files_host or socket.gethostname()


def folders_of_host(queue: FolderQueue, settings: Settings) -> list[Folder]:
    """Return the folders that this host scans and whose files it reads, by name."""
    host = host_of(settings)
    return [folder for folder in queue.folders() if folder.enabled and folder.is_on(host)]


def add_folder(queue: PostgresQueue, settings: Settings, wanted: FolderRequest) -> Folder:
    """Add a folder, to be scanned by this host; of a bucket, by any host.

    The first one also watches the texts of all files. A folder that is there gets these patterns,
    and this host. Raises SettingsError if it cannot be read, or its name belongs to another one.
    """
    location = parse_location(wanted.location)
    patterns = Patterns(wanted.include, wanted.exclude)
    name = wanted.name or _name_of(queue, location)
    _refuse_other(queue, name, location)
    _try_to_list(location, source_at(location, patterns, settings))
    watch_texts(queue, settings, wanted)
    host = host_of(settings) if location.kind == "directory" else None
    return queue.add_folder(
        name, location.kind, location.location, wanted.include, wanted.exclude, host
    )


def watch_texts(queue: PostgresQueue, settings: Settings, wanted: FolderRequest) -> Target:
    """Embed the texts of files in chunks, unless they are already.

    Raises SettingsError if they are, and the model, the width or the language is to be another one.
    """
    if wanted.model:
        check_model(wanted.model)
    for target in queue.targets():
        if target.table_name == FILES and target.named_column == COLUMN and target.is_serving:
            _refuse_change(target, wanted)
            return target
    options = WatchOptions(
        model=wanted.model,
        chunks=True,
        context="title",
        format="markdown",
        language=wanted.language,
    )
    request = WatchRequest(FILES, COLUMN, CONTENT, options, dimensions=wanted.dimensions)
    plan = plan_watch(queue, settings, request)
    target = plan.apply()
    plan.build_index(target)
    return target


def remove_folder(queue: PostgresQueue, folder: Folder) -> int:
    """Remove a folder with what is known of its files. Returns how many they were.

    The files themselves stay.
    """
    return queue.remove_folder(folder.name) or 0


def find_folder(queue: FolderQueue, given: str) -> Folder:
    """Find a folder by its name or by where it is. Raises SettingsError if there is none."""
    folders = queue.folders()
    for folder in folders:
        if folder.name == given:
            return folder
    try:
        location = parse_location(given)
    except SettingsError:
        location = None
    for folder in folders:
        if location_of(folder) == location:
            return folder
    names = ", ".join(folder.name for folder in folders)
    raise SettingsError(
        f"there is no folder {given or repr(given)}",
        f"Choose one of: {names}." if names else "`worker files add` adds one.",
    )


def scan_folders(
    queue: FolderQueue, settings: Settings, names: Sequence[str] = (), *, stop: Event | None = None
) -> Iterator[FolderScan]:
    """Scan folders of this host, all or those that are named, and yield the result of each.

    Set `stop` from another thread to end early. Raises SettingsError if this host does not have a
    folder that is named, or a setting for it is missing.
    """
    stop = stop or Event()
    host = host_of(settings)
    chosen = [find_folder(queue, name) for name in names]
    for folder in chosen:
        if not folder.is_on(host):
            raise SettingsError(
                f"folder {folder.name} is not on this host, {host}, but on"
                f" {', '.join(folder.hosts)}",
                "Run it there. If this is one of these hosts, set FILES_HOST.",
            )
    for folder in chosen or folders_of_host(queue, settings):
        if folder.enabled and not stop.is_set():
            source = open_source(folder, settings)
            yield FolderScan(folder, scan(queue, folder, source, scan_options(settings), stop))


def scan_options(settings: Settings) -> ScanOptions:
    """Return the options of all scans."""
    return ScanOptions(settings.files_grace, settings.files_most)


def list_files(
    queue: FolderQueue,
    words: str | None = None,
    *,
    folder: str | None = None,
    file: str | None = None,
    states: Sequence[FileState] | None = None,
    limit: int = FILES_IN_ONE_CALL,
) -> list[FileStatus]:
    """List files, with their states: those with all `words` in their paths, titles or authors, and
    whose path fits the pattern `file`. Raises SettingsError if there is no such folder."""
    return queue.files(
        words,
        None if file is None else path_regex(file),
        None if folder is None else find_folder(queue, folder).name,
        states,
        limit=limit,
    )


def retry(
    queue: AdminQueue,
    file: int | None = None,
    *,
    source: CallSource = "api",
    stop: Event | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> int:
    """Read again the files that could not be read, and embed again the texts that failed, all of
    them or those of the `file` with this id. Returns how many jobs became pending.

    `stop` and `on_batch` are as for `requeue`.
    """
    return requeue(
        queue,
        table=FILES,
        record=None if file is None else str(file),
        source=source,
        stop=stop,
        on_batch=on_batch,
    )


def ids_of_files(queue: FolderQueue, pattern: str) -> list[int]:
    """Return the ids of the files that a pattern fits. Raises SettingsError if they are too many
    for a search."""
    ids = queue.file_ids(path_regex(pattern), MOST_SEARCHED + 1)
    if len(ids) > MOST_SEARCHED:
        raise SettingsError(
            f"more than {MOST_SEARCHED} files fit `{pattern}`",
            "Leave out --file, or give a pattern for fewer files.",
        )
    return ids


def paths_of_files(queue: FolderQueue, matches: Sequence[Match]) -> dict[str, str]:
    """Return the paths of files that a search found, by record id."""
    ids = sorted({int(match.record_id) for match in matches})
    pages = [ids[at : at + FILES_IN_ONE_CALL] for at in range(0, len(ids), FILES_IN_ONE_CALL)]
    return {str(file.id): file.path for page in pages for file in queue.files(ids=page)}


def _name_of(queue: PostgresQueue, location: Location) -> str:
    """Return the name of the folder that is there, or else its last part."""
    return next(
        (folder.name for folder in queue.folders() if location_of(folder) == location),
        location.name,
    )


def _try_to_list(location: Location, source: FileSource) -> None:
    """Raises SettingsError if the folder cannot be read."""
    try:
        next(iter(source.list()), None)
    except FolderUnavailable as problem:
        raise SettingsError(f"{location}: {problem.cause}", problem.hint) from None


def _refuse_other(queue: PostgresQueue, name: str, location: Location) -> None:
    for folder in queue.folders():
        if folder.name == name and location_of(folder) != location:
            raise SettingsError(
                f"there is a folder {name} already, in {location_of(folder)}",
                "Give this one another name (on the command line: --name).",
            )


def _refuse_change(target: Target, wanted: FolderRequest) -> None:
    given = {
        "model": (wanted.model, target.model),
        "dimensions": (wanted.dimensions, target.dimensions),
        "language": (wanted.language, target.language),
    }
    for name, (new, present) in given.items():
        if new not in (None, present):
            raise SettingsError(
                f"the texts of files have the {name} {present or 'of the worker'} already, for all"
                " folders",
                f"Leave out --{name}. `worker reembed start {FILES}.{COLUMN}` gives them another"
                f" model, `worker watch {FILES} --column {COLUMN} --language …` another language.",
            )
