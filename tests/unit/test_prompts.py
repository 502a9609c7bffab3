"""The prompts of known models, and which of them a request carries."""

from __future__ import annotations

import pytest

from tests.openai_server import OpenAIServer
from tests.unit.conftest import Open
from worker.embedders.base import Prompts, full_model
from worker.embedders.prompts import NONE, chosen_prompts, known_prompts
from worker.errors import SettingsError

NOMIC = Prompts("search_document: ", "search_query: ")
E5 = Prompts("passage: ", "query: ")
PASSAGES = Prompts("", "Represent this sentence for searching relevant passages: ")
QWEN = Prompts(
    "",
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
)


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("nomic-embed-text", NOMIC),
        ("nomic-embed-text:latest", NOMIC),
        ("nomic-embed-text:v1.5", NOMIC),
        ("nomic-ai/nomic-embed-text-v1.5", NOMIC),
        ("text-embedding-nomic-embed-text-v1.5", NOMIC),
        ("nomic-embed-text:137m-v1.5-fp16", NOMIC),
        ("text-embedding-nomic-embed-text-v1.5@q4_k_m", NOMIC),
        ("nomic-embed-text-v1.5.gguf", NOMIC),
        ("nomic-embed-text-v1.5.Q8_0.gguf", NOMIC),
        ("hf.co/nomic-ai/nomic-embed-text-v1.5-GGUF:Q4_K_M", NOMIC),
        ("bge-large:335m", PASSAGES),
        ("intfloat/e5-large-v2", E5),
        ("intfloat/multilingual-e5-small", E5),
        ("gemini-embedding-2", Prompts("title: none | text: ", "task: search result | query: ")),
        ("embeddinggemma:300m", Prompts("title: none | text: ", "task: search result | query: ")),
        ("Qwen/Qwen3-Embedding-0.6B", QWEN),
        ("qwen3-embedding:8b", QWEN),
        ("BAAI/bge-small-en-v1.5", PASSAGES),
        ("mxbai-embed-large", PASSAGES),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", PASSAGES),
        ("snowflake-arctic-embed2", Prompts("", "query: ")),
    ],
)
def test_a_model_is_known_by_the_names_that_servers_give_it(name: str, prompts: Prompts) -> None:
    assert known_prompts(name) == prompts


@pytest.mark.parametrize(
    "name",
    [
        *("gemini-embedding-001", "voyage-4", "nvidia/nv-embedqa-e5-v5"),
        *("text-embedding-3-small", "bge-m3", "all-minilm", "wordllama-256", "my-embeddings"),
        *("e5-mistral-7b-instruct", "my-nomic-embed-text", "bge-large-zh-v1.5", "/api/embed"),
    ],
)
def test_a_model_that_is_not_listed_has_no_prompts(name: str) -> None:
    assert known_prompts(name) == NONE


@pytest.mark.parametrize(
    ("document", "query", "chosen"),
    [
        (None, None, NOMIC),
        ("", None, NONE),
        ("text: ", None, Prompts("text: ", "search_query: ")),
        ("", "search_query: ", Prompts("", "search_query: ")),
        (None, "", Prompts("search_document: ", "")),
    ],
)
def test_queries_get_no_prompt_if_documents_were_embedded_without_theirs(
    document: str | None, query: str | None, chosen: Prompts
) -> None:
    assert chosen_prompts(NOMIC, document, query) == chosen


def test_a_model_without_a_document_prompt_keeps_that_of_queries() -> None:
    assert chosen_prompts(PASSAGES, "", None) == PASSAGES


def test_the_full_name_has_the_prompt_of_documents(opened: Open) -> None:
    at = {"openai_base_url": "http://127.0.0.1:9"}
    assert full_model(opened("openai:bge-m3", **at)) == "openai:bge-m3"
    nomic = opened("ollama:nomic-embed-text")
    assert full_model(nomic) == "ollama:nomic-embed-text#search_document: "


def test_a_name_with_a_prompt_is_not_the_name_of_a_model(opened: Open) -> None:
    with pytest.raises(SettingsError):
        opened("ollama:nomic-embed-text#search_document: ")


def test_a_request_carries_the_prompt_of_its_role(opened: Open) -> None:
    with OpenAIServer() as server:
        embedder = opened(
            "openai:text-embedding-3-small",
            openai_api_key=server.api_key,
            openai_base_url=server.base_url,
        )
        embedder.prompts = E5
        embedder.embed(["one", "two"], "document")
        embedder.embed(["one"], "query")
        sent = [request.texts for request in server.requests]
    assert sent == [["passage: one", "passage: two"], ["query: one"]]
