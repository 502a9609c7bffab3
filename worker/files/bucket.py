"""The files of a bucket: of S3, of Supabase Storage, or of another server that speaks S3."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from worker.errors import SettingsError
from worker.files.patterns import Patterns
from worker.files.sources import FolderUnavailable, SeenFile, SkippedFile
from worker.queue import FolderKind, KnownFile
from worker.settings import Settings

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
PIECE = 2**20  # bytes that are in memory while a file is fetched
NO_ETAG = "@"  # begins a stamp that does not tell the bytes

WHICH_KEY = (
    "Set FILES_S3_ACCESS_KEY_ID and FILES_S3_SECRET_ACCESS_KEY, or what the tools of AWS read; of"
    " Supabase Storage: Project Settings, Storage, S3 access keys."
)
CURES = {
    "NoSuchBucket": ("there is no such bucket", "Check its name and FILES_S3_ENDPOINT."),
    "AccessDenied": (
        "the key may not read this bucket",
        "Let it list the bucket and get its objects: s3:ListBucket, s3:GetObject.",
    ),
    "InvalidAccessKeyId": ("the server does not know the access key", WHICH_KEY),
    "SignatureDoesNotMatch": (
        "the server refuses the signature",
        "Check FILES_S3_SECRET_ACCESS_KEY and FILES_S3_REGION.",
    ),
    "ExpiredToken": ("the credentials have expired", WHICH_KEY),
    "NoCredentialsError": ("there are no credentials", WHICH_KEY),
    "PartialCredentialsError": ("the credentials are not complete", WHICH_KEY),
    "NoRegionError": ("there is no region", "Set FILES_S3_REGION."),
}
UNKNOWN = "Check FILES_S3_ENDPOINT and the network."


class Bucket:
    """A Source: the objects below a prefix. Their ETag and size tell their bytes."""

    def __init__(self, location: str, patterns: Patterns, client: Any) -> None:
        self._bucket, _, prefix = location.partition("/")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._patterns = patterns
        self._client = client

    def list(self) -> Iterator[SeenFile | SkippedFile]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        try:
            for page in pages:
                yield from filter(None, map(self._seen, page.get("Contents", ())))
        except _errors() as problem:
            raise FolderUnavailable(*_words(problem)) from None

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
            except _errors() as problem:
                raise OSError(errno.EIO, _words(problem)[0]) from None
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
        except _errors() as problem:
            if _code(problem) in ("404", "NoSuchKey", "NotFound"):
                return None
            raise OSError(errno.EIO, _words(problem)[0]) from None
        return _stamp(head, "ContentLength")

    def signature(self, file: SeenFile) -> str | None:
        return None if file.stamp.startswith(NO_ETAG) else file.stamp

    def known_signature(self, file: KnownFile) -> str | None:
        return None if file.stamp.startswith(NO_ETAG) else file.stamp


def open_client(kind: FolderKind, settings: Settings) -> Any:
    """Return a client for the buckets of this kind. Connects to nothing yet.

    Raises SettingsError if boto3 is not installed, or a setting is missing.
    """
    if find_spec("boto3") is None:
        raise SettingsError(
            "buckets need boto3, which is not installed", "pip install 'embedding-worker[s3]'"
        )
    import boto3
    from botocore.config import Config

    endpoint = _storage_endpoint(settings) if kind == "storage" else settings.files_s3_endpoint
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.files_s3_region,
            aws_access_key_id=settings.files_s3_access_key_id,
            aws_secret_access_key=settings.files_s3_secret_access_key,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUT,
                retries={"mode": "standard", "max_attempts": 3},
                s3={"addressing_style": "path"} if endpoint else None,
            ),
        )
    except _errors() as problem:
        raise SettingsError(*_words(problem)) from None


def _storage_endpoint(settings: Settings) -> str:
    """Return the address of Supabase Storage for S3. Raises SettingsError if a setting is missing,
    because the tools of AWS would use their own."""
    endpoint = settings.files_s3_endpoint or (
        settings.supabase_url and f"{settings.supabase_url}/storage/v1/s3"
    )
    needed = {
        "FILES_S3_ENDPOINT": endpoint,
        "FILES_S3_REGION": settings.files_s3_region,
        "FILES_S3_ACCESS_KEY_ID": settings.files_s3_access_key_id,
        "FILES_S3_SECRET_ACCESS_KEY": settings.files_s3_secret_access_key,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing or not endpoint:
        raise SettingsError(
            f"{', '.join(missing)} not set, but a folder is in Supabase Storage",
            "Copy them from the project: Storage, Settings, S3 connection.",
        )
    return endpoint


def _stamp(found: dict[str, Any], size: str) -> str:
    etag = str(found.get("ETag") or "").strip('"')
    return f"{etag or NO_ETAG + str(found.get('LastModified'))}-{found[size]}"


def _errors() -> tuple[type[Exception], ...]:
    """The errors of the client, which takes a while to import."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError, ValueError  # which an endpoint that is no URL raises


def _code(problem: Exception) -> str:
    response: dict[str, Any] = getattr(problem, "response", {})
    return str(response.get("Error", {}).get("Code") or type(problem).__name__)


def _words(problem: Exception) -> tuple[str, str]:
    """Return the cause and the cure of an error. What the server says may repeat a key."""
    code = _code(problem)
    if code in ("403", "AllAccessDisabled"):
        code = "AccessDenied"
    cause, cure = CURES.get(code, (f"the bucket cannot be reached: {code}", UNKNOWN))
    return cause, cure
