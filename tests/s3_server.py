"""moto, a server that speaks S3 and was written without this worker in mind.

    with s3_server() as server:
        server.client().create_bucket(Bucket="shelf")

It lists three objects a page, and takes any key until it is told to check them.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.settings import Settings

PYTHON = Path(__file__).parents[1] / ".parts/moto/bin/python"
START_SECONDS = 60
NO_MOTO = "there is no moto: see scripts/setup-parts"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "a-secret-that-nobody-may-see"


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    url: str

    @property
    def settings(self) -> Settings:
        return Settings(
            s3_endpoint=self.url,
            s3_region="eu-central-1",
            s3_access_key_id=KEY,
            s3_secret_access_key=SECRET,
        )

    def client(self) -> Any:
        import boto3  # which takes a while

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def check_keys(self) -> None:
        """From now on refuse keys that nobody has made."""
        self._post("reset-auth", "0")

    def reset(self) -> None:
        """Delete all buckets, and take any key."""
        self._post("reset-auth", str(10**9))
        self._post("reset", "")

    def _post(self, path: str, body: str) -> None:
        request = urllib.request.Request(
            f"{self.url}/moto-api/{path}", body.encode(), {"Content-Type": "text/plain"}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass


def moto_is_here() -> bool:
    return PYTHON.exists()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Yield one on a port of its own. Stopped on leaving."""
    assert moto_is_here(), NO_MOTO
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "moto.server", "-p", "0"],
            env={"MOTO_S3_DEFAULT_MAX_KEYS": "3"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield S3Server(_address(process, Path(log.name)))
        finally:
            process.kill()  # it has nothing to lose
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while True:
        said = log.read_text(errors="replace")
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", said):
            return found[1]
        assert process.poll() is None, said
        assert time.monotonic() < end, said
        time.sleep(0.05)
