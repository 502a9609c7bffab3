"""Each recipe of docs/providers.md, followed to the letter, with a server of its kind."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib.util import find_spec
from io import StringIO
from urllib.parse import urlsplit

import pytest
from dotenv import dotenv_values

from tests.acceptance.conftest import refused, statuses
from tests.app_server import AppServer
from tests.azure_server import AzureServer
from tests.bedrock_server import BedrockServer
from tests.conftest import REPOSITORY, Database, Worker, rest_in_full, value
from tests.http_server import Answer, ModelServer, Request, as_json
from tests.ollama_server import OllamaServer
from tests.openai_server import OpenAIServer
from tests.tei_server import TEIServer
from tests.vendor_server import VENDORS, VendorServer

DOCUMENT = (REPOSITORY / "docs" / "providers.md").read_text(encoding="utf-8")
RIGHT, WRONG = "sk-right-9876543210abcdef", "sk-wrong-0123456789abcdef"

RECIPES = {
    title: text
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    if "EMBEDDING_MODEL=" in text
}
# This one has no server, and tests/transformers follows it.
TRANSFORMERS = RECIPES.pop("Sentence Transformers")


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
    "Voyage": lambda: VendorServer("voyage", RIGHT),
    "Mistral": lambda: VendorServer("mistral", RIGHT),
    "Jina": lambda: VendorServer("jina", RIGHT),
    "Gemini": lambda: VendorServer("gemini", RIGHT),
    "Cohere": lambda: VendorServer("cohere", RIGHT),
    "NVIDIA": lambda: VendorServer("nvidia", RIGHT),
    "Together": lambda: VendorServer("together", RIGHT),
    "Amazon Bedrock": lambda: BedrockServer(RIGHT),
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
    [block] = re.findall(r"```ini\n(.*?)```", RECIPES[title], re.S)
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
        if isinstance(server, VendorServer):
            given[f"{server.name.upper()}_BASE_URL"] = server.base_url
        if isinstance(server, BedrockServer):
            given = server.environment | given
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


@pytest.mark.parametrize(
    "title", rest_in_full([title for title in RECIPES if "\nerror: " in RECIPES[title]], first=2)
)
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


TOO_LONG = [
    *("OpenAI", "Voyage", "Mistral", "Jina", "Gemini", "Cohere", "NVIDIA", "Amazon Bedrock"),
    *("Azure OpenAI", "Text Embeddings Inference", "Ollama"),
]


@pytest.mark.parametrize("title", rest_in_full(TOO_LONG, first=2))
def test_a_text_that_is_too_long_fails_and_no_part_of_it_is_embedded(
    title: str, table: Database, worker: Worker
) -> None:
    with followed(title, RIGHT) as environment:
        watch(worker, title, environment)
        table.execute("insert into notes values (1, 'short'), (2, repeat('long', 140000))")
        result = worker("process", **environment)
    assert statuses(table) == {"completed": 1, "failed": 1}, result.stderr
    assert value(table, "select array_agg(id) from notes where embedding is not null") == [1]
    error_class = value(table, "select error_class from embedding_queue where record_id = '2'")
    assert error_class == ("rejected" if title == "Jina" else "too_long")


def test_several_providers_work_side_by_side(db: Database, worker: Worker) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute("insert into notes select id, 'note ' || id from generate_series(1, 30) as id")
    with ExitStack() as servers:
        environment: dict[str, str] = {"EMBEDDING_MODEL": "voyage:voyage-4-lite"}
        running = []
        for number, name in enumerate(("voyage", "mistral", "jina", "together")):
            server = servers.enter_context(VendorServer(name, f"key-of-{name}-1234567890"))
            environment[f"{name.upper()}_API_KEY"] = server.key
            environment[f"{name.upper()}_BASE_URL"] = server.base_url
            model = f"{name}:{VENDORS[name].model}"
            column = ["--column", f"embedding_{number}", "--create-column", "--model", model]
            result = worker("watch", "notes", "--source", "body", *column, **environment)
            assert result.returncode == 0, result.stderr
            running.append(server)
        assert worker("backfill", **environment).returncode == 0
        result = worker("process", **environment)
        assert result.returncode == 0, result.stderr
        for number, server in enumerate(running):
            assert {text for texts in server.sent for text in texts} == {
                f"note {id}" for id in range(1, 31)
            }
            column = ["--column", f"embedding_{number}"]
            found = worker("search", "note 7", "--table", "notes", *column, **environment)
            assert server.sent[-1][0].endswith("note 7"), found.stderr
    assert statuses(db) == {"completed": 120}


@pytest.mark.skipif(bool(find_spec("sentence_transformers")), reason="it is installed")
def test_a_missing_package_is_told_in_the_words_of_the_recipe(
    table: Database, worker: Worker
) -> None:
    table.execute("alter table notes add embedding vector(384)")
    table.execute("select watch_embeddings('notes', 'body', 'embedding')")
    write(table)
    [model] = re.findall(r"^EMBEDDING_MODEL=(.*)$", TRANSFORMERS, re.M)
    cause, hint = refused(worker("process", EMBEDDING_MODEL=model), 2)
    assert f"\nerror: {cause}\nhint: {hint}\n" in TRANSFORMERS
    assert statuses(table) == {"pending": 2}
