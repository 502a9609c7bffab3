"""What the tests of killed processes and lost connections share: how to see that all is well."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from threading import Condition
from typing import Any

import numpy as np
import pytest

from tests.acceptance.conftest import held as held
from tests.acceptance.conftest import notes as notes
from tests.acceptance.conftest import start as start
from tests.acceptance.conftest import with_openai as with_openai
from tests.command_line import Command
from tests.conftest import Database, rows, value
from tests.openai_server import Answer, OpenAIServer, Request, vector_for

Process = Command

PROGRESS = re.compile(r"\d+%: \d+ of \d+, .*\n")
ONE_OUTAGE = re.compile(r"waiting for the database: .+\nthe database is back after \d+ s\n")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have recorded of themselves."""
    for report in terminalreporter.getreports("passed"):
        for name, figures in report.user_properties:
            terminalreporter.write_line(f"{name}: {figures}")


class CountingServer(OpenAIServer):
    """The stand-in for the model's server, where a test can wait for what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = Condition()
        self._texts = 0

    def answer(self, request: Request) -> Answer | None:
        with self._arrived:
            self._texts += len(request.texts)
            self._arrived.notify_all()
        return super().answer(request)

    def wait_for_texts(self, count: int) -> None:
        """Wait until it was asked for so many texts, repetitions included."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._texts >= count, timeout=120)

    def times_asked(self) -> Counter[str]:
        """How often it was asked for each text."""
        return Counter(text for request in self.requests for text in request.texts)


@pytest.fixture
def openai() -> Iterator[CountingServer]:
    with CountingServer() as server:
        yield server


def ended(process: Process, code: int = 0) -> tuple[dict[str, Any], str]:
    """The summary of a worker, and what it said beside its progress; it ended with this code.

    The pipes are read to their ends by hand: `communicate` would miss what was read ahead for a
    test that looked at the first lines already.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    said = PROGRESS.sub("", process.stderr.read())
    summary = process.stdout.read()
    assert process.wait() == code, said
    return json.loads(summary), said


def next_words(process: Process) -> str:
    """The next line that the worker says, as soon as it says it."""
    assert process.stderr is not None
    while PROGRESS.fullmatch(line := process.stderr.readline()):
        pass
    return line


def wrong_vectors(notes: Database) -> list[int]:
    """The rows whose vector is not that of their text, or missing."""
    return [
        record
        for record, body, vector in rows(notes, "select id, body, embedding::real[] from notes")
        if vector is None or not np.allclose(vector, vector_for(body, len(vector)), atol=1e-6)
    ]


def wait_until_due(db: Database) -> None:
    """Wait until all that is unfinished is due: released, or its lease run out."""
    while (
        moment := value(
            db,
            "select max(coalesce(lease_expires_at, available_at)) from embedding_queue"
            " where status in ('pending', 'processing')"
            " and coalesce(lease_expires_at, available_at) > clock_timestamp()",
        )
    ) is not None:
        db.execute("select pg_sleep_until(%s)", [moment])
