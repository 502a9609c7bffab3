"""The files of a bucket: of S3, of Supabase Storage, or of another server that speaks S3."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from worker.buckets import client_errors, explained, is_missing, split_location
from worker.files.patterns import Patterns
from worker.files.sources import FolderUnavailable, SeenFile, SkippedFile
from worker.queue import KnownFile

PIECE = 2**20  # bytes that are in memory while a file is fetched
NO_ETAG = "@"  # begins a stamp that does not tell the bytes


class Bucket:
    """A Source: the objects below a prefix. Their ETag and size tell their bytes."""

    def __init__(self, location: str, patterns: Patterns, client: Any) -> None:
        self._bucket, self._prefix = split_location(location)
        self._patterns = patterns
        self._client = client

    def list(self) -> Iterator[SeenFile | SkippedFile]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        try:
            for page in pages:
                yield from filter(None, map(self._seen, page.get("Contents", ())))
        except client_errors() as problem:
            raise FolderUnavailable(*explained(problem)) from None

    def _seen(self, listed: dict[str, Any]) -> SeenFile | None:
        """Return a file; None: it is the mark of a folder, or no pattern fits it."""
        path = listed["Key"].removeprefix(self._prefix)
        if path.endswith("/") or not self._patterns.fit_with_folders(path):
            return None
        return SeenFile(path, listed["Size"], listed.get("LastModified"), _stamp(listed, "Size"))

    @contextmanager
    def local(self, path: str, size: int) -> Iterator[Path]:
        with TemporaryDirectory(prefix="embedding-worker-") as folder:
            local = Path(folder) / "file"
            try:
                self._fetch(path, size, local)
            except client_errors() as problem:
                raise OSError(errno.EIO, explained(problem)[0]) from None
            yield local

    def _fetch(self, path: str, size: int, local: Path) -> None:
        """Raises OSError if it is larger than it was."""
        left = size
        body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"]
        with body, local.open("wb") as opened:
            for piece in body.iter_chunks(PIECE):
                left -= len(piece)
                if left < 0:
                    raise OSError(errno.EFBIG, "it is larger than the last scan saw")
                opened.write(piece)

    def stamp(self, path: str) -> str | None:
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
        except client_errors() as problem:
            if is_missing(problem):
                return None
            raise OSError(errno.EIO, explained(problem)[0]) from None
        return _stamp(head, "ContentLength")

    def signature(self, file: SeenFile) -> str | None:
        return None if file.stamp.startswith(NO_ETAG) else file.stamp

    def known_signature(self, file: KnownFile) -> str | None:
        return None if file.stamp.startswith(NO_ETAG) else file.stamp


def _stamp(found: dict[str, Any], size: str) -> str:
    etag = str(found.get("ETag") or "").strip('"')
    return f"{etag or NO_ETAG + str(found.get('LastModified'))}-{found[size]}"
