"""The commands about folders of files: `files add`, `list`, `folders`, `scan`, `remove`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from worker.cli.console import confirmed, out, out_json, say
from worker.cli.environment import load_settings
from worker.cli.options import (
    AddedModel,
    AgreeToRemove,
    AsJson,
    Dimensions,
    Exclude,
    FilePattern,
    FilesLanguage,
    FileStateShown,
    FileWords,
    FolderLocation,
    FolderName,
    FolderNames,
    FolderOnly,
    FolderToRemove,
    Include,
    JobsShown,
    ShowFailedFiles,
    ShowPendingFiles,
)
from worker.cli.render.files import print_files, print_folders, print_scan
from worker.cli.signals import INTERRUPTED, stopped_by_signals
from worker.errors import SettingsError
from worker.figures import counted
from worker.files.locations import location_of
from worker.files.scan import ScanResult
from worker.operations import files
from worker.operations.files import FAILED, PENDING, FolderScan
from worker.operations.session import open_database, open_queue
from worker.queue import FileState, Folder
from worker.terminal import printable

NO_FOLDERS = "There are no folders yet: `worker files add PATH` adds one."


def add(
    path: FolderLocation,
    name: FolderName = None,
    include: Include = None,
    exclude: Exclude = None,
    model: AddedModel = None,
    dimensions: Dimensions = None,
    language: FilesLanguage = None,
) -> None:
    """Make the files of a directory or a bucket searchable.

    A folder that was added before gets these patterns. On another host with the same files, add it
    there as well: the hosts then share the work.
    """
    wanted = files.FolderRequest(
        path, name, include or (), exclude or (), model, dimensions, language
    )
    settings = load_settings(asks_model=not model)
    with open_database(settings) as queue:
        folder = files.add_folder(queue, settings, wanted)
    out(printable(f"Added: {folder.name} <- {location_of(folder)}"))
    say("hint: `worker run` finds its files, reads them and embeds their texts")


def list_files(
    words: FileWords = None,
    folder: FolderOnly = None,
    file: FilePattern = None,
    pending: ShowPendingFiles = False,
    failed: ShowFailedFiles = False,
    state: FileStateShown = None,
    limit: JobsShown = 20,
    as_json: AsJson = False,
) -> None:
    """List files with their states, and why a file is not searchable.

    They are found by their paths, titles and authors, also before their texts are read.
    """
    states = _states(pending, failed, state)
    with open_queue(load_settings()) as queue:
        found = files.list_files(queue, words, folder=folder, file=file, states=states, limit=limit)
    if as_json:
        out_json([asdict(each) for each in found])
    elif found:
        print_files(found, is_full=len(found) == limit)
    else:
        say("No such files.")


def _states(pending: bool, failed: bool, state: FileState | None) -> list[FileState] | None:
    if state and (pending or failed):
        raise SettingsError("--state contradicts --pending and --failed", "Use only one of them.")
    chosen = [*(PENDING if pending else ()), *(FAILED if failed else ())]
    return [state] if state else chosen or None


def folders(as_json: AsJson = False) -> None:
    """List the folders, and what was wrong with their last scans."""
    with open_queue(load_settings()) as queue:
        found = queue.folders()
    if as_json:
        out_json([asdict(folder) for folder in found])
    elif found:
        print_folders(found)
    else:
        say(NO_FOLDERS)


def scan(names: FolderNames = None, as_json: AsJson = False) -> int:
    """Compare the folders of this host with the files that are known, and record what differs.

    `worker run` does this by itself.
    """
    settings = load_settings()
    found = []
    with open_queue(settings) as queue, stopped_by_signals() as stop:
        for scanned in files.scan_folders(queue, settings, names or (), stop=stop):
            found.append(scanned)
            if not as_json:
                print_scan(scanned)
    if as_json:
        out_json([_as_json(scanned) for scanned in found])
    elif not found and not stop.is_set():
        say("This host has no folders: `worker files folders` lists them all.")
    if stop.is_set():
        return INTERRUPTED
    return int(any(each.result is None or each.result.problem for each in found))


def _as_json(scanned: FolderScan) -> dict[str, Any]:
    """Return a scan; all figures are null if another host scans the folder now."""
    result = scanned.result
    fields: dict[str, Any] = dict.fromkeys(ScanResult.__annotations__)
    if result:
        fields = asdict(result) | {"problem": str(result.problem) if result.problem else None}
    return {"folder": scanned.folder.name} | fields


def remove(name: FolderToRemove, yes: AgreeToRemove = False) -> None:
    """Remove a folder from the searches. Its files themselves stay."""
    with open_database(load_settings()) as queue:
        folder = files.find_folder(queue, name)
        if not yes:
            _agree_to_remove(folder, sum(1 for _ in queue.known_files(folder)))
        removed = files.remove_folder(queue, folder)
    out(f"Removed: {printable(folder.name)} with {counted(removed, 'file')}")


def _agree_to_remove(folder: Folder, known: int) -> None:
    """Raises SettingsError unless the person agrees."""
    goes = f"{printable(folder.name)} with {counted(known, 'file')}, their texts and their vectors"
    if not confirmed(f"{goes} will be removed from the database. Continue?"):
        raise SettingsError(
            f"{goes} would be removed from the database, so nothing was changed",
            "Add --yes to agree. The files themselves stay.",
        )
