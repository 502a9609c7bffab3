"""Clients for buckets: of S3, of Supabase Storage, or of another server that speaks S3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, get_args

from worker.errors import SettingsError
from worker.settings import Settings

BucketKind = Literal["s3", "storage"]

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
READING = ("s3:ListBucket", "s3:GetObject")
"""The rights of a key that reads."""

WHICH_KEY = (
    "Set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, or what the tools of AWS read; of"
    " Supabase Storage: Project Settings, Storage, S3 access keys."
)
CURES = {
    "NoSuchBucket": ("there is no such bucket", "Check its name and S3_ENDPOINT."),
    "InvalidAccessKeyId": ("the server does not know the access key", WHICH_KEY),
    "SignatureDoesNotMatch": (
        "the server refuses the signature",
        "Check S3_SECRET_ACCESS_KEY and S3_REGION.",
    ),
    "ExpiredToken": ("the credentials have expired", WHICH_KEY),
    "NoCredentialsError": ("there are no credentials", WHICH_KEY),
    "PartialCredentialsError": ("the credentials are not complete", WHICH_KEY),
    "NoRegionError": ("there is no region", "Set S3_REGION."),
}
UNKNOWN = "Check S3_ENDPOINT and the network."
_OF_OTHER_SERVERS: Mapping[str, Any] = {
    "s3": {"addressing_style": "path"},
    # Otherwise each upload has headers of AWS, which other servers refuse.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
REFUSED = ("AccessDenied", "403", "AllAccessDisabled")
MISSING = ("404", "NoSuchKey", "NotFound")


def parse_url(given: str) -> tuple[BucketKind, str] | None:
    """Return the kind of a bucket, and `bucket/prefix`. None: this is no URL of a bucket."""
    scheme, _, rest = given.partition("://")
    for kind in get_args(BucketKind):
        if scheme == kind and re.fullmatch(r"[\w.-]+(/[^\0]*)?", rest):
            return kind, rest.rstrip("/")
    return None


def split_location(location: str) -> tuple[str, str]:
    """Return the bucket of `bucket/prefix`, and what the keys below the prefix begin with."""
    bucket, _, prefix = location.partition("/")
    return bucket, f"{prefix.rstrip('/')}/" if prefix else ""


def open_client(kind: BucketKind, settings: Settings) -> Any:
    """Return a client for the buckets of this kind. Connects to nothing yet.

    Raises SettingsError if boto3 is not installed, or a setting is missing.
    """
    if find_spec("boto3") is None:
        raise SettingsError(
            "buckets need boto3, which is not installed", "pip install 'embedding-worker[s3]'"
        )
    import boto3
    from botocore.config import Config

    endpoint = _storage_endpoint(settings) if kind == "storage" else settings.s3_endpoint
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint,
            region_name=settings.s3_region,
            aws_access_key_id=settings.s3_access_key_id,
            aws_secret_access_key=settings.s3_secret_access_key,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUT,
                retries={"mode": "standard", "max_attempts": 3},
                **(_OF_OTHER_SERVERS if endpoint else {}),
            ),
        )
    except client_errors() as problem:
        raise SettingsError(*explained(problem)) from None


def client_errors() -> tuple[type[Exception], ...]:
    """The errors of a client, which takes a while to import."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    # An endpoint that is no URL raises a ValueError.
    return Boto3Error, BotoCoreError, ClientError, ValueError


def is_missing(problem: Exception) -> bool:
    """Whether there is no such object."""
    return _code(problem) in MISSING


def explained(problem: Exception, rights: tuple[str, ...] = READING) -> tuple[str, str]:
    """Return the cause and the cure of an error. What the server says may repeat a key.

    `rights`: those that a key needs.
    """
    code = _code(problem)
    if code in REFUSED:
        return "the key may not use this bucket", f"Allow it {', '.join(rights)}."
    cause, cure = CURES.get(code, (f"the bucket cannot be reached: {code}", UNKNOWN))
    return cause, cure


def _code(problem: BaseException) -> str:
    from boto3.exceptions import Boto3Error

    if isinstance(problem, Boto3Error) and problem.__context__:  # of a transfer, after the client's
        return _code(problem.__context__)
    response: dict[str, Any] = getattr(problem, "response", {})
    return str(response.get("Error", {}).get("Code") or type(problem).__name__)


def _storage_endpoint(settings: Settings) -> str:
    """Return the address of Supabase Storage for S3. Raises SettingsError if a setting is missing,
    because the tools of AWS would use their own."""
    endpoint = settings.s3_endpoint or (
        settings.supabase_url and f"{settings.supabase_url}/storage/v1/s3"
    )
    needed = {
        "S3_ENDPOINT": endpoint,
        "S3_REGION": settings.s3_region,
        "S3_ACCESS_KEY_ID": settings.s3_access_key_id,
        "S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing or not endpoint:
        raise SettingsError(
            f"{', '.join(missing)} not set, but storage:// is a bucket of Supabase Storage",
            "Copy them from the project: Storage, Settings, S3 connection.",
        )
    return endpoint
