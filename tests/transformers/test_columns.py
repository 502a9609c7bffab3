"""A column with a transformer of this process, from its text to a search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import worker as api
from tests.acceptance.test_providers import TRANSFORMERS
from tests.conftest import Database, Worker, rows
from tests.hub_server import HubServer
from worker.errors import SettingsError
from worker.settings import Settings

LONG = "A sentence about refunds. " * 100


@pytest.fixture
def notes(db: Database) -> Database:
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute(
        "insert into notes values (1, 'How to get a refund'), (2, 'Rain in the mountains'),"
        " (3, %s)",
        [LONG],
    )
    return db


def test_a_column_is_embedded_and_found(notes: Database, database_url: str, folder: Path) -> None:
    settings = Settings(
        database_url=database_url, embedding_model=f"sentence-transformers:{folder}"
    )
    with api.open_database(settings) as queue:
        api.watch(queue, settings, "notes", "embedding", source="body", create_column=True)
        api.backfill(queue)
        result = api.process(queue, settings)
        assert (result.stats.completed, result.stats.failed) == (2, 1)
        [found] = api.search(queue, settings, "I want my money back", table="notes", limit=1)
        assert found.content == "How to get a refund"
        [(error_class, message)] = rows(
            notes, "select error_class, error_message from embedding_queue where status = 'failed'"
        )
        assert error_class == "too_long"
        assert "takes 254 tokens, and the text has 600" in message
        api.watch(queue, settings, "notes", "embedding", options={"on_too_long": "truncate"})
        notes.execute("update embedding_queue set status = 'pending' where status = 'failed'")
        api.process(queue, settings)
    assert rows(
        notes,
        "select body = %s, truncated_to > 900 from notes"
        " join embedding_queue on notes.id::text = record_id"
        " where status = 'completed' order by notes.id",
        LONG,
    ) == [(False, None), (False, None), (True, True)]


def test_the_recipe_works_as_it_is_written(
    notes: Database, folder: Path, worker: Worker, tmp_path: Path
) -> None:
    [model] = re.findall(r"^EMBEDDING_MODEL=(.*)$", TRANSFORMERS, re.M)
    [line] = re.findall(r"^\$ worker (watch .*)$", TRANSFORMERS, re.M)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    with HubServer(files, "sentence-transformers/all-MiniLM-L6-v2") as hub:
        environment = {
            "EMBEDDING_MODEL": model,
            "HF_ENDPOINT": hub.root,
            "HF_HOME": str(tmp_path / "cache"),
        }
        watched = worker(*line.split(), **environment)
        assert hub.downloaded.count("model.safetensors") == 1
    assert watched.stdout.splitlines()[0] in TRANSFORMERS
    notes.execute("update notes set body = body || '!' where id < 3")
    processed = worker("process", **environment)  # without the hub
    for ended in (watched, processed):
        assert ended.returncode == 0, ended.stderr
        assert not re.search(r"warning|loading|downloading|it/s", ended.stderr, re.I)
    assert rows(notes, "select distinct model from embedding_queue") == [(model,)]


def test_a_model_that_only_the_database_names_is_not_loaded(
    notes: Database, database_url: str, folder: Path
) -> None:
    settings = Settings(database_url=database_url)
    notes.execute("alter table notes add embedding vector(384)")
    notes.execute(
        "select watch_embeddings('notes', 'body', 'embedding', model => %s)",
        [f"sentence-transformers:{folder}"],
    )
    with api.open_database(settings) as queue:
        api.backfill(queue)
        with pytest.raises(SettingsError, match="the environment does not name"):
            api.process(queue, settings)
    assert rows(notes, "select distinct status from embedding_queue") == [("pending",)]
