"""Folders, files and scans."""

from __future__ import annotations

from collections.abc import Sequence

from worker.cli.console import out, say
from worker.cli.render.tables import aligned, out_table, terminal_width
from worker.cli.render.text import ago
from worker.figures import counted
from worker.files.locations import location_of
from worker.files.scan import ScanResult
from worker.operations.files import FolderScan
from worker.queue import FileStatus, Folder
from worker.terminal import printable


def print_files(found: Sequence[FileStatus], *, is_full: bool) -> None:
    """Print a line for each file: where it is, its state, and why it is not searchable.

    `is_full`: there may be more.
    """
    heads = ["path", "state", "pages", "reason"]
    for line in aligned(heads, [_cells(file) for file in found], terminal_width()):
        out(line)
    if is_full:
        say("There may be more: --limit shows up to 1000.")


def _cells(file: FileStatus) -> tuple[object, ...]:
    return f"{file.folder}/{file.path}", file.state, file.pages, _reason(file)


def _reason(file: FileStatus) -> str | None:
    """Why a file is not searchable, or what a worker waits for."""
    if file.error_message is None:
        return None
    return f"{file.error_class}: {file.error_message}" if file.error_class else file.error_message


def print_folders(found: Sequence[Folder]) -> None:
    """Print a line for each folder, and below them what is wrong."""
    out_table(
        ["name", "location", "hosts", "files", "skipped", "scanned"],
        [
            (
                folder.name,
                location_of(folder),
                ", ".join(folder.hosts) or None,
                folder.files,
                _skipped(folder.skipped),
                ago(folder.scanned_at) if folder.scanned_at else None,
            )
            for folder in found
        ],
    )
    for folder in found:
        if folder.problem:
            say(f"{printable(folder.name)}: nothing of it is deleted: {folder.problem}")


def print_scan(scanned: FolderScan) -> None:
    """Print what a scan found."""
    name = printable(scanned.folder.name)
    if scanned.result is None:
        say(f"{name}: another host scans it now")
        return
    out(f"{name}: {', '.join(_parts(scanned.result))}")
    if scanned.result.problem:
        say(f"{name}: nothing of it is deleted: {scanned.result.problem}")


def _parts(result: ScanResult) -> list[str]:
    counts = {
        "new": result.new,
        "changed": result.changed,
        "renamed": result.renamed,
        "missing": result.missing,
        "deleted": result.deleted,
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    skipped = _skipped(result.skipped)
    return [
        counted(result.files, "file"),
        *(parts or ["nothing has changed"]),
        *([f"skipped: {skipped}"] if skipped else []),
        f"{result.seconds:.1f} s",
    ]


def _skipped(skipped: dict[str, int]) -> str | None:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or None
