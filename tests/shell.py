"""A shell for what the documentation says to type, in which `worker` starts at once.

`worker` is a small program there. It hands its arguments, its environment and its streams to this
process, which runs them as tests/command_line.py does.
"""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread

from tests.command_line import fork_server, run_here

WORKER = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b" "], [0, 1, 2])
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
    server.sendall(asked.encode() + b"\\n")
    sys.exit(int(server.recv(8) or b"1"))
"""
COMMAND = 'set -euo pipefail; trap \'env -0 >"$0"\' EXIT; eval "$1"'


class Shell:
    """Runs commands in a folder, one after the other, with the variables that the last one left."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="shell-")
        programs = Path(self._home.name)
        self._address = str(programs / "socket")
        (programs / "worker").write_text(
            WORKER.format(python=sys.executable, address=self._address)
        )
        (programs / "worker").chmod(0o755)
        self.environment = {
            "HOME": str(folder),
            "PWD": str(folder),
            **environment,
            "PATH": f"{programs}:{environment.get('PATH') or os.environ['PATH']}",
        }
        self._started: list[BaseProcess] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self._address)
        self._server.listen()

    def __enter__(self) -> Shell:
        Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what still runs in the background."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for process in self._started:
            process.terminate()
            process.join()
        self._home.cleanup()

    def run(
        self, command: str, timeout: float = 60, answer: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """What a command prints. Raises subprocess.TimeoutExpired.

        With an answer, it has a terminal, at which this is typed.
        """
        left = Path(self._home.name, "environment")
        with (
            tempfile.TemporaryFile("w+") as stdout,
            tempfile.TemporaryFile("w+") as stderr,
            _typed(answer) as stdin,
        ):
            done = subprocess.run(
                ["bash", "-c", COMMAND, str(left), command],
                cwd=self.environment["PWD"],
                env=self.environment,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                timeout=timeout,
                check=False,
            )
            stdout.seek(0)
            stderr.seek(0)
            variables = left.read_text().split("\0")[:-1]
            self.environment = dict(variable.split("=", 1) for variable in variables)
            return subprocess.CompletedProcess(
                command, done.returncode, stdout.read(), stderr.read()
            )

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                Thread(target=self._run, args=[self._server.accept()[0]], daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        with client:
            _, streams, *_ = socket.recv_fds(client, 1, 3)
            asked = client.makefile().readline()
            stdin, stdout, stderr = (Connection(stream) for stream in streams)
            process = fork_server().Process(
                target=run_here, args=(*json.loads(asked), stdout, stderr, stdin)
            )
            process.start()
            self._started.append(process)
            for stream in (stdin, stdout, stderr):
                stream.close()
            wait([process.sentinel, client])
            if process.exitcode is None:
                process.terminate()  # the shell has killed what stands for it
            process.join()
            code = process.exitcode or 0
            with suppress(OSError):  # the shell may have ended
                client.sendall(str(code if code >= 0 else 128 - code).encode())


@contextmanager
def _typed(answer: str | None) -> Iterator[int]:
    """What a command reads: a terminal at which this is typed, or nothing."""
    if answer is None:
        yield subprocess.DEVNULL
        return
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    try:
        yield terminal
    finally:
        os.close(terminal)
        os.close(keyboard)
