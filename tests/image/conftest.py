"""The image that `scripts/test-image` has built, and the ways to run it as it should be run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from uuid import uuid4

import pytest

from tests.acceptance.conftest import held as held
from tests.acceptance.conftest import openai as openai
from tests.conftest import Server
from tests.documentation import blocks
from tests.tcp_proxy import TcpProxy

ENGINE = os.environ.get("TEST_ENGINE", "")  # docker or podman
IMAGE = os.environ.get("TEST_IMAGE", "")
FULL_IMAGE = os.environ.get("TEST_FULL_IMAGE", "")
collect_ignore_glob = [] if IMAGE else ["test_*.py"]

CONFINED = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"]
if ENGINE == "podman":
    CONFINED.append("--read-only-tmpfs=false")  # as with Docker, nothing can be written

# The worker pauses on a busy host, as that of the tests may be.
ON_A_BUSY_HOST = ["WORKER_MAX_LOAD=1000", "WORKER_MAX_CPU_PRESSURE=100"]

Completed = subprocess.CompletedProcess[str]
Run = Callable[..., Completed]


def engine(*arguments: str, timeout: float = 120) -> Completed:
    """`docker ARGUMENTS`, or the same of podman."""
    return subprocess.run(
        [ENGINE, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


def lines_of(section: str) -> list[str]:
    """The commands in a section of docs/deployment.md."""
    [block] = blocks("docs/deployment.md", section)
    return [step.command for step in block.steps()]


class Container:
    """A container in the background, by its name. It is removed at the end of `with`."""

    def __init__(self, *options: str) -> None:
        self.name = f"embedding-worker-{uuid4().hex[:12]}"
        started = engine("run", "--detach", f"--name={self.name}", *options)
        assert started.returncode == 0, started.stderr

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        engine("kill", self.name)
        engine("rm", "--force", self.name)

    def send(self, signal: str) -> None:
        assert engine("kill", f"--signal={signal}", self.name).returncode == 0

    def stop(self) -> None:
        """Send what the image names as its signal, and after a minute SIGKILL."""
        assert engine("stop", "-t=60", self.name).returncode == 0

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        return int(engine("wait", self.name).stdout)

    def log(self) -> str:
        result = engine("logs", self.name)
        return result.stdout + result.stderr

    def python(self, code: str) -> Completed:
        """Run Python in it."""
        return engine("exec", self.name, "python3", "-c", code)


@pytest.fixture
def container_url(server: Server, empty_database: str) -> Iterator[str]:
    """The URL of an empty database, for a container that has the network of this host."""
    with TcpProxy(server.url_of(empty_database)) as proxy:
        yield proxy.url


@pytest.fixture
def run(container_url: str) -> Run:
    """Runs a command of the image on that database, and returns its result."""

    def run(
        *arguments: str, image: str = IMAGE, more: Sequence[str] = (), **environment: str
    ) -> Completed:
        settings = options(DATABASE_URL=container_url, **environment)
        return engine("run", "--rm", *settings, *more, image, *arguments)

    return run


def options(**environment: str) -> list[str]:
    """The options of a confined container on the network of this host."""
    return [*CONFINED, "--network=host", *(f"--env={n}={v}" for n, v in environment.items())]
