"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import Held
from tests.integration.runs import Runs
from tests.openai_server import OpenAIServer
from worker.queue.postgres import PostgresQueue


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def runs(queue: PostgresQueue, openai: OpenAIServer) -> Runs:
    return Runs(queue, openai)


@pytest.fixture
def held(openai: OpenAIServer) -> Iterator[Held]:
    """The first answer of the stand-in is held back."""
    fault = Held()
    openai.faults.append(fault)
    yield fault
    fault.let_go.set()
