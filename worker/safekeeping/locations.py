"""Where backups are, as people write it: `backups`, `s3://bucket/prefix`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.buckets import BucketKind, open_client, parse_url
from worker.errors import SettingsError
from worker.safekeeping.bucket import Bucket
from worker.safekeeping.directory import Directory
from worker.safekeeping.storage import Storage
from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Destination:
    """The path of a directory, or `bucket/prefix`. Its string is what the database calls it."""

    kind: Literal["directory"] | BucketKind
    location: str

    def __str__(self) -> str:
        return self.location if self.kind == "directory" else f"{self.kind}://{self.location}"


def parse_destination(given: str) -> Destination:
    """Parse a path, or the URL of a bucket. Raises SettingsError."""
    if bucket := parse_url(given):
        return Destination(*bucket)
    if "://" in given or not given.strip() or "\0" in given:
        shown = re.sub("//.*@", "//…@", given, flags=re.DOTALL)  # it may have a password
        raise SettingsError(
            f"not a destination for backups: {shown or repr(given)}",
            "Give the path of a directory, s3://BUCKET/PREFIX or storage://BUCKET/PREFIX.",
        )
    return Destination("directory", os.path.abspath(os.path.expanduser(given)))


def destination_of(settings: Settings, given: str | None = None) -> Destination:
    """Return where backups are: `given`, or what the settings say. Raises SettingsError."""
    return parse_destination(settings.backup_to if given is None else given)


def open_storage(destination: Destination, settings: Settings) -> Storage:
    """Return what is at a destination. Raises SettingsError if a setting is missing."""
    if destination.kind == "directory":
        return Directory(Path(destination.location))
    return Bucket(destination.location, open_client(destination.kind, settings))
