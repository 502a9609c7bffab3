"""Where a folder is, as people write it: `~/handbook`, `s3://bucket/prefix`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from worker.buckets import open_client, parse_url
from worker.errors import SettingsError
from worker.files.bucket import Bucket
from worker.files.directory import Directory
from worker.files.patterns import Patterns
from worker.files.sources import Source
from worker.queue import Folder, FolderKind
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Location:
    """The path of a directory, or `bucket/prefix`."""

    kind: FolderKind
    location: str

    def __str__(self) -> str:
        return self.location if self.kind == "directory" else f"{self.kind}://{self.location}"

    @property
    def name(self) -> str:
        """What a folder there is called, unless it is given a name: its last part."""
        return PurePosixPath(self.location).name or self.location


def parse_location(given: str) -> Location:
    """Parse a path, or the URL of a bucket. Raises SettingsError."""
    if "://" not in given:
        return Location("directory", _path(given))
    if bucket := parse_url(given):
        return Location(*bucket)
    raise SettingsError(
        f"this is no folder: {given}",
        "Give the path of a directory, s3://BUCKET/PREFIX or storage://BUCKET/PREFIX.",
    )


def location_of(folder: Folder) -> Location:
    """Return where a folder is."""
    return Location(folder.kind, folder.location)


def open_source(folder: Folder, settings: Settings) -> Source:
    """Return the files of a folder. Raises SettingsError if a setting or a pattern is wrong."""
    patterns = Patterns(folder.include, folder.exclude)
    return source_at(location_of(folder), patterns, settings)


def source_at(location: Location, patterns: Patterns, settings: Settings) -> Source:
    """Return the files at a location. Raises SettingsError if a setting is wrong."""
    if location.kind == "directory":
        return Directory(Path(location.location), patterns)
    return Bucket(location.location, patterns, open_client(location.kind, settings))


def _path(given: str) -> str:
    path = os.path.abspath(os.path.expanduser(given)) if given else ""
    try:
        path.encode()
    except UnicodeEncodeError:
        path = ""
    if not path or "\0" in path:
        raise SettingsError(
            "the path of the folder is empty, or not UTF-8", "Give the path of a directory."
        )
    return path
