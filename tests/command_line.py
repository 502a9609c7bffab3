"""The command line in a process of its own, as `python -m worker`, without its start of a second.

The processes are forked from one that has imported all commands already: all but the start of
Python is as in a real one. Tests about the start itself run `python -m worker`.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

from worker.cli.catalog import CATALOG

# What the commands import, at the start and later; the rest is found by these.
PRELOADED = [
    "worker.cli",
    *{f"worker.cli.commands.{entry.home.partition(':')[0]}" for entry in CATALOG.values()},
    "worker.cli.render.styled",
    "worker.embedders.http",
    "worker.embedders.local",
    "worker.embedders.ollama",
    "worker.embedders.openai",
    "worker.queue.data_api",
    "anyio._backends._asyncio",
    "httpcore2",
    "safetensors.numpy",
    "tokenizers",
    "tests.read_model",
]

# No test speaks TLS, and reading all certificates takes each client longer than its start.
NO_CERTIFICATES = {"SSL_CERT_DIR": os.devnull}


def run_command_line(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `worker ARGUMENTS` in a folder, with nothing in the environment but what is given.

    With PYTHONPATH among it, that is a Python of its own. Raises subprocess.TimeoutExpired, and
    kills the process, after `timeout` seconds.
    """
    if "PYTHONPATH" in environment:
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    result = run_for_bytes(arguments, folder, environment, timeout)
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
    )


def run_for_bytes(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run `worker ARGUMENTS` as above. Returns bytes: PYTHONIOENCODING names their encoding."""
    with Command(arguments, folder, environment) as command:
        stdout, stderr = command.read(timeout)
        return subprocess.CompletedProcess(["worker", *arguments], command.wait(), stdout, stderr)


class Command:
    """`worker ARGUMENTS` in a folder, as it runs: what of subprocess.Popen a test needs.

    Its stderr is a pipe, or the file of the descriptor `stderr`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        stderr: int | None = None,
    ) -> None:
        self._arguments = arguments
        out, out_of_command = fork_server().Pipe(duplex=False)
        err, err_of_command = fork_server().Pipe(duplex=False)
        if stderr is not None:
            err_of_command.close()
            err_of_command = Connection(os.dup(stderr), readable=False)
        self._process = fork_server().Process(
            target=run_here,
            args=(
                [*arguments],
                str(folder),
                dict(environment),
                out_of_command,
                err_of_command,
            ),
        )
        self._process.start()
        out_of_command.close()
        err_of_command.close()
        self.stdout, self.stderr = (
            open(os.dup(end.fileno()), encoding="utf-8")  # noqa: SIM115
            for end in (out, err)
        )
        out.close()
        err.close()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it, if it still runs."""
        self.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, -N after the signal N; None: it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["worker", *self._arguments], timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end. Returns the rest of stdout and of stderr."""
        stdout, stderr = self.read(timeout)
        return stdout.decode(), stderr.decode()

    def read(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Wait for its end, and kill it after `timeout` seconds. Returns stdout and stderr.

        The error of one that was killed has a note with its stderr, and where its threads were.
        """
        with ThreadPoolExecutor(2) as readers:
            out, err = (readers.submit(stream.buffer.read) for stream in (self.stdout, self.stderr))
            self._process.join(timeout)
            if self._process.exitcode is None:
                os.kill(self.pid, signal.SIGUSR1)
                self._process.join(1)
                self.kill()
                late = subprocess.TimeoutExpired(["worker", *self._arguments], timeout or 0)
                late.add_note(bytes(err.result()).decode(errors="replace"))
                raise late
            return bytes(out.result()), bytes(err.result())

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


@cache
def fork_server() -> ForkServerContext:
    """Starts processes that have imported the worker already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    return context


def run_here(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    stdout: Connection,
    stderr: Connection,
    stdin: Connection | None = None,
) -> None:
    """Run the command line in this process, a forked one, and end it."""
    for number, stream in enumerate((stdin, stdout, stderr)):
        if stream:
            os.dup2(stream.fileno(), number)
            stream.close()
    if stdin:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, file=2)  # says where it is, for Command.read
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(NO_CERTIFICATES | environment)
    gc.freeze()  # what was imported before the fork: collecting it would copy its memory
    sys.argv = ["worker", *arguments]

    from worker.cli import main

    main()
