"""Each recipe of docs/providers.md, followed to the letter, with a server of its kind."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import StringIO
from urllib.parse import urlsplit

import pytest
from dotenv import dotenv_values

from tests.acceptance.conftest import refused, statuses
from tests.app_server import AppServer
from tests.azure_server import AzureServer
from tests.conftest import REPOSITORY, Database, Worker, value
from tests.http_server import Answer, ModelServer, Request, as_json
from tests.ollama_server import OllamaServer
from tests.openai_server import OpenAIServer
from tests.tei_server import TEIServer

DOCUMENT = (REPOSITORY / "docs" / "providers.md").read_text(encoding="utf-8")
RIGHT, WRONG = "sk-right-9876543210abcdef", "sk-wrong-0123456789abcdef"

RECIPES = {
    title: text
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    if "EMBEDDING_MODEL=" in text
}


class Compatible(TEIServer):
    """A server that tells nothing of itself, and refuses a wrong key in words of its own."""

    def __init__(self, refusal: object) -> None:
        super().__init__(has_info=False)
        self.refusal = refusal

    def due(self, request: Request) -> Answer:
        if self.refusal and request.bearer != RIGHT:
            return Answer(401, as_json(self.refusal))
        return super().due(request)


class WithoutBase64(Compatible):
    """One that knows numbers only."""

    def due(self, request: Request) -> Answer:
        if request.body.get("encoding_format") == "base64":
            return Answer(400, as_json({"error": "'encoding_format' must be 'float'"}))
        return super().due(request)


LITELLM = (
    "Authentication Error, Invalid proxy server token passed. Received API Key = sk-...cdef,"
    f" Key Hash (Token) ={sha256(WRONG.encode()).hexdigest()}. Unable to find token in cache or"
    " `LiteLLM_VerificationTokenTable`"
)
SERVERS: dict[str, Callable[[], ModelServer]] = {
    "OpenAI": lambda: OpenAIServer(RIGHT),
    "Azure OpenAI": lambda: AzureServer(RIGHT),
    "Text Embeddings Inference": lambda: TEIServer(api_key=RIGHT),
    "vLLM": lambda: Compatible({"error": "Unauthorized"}),
    "Infinity": lambda: Compatible({"detail": "Unauthorized"}),
    "LM Studio": lambda: WithoutBase64(None),
    "LiteLLM": lambda: Compatible({"error": {"message": LITELLM, "code": "401"}}),
    "llama.cpp": lambda: Compatible({"error": {"message": "Invalid API Key", "code": 401}}),
    "Ollama": OllamaServer,
    "local": ModelServer,  # which is not asked
    "An endpoint of your own": lambda: AppServer(RIGHT),
}


@contextmanager
def followed(title: str, key: str) -> Iterator[dict[str, str]]:
    """The environment of a recipe, with the server of this machine and this key in it."""
    [block] = re.findall(r"```sh\n(.*?)```", RECIPES[title], re.S)
    given = {name: value or "" for name, value in dotenv_values(stream=StringIO(block)).items()}
    with SERVERS[title]() as server:
        if key == WRONG and isinstance(server, OllamaServer):
            server.pulled.clear()
        for name, text in given.items():
            if "://" in text:
                given[name] = server.root + urlsplit(text).path
            elif text.removeprefix("sk-") == "…":
                given[name] = key
        if isinstance(server, OpenAIServer) and title == "OpenAI":
            given["OPENAI_BASE_URL"] = server.base_url
        yield given


def without_address(error: str) -> str:
    return re.sub(r"^\S+ answered", "… answered", error)


def test_there_is_a_server_for_every_recipe() -> None:
    assert list(RECIPES) == list(SERVERS)


@pytest.fixture
def table(db: Database) -> Database:
    """What the recipes watch a column of."""
    db.execute("create table notes (id bigint primary key, body text)")
    return db


def write(table: Database) -> None:
    table.execute("insert into notes values (1, 'the first note'), (2, 'the second')")


def watch(worker: Worker, title: str, environment: dict[str, str]) -> None:
    [line] = re.findall(r"^\$ worker (watch .*)$", RECIPES[title], re.M)
    result: subprocess.CompletedProcess[str] = worker(*line.split(), **environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] in RECIPES[title]


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_it_is_written(title: str, table: Database, worker: Worker) -> None:
    with followed(title, RIGHT) as environment:
        watch(worker, title, environment)
        write(table)
        result = worker("process", **environment)
        found = worker("search", "the first note", **environment)
    assert result.returncode == 0, result.stderr
    assert found.stdout.split()[1] == "1", found.stderr
    assert statuses(table) == {"completed": 2}
    assert value(table, "select count(embedding) from notes") == 2
    model = value(table, "select min(model) from embedding_queue")
    assert f"EMBEDDING_MODEL={model.split('#')[0]}\n" in RECIPES[title]


@pytest.mark.parametrize("title", [title for title in RECIPES if "\nerror: " in RECIPES[title]])
def test_a_wrong_key_is_told_in_the_words_of_the_recipe(
    title: str, table: Database, worker: Worker
) -> None:
    with followed(title, RIGHT) as environment:
        watch(worker, title, environment)
    with followed(title, WRONG) as environment:
        write(table)
        cause, hint = refused(worker("process", **environment), 4)
    [(told, hint)] = re.findall(r"^error: (.*)\nhint: (.*)$", RECIPES[title], re.M)
    assert (without_address(cause), hint) == (without_address(told), hint)
    assert statuses(table) == {"pending": 2}
