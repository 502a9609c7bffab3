"""Documents and queries reach each vendor with their role, whichever way a person takes."""

from __future__ import annotations

from typing import Any

import pytest

import worker as api
from tests.bedrock_server import COHERE, BedrockServer
from tests.conftest import Database, rest_in_full
from tests.vendor_server import VENDORS, VendorServer
from worker.settings import Settings

WITH_ROLES = [name for name, vendor in VENDORS.items() if vendor.roles]


def go_every_way(db: Database, database_url: str, model: str, **settings: Any) -> None:
    """Embed a document, and a query by each way of the Python API."""
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute("insert into notes values (1, 'a note')")
    given = Settings(database_url=database_url, embedding_model=model, **settings)
    with api.open_database(given) as queue:
        api.watch(queue, given, "notes", "embedding", source="body", create_column=True)
        api.backfill(queue, table="notes")
        assert api.process(queue, given).stats.completed == 1
        [found] = api.search(queue, given, "some words")
        assert found.record_id == "1"
        api.embed_query(queue, given, "some words")


@pytest.mark.parametrize("name", rest_in_full(WITH_ROLES, first=2))
def test_a_vendor_is_told_what_is_a_document_and_what_is_a_query(
    db: Database, database_url: str, name: str
) -> None:
    with VendorServer(name) as server:
        key = {f"{name}_api_key": server.key, f"{name}_base_url": server.base_url}
        go_every_way(db, database_url, f"{name}:{server.vendor.model}", **key)
        sent = list(zip(server.sent, server.roles, strict=True))
    words = {str(role).lower().rpartition("_")[2].rpartition(".")[2] for _, role in sent}
    assert words in ({"document", "query"}, {"passage", "query"})
    for texts, role in sent:
        assert ("query" in str(role).lower()) == (texts == ["some words"])


def test_bedrock_is_told_as_well(
    db: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BedrockServer() as server:
        for variable, text in server.environment.items():
            monkeypatch.setenv(variable, text)
        go_every_way(db, database_url, f"bedrock:{COHERE}")
        for request in server.requests:
            is_query = request.body["input_type"] == "search_query"
            assert is_query == (request.texts == ["some words"])
        assert len({request.body["input_type"] for request in server.requests}) == 2
