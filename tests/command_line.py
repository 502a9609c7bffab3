"""The command line in a process of its own, as `python -m worker`, without its start of a second.

The processes are forked from one that has imported all commands already: all but the start of
Python is as in a real one. Tests about the start itself run `python -m worker`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
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
    "safetensors.numpy",
    "tokenizers",
]


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
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        streams = [f"/proc/{os.getpid()}/fd/{stream.fileno()}" for stream in (stdout, stderr)]
        process = _fork_server().Process(
            target=_command_line, args=(list(arguments), str(folder), dict(environment), *streams)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["worker", *arguments], timeout)
        for stream in (stdout, stderr):
            stream.seek(0)
        return subprocess.CompletedProcess(
            ["worker", *arguments], process.exitcode, stdout.read(), stderr.read()
        )


@cache
def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    return context


def _command_line(
    arguments: list[str], folder: str, environment: dict[str, str], stdout: str, stderr: str
) -> None:
    for number, path in ((1, stdout), (2, stderr)):
        stream = os.open(path, os.O_WRONLY)
        os.dup2(stream, number)
        os.close(stream)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["worker", *arguments]

    from worker.cli import main

    main()
