"""A SIGTERM ends a command from its first moment on, also in a container, where it is PID 1.

The kernel ignores a signal for PID 1 of a namespace, unless the process has a handler for it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IN_CI, REPOSITORY, eventually

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child")
STALLED = "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(60)\n"


def namespaces_are_here() -> bool:
    try:
        return (
            subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


@pytest.fixture(params=[(), NAMESPACE], ids=["process", "PID 1"])
def started_by(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What the command line begins with."""
    if request.param and not namespaces_are_here() and not IN_CI:
        pytest.skip("this machine does not let us create a PID namespace")
    prefix: tuple[str, ...] = request.param
    return prefix


class Started:
    """A real process of the command line, in `folder`."""

    def __init__(self, prefix: tuple[str, ...], folder: Path, **environment: str) -> None:
        self._is_inside = bool(prefix)
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "worker", "run"],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def terminate(self) -> tuple[int, str]:
        """Send SIGTERM, once. Returns the exit code, and all that was printed."""
        pid = self._process.pid
        if self._is_inside:
            [pid] = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(pid, signal.SIGTERM)
        printed, _ = self._process.communicate(timeout=20)
        return self._process.returncode, printed


@pytest.fixture
def silent_database() -> Iterator[socket.socket]:
    """A server that lets clients connect, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


def test_a_command_that_is_still_imported_ends(started_by: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text(STALLED)
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    command = Started(started_by, tmp_path, PYTHONPATH=path)
    try:
        eventually((tmp_path / "importing").exists, 30)
        assert command.terminate() == (130, "")
    finally:
        command.end()


def test_a_command_that_does_not_handle_signals_yet_ends(
    started_by: tuple[str, ...], tmp_path: Path, silent_database: socket.socket
) -> None:
    port = silent_database.getsockname()[1]
    command = Started(
        started_by,
        tmp_path,
        DATABASE_URL=f"postgresql://nobody@127.0.0.1:{port}/nothing",
        EMBEDDING_MODEL="local:wordllama-256",
    )
    try:
        with silent_database.accept()[0]:
            assert command.terminate() == (130, "")
    finally:
        command.end()
