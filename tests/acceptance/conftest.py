"""What the tests of the command line share: text to embed, a model's server, running processes."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest

from tests.command_line import Command
from tests.conftest import REPOSITORY, Database, rows
from tests.ollama_server import OllamaServer
from tests.openai_server import Answer, OpenAIServer
from tests.shell import Shell

MODEL = "openai:text-embedding-3-small"
WIDTH = 8

Start = Callable[..., Command]
Completed = subprocess.CompletedProcess[str]


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def with_openai(openai: OpenAIServer) -> dict[str, str]:
    """The environment that makes the stand-in the model of all columns that name none."""
    return {
        "EMBEDDING_MODEL": MODEL,
        "OPENAI_API_KEY": openai.api_key,
        "OPENAI_BASE_URL": openai.base_url,
    }


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.fixture
def shell(
    database_url: str, with_openai: dict[str, str], ollama: OllamaServer, tmp_path: Path
) -> Iterator[Shell]:
    """A shell for what a page says to type, in which stand-ins are the servers of models."""
    if not shutil.which("bash"):
        pytest.skip("the pages need bash")
    unhurried = {"WORKER_MAX_LOAD": "1000", "WORKER_MAX_CPU_PRESSURE": "100"}  # by other tests
    servers = {"DATABASE_URL": database_url, "OLLAMA_HOST": ollama.root, **with_openai}
    with Shell(tmp_path, servers | unhurried) as shell:
        yield shell


@pytest.fixture
def notes(with_notes: None, db: Database) -> Database:
    """A watched table `notes (id bigint, body, embedding vector(8))`, and its connection."""
    return db


@pytest.fixture
def local_notes(with_local_notes: None, db: Database) -> Database:
    """The same at the width of the local model."""
    return db


def fill(notes: Database, count: int) -> None:
    """Rows 1 to `count` with different texts."""
    notes.execute(
        "insert into notes select id, 'note number ' || id from generate_series(1, %s) as id",
        [count],
    )


def statuses(db: Database) -> dict[str, int]:
    """How many jobs are in each status."""
    return dict(rows(db, "select status, count(*) from embedding_queue group by status"))


def refused(result: Completed, code: int) -> tuple[str, str]:
    """The cause and the hint that a command ended with: one line each, and nothing else."""
    assert "Traceback" not in result.stderr + result.stdout
    assert result.returncode == code, result.stderr
    lines = result.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["error", "hint"], result.stderr
    cause, hint = (line.split(": ", 1)[1] for line in lines)
    return cause, hint


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts the command line on the database of this test, and does not wait for it."""
    with ExitStack() as started:

        def start(*arguments: str, stderr: int | None = None, **environment: str) -> Command:
            known = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url}
            return started.enter_context(Command(arguments, tmp_path, known | environment, stderr))

        yield start


Ask = Callable[..., Completed]


@pytest.fixture
def ask(database_url: str, tmp_path: Path) -> Ask:
    """Runs the command line for somebody at a terminal, who answers what it asks."""

    def ask(answer: str, *arguments: str) -> Completed:
        controller, terminal = pty.openpty()
        os.write(controller, f"{answer}\n".encode())
        result = subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
            | {"DATABASE_URL": database_url},
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(terminal)
        os.close(controller)
        return result

    return ask


class Held:
    """A fault of the stand-in: its answer waits until it is let go."""

    def __init__(self) -> None:
        self.arrived = Event()
        self.let_go = Event()

    def __call__(self, due: Answer) -> Answer:
        self.arrived.set()
        self.let_go.wait(60)
        return due


@pytest.fixture
def held(openai: OpenAIServer) -> Iterator[Held]:
    """The first answer of the stand-in is held back."""
    fault = Held()
    openai.faults.append(fault)
    yield fault
    fault.let_go.set()
