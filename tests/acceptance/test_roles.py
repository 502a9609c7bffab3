"""Documents and queries reach the model in different words, whichever way a person takes."""

from __future__ import annotations

import json

import pytest

import worker as api
from tests.acceptance.conftest import fill
from tests.conftest import Database, Worker, rest_in_full, rows, value
from tests.openai_server import WIDTHS, OpenAIServer
from worker.embedders.prompts import known_prompts
from worker.settings import Settings

MODELS = [
    *("nomic-embed-text-v1.5", "e5-small-v2", "multilingual-e5-large-instruct", "embeddinggemma"),
    *("Qwen/Qwen3-Embedding", "bge-small-en-v1.5", "mxbai-embed-large-v1"),
    *("snowflake-arctic-embed-m", "snowflake-arctic-embed-l-v2.0"),
]
NOMIC = MODELS[0]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has these models too."""
    for model in MODELS:
        monkeypatch.setitem(WIDTHS, model, 8)


def sent(openai: OpenAIServer) -> list[str]:
    """The texts that the stand-in got since the last call, without probes."""
    texts = [text for request in openai.requests for text in request.texts]
    openai.requests.clear()
    return [text for text in texts if "note" in text or "words" in text]


@pytest.mark.parametrize("model", rest_in_full(MODELS, first=4))
def test_a_model_gets_documents_and_queries_as_it_was_trained_to(
    notes: Database, database_url: str, openai: OpenAIServer, model: str
) -> None:
    own = known_prompts(model)
    assert own.document != own.query
    fill(notes, 1)
    settings = Settings(
        database_url=database_url,
        embedding_model=f"openai:{model}",
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
    )
    with api.open_queue(settings) as queue:
        api.process(queue, settings)
        assert f"{own.document}note number 1" in sent(openai)
        [found] = api.search(queue, settings, "some words")
        assert sent(openai)[-1] == f"{own.query}some words"
        vector = api.embed_query(queue, settings, "some words")
        assert sent(openai)[-1] == f"{own.query}some words"
    assert value(notes, "select model from embedding_queue") == (
        f"openai:{model}#{own.document}" if own.document else f"openai:{model}"
    )
    [nearest] = rows(
        notes,
        "select 1 - distance from search_embeddings('notes', 'embedding', %s::vector)",
        json.dumps(vector),
    )
    assert found.distance is not None
    assert nearest[0] == pytest.approx(1 - found.distance, abs=1e-6)


def test_a_person_chooses_the_prompts(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    fill(notes, 1)
    environment = with_openai | {"EMBEDDING_MODEL": f"openai:{NOMIC}"}
    watch = ["watch", "notes", "--column", "embedding"]
    worker(*watch, "--document-prompt", "text: ", "--query-prompt", "find: ", **environment)
    worker("process", **environment)
    worker("search", "some words", **environment)
    assert sent(openai) == ["text: note number 1", "find: some words"]
    worker(*watch, "--document-prompt", "none", "--query-prompt", "default", "--yes", **environment)
    worker("process", **environment)
    worker("search", "some words", **environment)
    assert sent(openai) == ["note number 1", "some words"]
    assert value(notes, "select model from embedding_queue") == f"openai:{NOMIC}"
    asked = json.loads(worker("targets", "--json", **environment).stdout)
    assert [(one["document_prompt"], one["query_prompt"]) for one in asked] == [("", None)]


def test_doctor_says_what_a_column_without_its_prompt_would_gain(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> None:
    fill(notes, 2)
    environment = with_openai | {"EMBEDDING_MODEL": f"openai:{NOMIC}"}
    watch = ["watch", "notes", "--column", "embedding", "--document-prompt"]
    worker(*watch, "none", **environment)
    worker("process", **environment)
    findings = json.loads(worker("doctor", "--json", **environment).stdout)["findings"]
    [finding] = [one for one in findings if one["check"] == "missing_prompt"]
    assert finding["hint"] == (
        "`worker watch notes --column embedding --document-prompt default` embeds every row again."
    )
    unanswered = worker(*watch, "default", **environment)
    assert unanswered.returncode == 2
    assert unanswered.stderr.splitlines()[:2] == [
        "change: document_prompt: none -> search_document: ",
        "error: 2 rows would be embedded again, so nothing was changed",
    ]
    worker(*watch, "default", "--yes", **environment)
    worker("process", **environment)
    assert sent(openai)[-1] == "search_document: note number 2"
    findings = json.loads(worker("doctor", "--json", **environment).stdout)["findings"]
    assert "missing_prompt" not in [one["check"] for one in findings]
    again = worker(*watch, "default", **environment)
    assert "change:" not in again.stderr


def test_a_prompt_counts_into_what_a_run_will_cost(
    notes: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    fill(notes, 100)

    def tokens(prompt: str) -> int:
        worker("watch", "notes", "--column", "embedding", "--document-prompt", prompt)
        forecast = json.loads(worker("process", "--dry-run", "--json", **with_openai).stdout)
        return int(forecast["tokens"] if isinstance(forecast, dict) else forecast[0]["tokens"])

    assert tokens("x" * 400) > tokens("none") + 100 * 90
