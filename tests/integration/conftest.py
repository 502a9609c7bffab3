"""What the tests of whole runs share, with those of the command line."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import held as held
from tests.acceptance.conftest import openai as openai
from tests.acceptance.conftest import with_openai as with_openai
from tests.conftest import Database
from tests.integration.runs import Runs
from tests.openai_server import OpenAIServer
from worker.queue import AdminQueue


@pytest.fixture
def runs(queue: AdminQueue, openai: OpenAIServer) -> Runs:
    return Runs(queue, openai)


@pytest.fixture
def manuals(db: Database) -> Database:
    """A database with a table `docs` of two rows, whose texts are watched in chunks."""
    db.execute("create table docs (id bigint primary key, title text, body text)")
    db.execute("insert into docs values (1, 'First', 'one two one'), (2, null, 'one')")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3, chunks => true,"
        " context => 'title')"
    )
    return db


@pytest.fixture
def texts(with_texts: None, db: Database) -> Database:
    """A watched table `docs (id, body, embedding vector(8))` without rows, and its connection."""
    return db
