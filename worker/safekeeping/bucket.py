"""Backups in a bucket: of S3, of Supabase Storage, or of another server that speaks S3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from worker.buckets import READING, client_errors, explained, is_missing, split_location
from worker.errors import BackupError
from worker.safekeeping.storage import read_small, temporary_files_error

PIECE = 2**20  # bytes that are in memory while an object is fetched
UPLOADED_AT_ONCE = 2**23  # bytes: a larger file is uploaded, and tried again, in pieces of that
RIGHTS = (*READING, "s3:PutObject", "s3:DeleteObject")


class Bucket:
    """A Storage: the objects below a prefix. S3 shows an object when all of it has arrived."""

    def __init__(self, location: str, client: Any) -> None:
        self._bucket, self._prefix = split_location(location)
        self._client = client

    def names(self, prefix: str = "") -> Iterator[str]:
        with self._explained():
            for page in self._pages("list_objects_v2", prefix):
                for listed in page.get("Contents", ()):
                    yield listed["Key"].removeprefix(self._prefix)

    def put(self, name: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        pieces = TransferConfig(
            multipart_threshold=UPLOADED_AT_ONCE,
            multipart_chunksize=UPLOADED_AT_ONCE,
            max_concurrency=2,
        )
        with self._explained():
            self._client.upload_file(str(path), self._bucket, self._prefix + name, Config=pieces)

    def put_bytes(self, name: str, content: bytes) -> None:
        with self._explained():
            self._client.put_object(**self._at(name), Body=content)

    def read(self, name: str) -> bytes:
        with self._explained(name):
            answer = self._client.get_object(**self._at(name))
            with answer["Body"] as body:
                return read_small(body, name)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with TemporaryDirectory(prefix="embedding-worker-") as folder:
            local = Path(folder) / "object"
            with self._explained(name):
                body = self._client.get_object(**self._at(name))["Body"]
                with body, local.open("wb") as file:
                    for piece in body.iter_chunks(PIECE):
                        file.write(piece)
            yield local

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects one by one: a call for many has a checksum that not every server takes."""
        with self._explained():
            for name in names:
                self._client.delete_object(**self._at(name))

    def delete_unfinished(self, prefix: str) -> None:
        """Give up uploads, whose pieces are paid for. A key may lack the right to see them."""
        try:
            for page in self._pages("list_multipart_uploads", prefix):
                for upload in page.get("Uploads", ()):
                    which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._client.abort_multipart_upload(Bucket=self._bucket, **which)
        except client_errors():
            return

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    def _pages(self, call: str, prefix: str) -> Any:
        paginator = self._client.get_paginator(call)
        return paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)

    @contextmanager
    def _explained(self, name: str | None = None) -> Iterator[None]:
        """Turn the errors of the client into one line of cause and one of cure; that there is no
        object of this name into a FileNotFoundError."""
        try:
            yield
        except client_errors() as problem:
            if name is not None and is_missing(problem):
                raise FileNotFoundError(name) from None
            raise BackupError(*explained(problem, RIGHTS)) from None
        except OSError as error:  # of the file on this host
            raise temporary_files_error(error) from None
