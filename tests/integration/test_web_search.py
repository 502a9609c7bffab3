"""The screens of searches and documents, through a real server, with a stand-in for the models."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Database, rows
from tests.openai_server import OpenAIServer
from tests.web import HOSTILE, Web, read, served_web
from worker.operations.processing import process
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

MODEL = "openai:text-embedding-3-small"
SECRET = "the secret recipe <script>alert(1)</script> \u202e"


@pytest.fixture(scope="module")
def served(shared_url: str) -> Iterator[tuple[Web, Database]]:
    with OpenAIServer() as openai:
        settings = Settings(
            database_url=shared_url,
            openai_api_key=openai.api_key,
            openai_base_url=openai.base_url,
            embedding_model=MODEL,
        )
        with psycopg.connect(shared_url, autocommit=True) as db, served_web(settings) as web:
            db.execute("create table docs (id text primary key, body text)")
            db.execute(
                "select watch_embeddings('docs', 'body', 'embedding', dimensions => 8,"
                " language => 'english')"
            )
            db.execute("create table books (id bigint primary key, body text)")
            db.execute(
                "select watch_embeddings('books', 'body', 'embedding', dimensions => 8,"
                " chunks => true, chunk_size => 200)"
            )
            db.execute(
                "insert into docs values ('one', %s), (%s, 'other words')", [SECRET, HOSTILE]
            )
            book = "\n\n".join(f"## Part {part}\n\n{'word ' * 30}" for part in range(70))
            db.execute("insert into books select i, %s from generate_series(1, 2) i", [book])
            with PostgresQueue(db.info.dsn, "tests") as queue:
                process(queue, settings)
            yield web, db


@pytest.fixture
def web(served: tuple[Web, Database]) -> Web:
    return served[0]


@pytest.fixture
def db(served: tuple[Web, Database]) -> Database:
    return served[1]


def search(web: Web, **asked: str) -> str:
    return web.get("/search", **({"q": SECRET, "column": "docs.embedding"} | asked)).text


@pytest.mark.parametrize("mode", ["", "hybrid", "vector", "text"])
def test_hits_are_shown_with_their_scores_and_without_their_texts(web: Web, mode: str) -> None:
    page = search(web, q="secret recipe", mode=mode)
    assert 'id="hit-1"' in page
    assert re.search(r'<th scope="row">one</th>', page)
    assert "the secret recipe" not in page


def test_texts_are_shown_after_a_button_and_the_audit_records_it(web: Web, db: Database) -> None:
    asked = {"q": "secret recipe", "column": "docs.embedding", "mode": "text"}
    page = web.post("/search/reveal", asked)
    assert page.status_code == 200
    assert "the secret recipe &lt;script&gt;" in page.text
    assert "<script>alert" not in page.text
    assert rows(
        db,
        "select event, table_name, embedding_column, split_part(source, ' ', 1), figures"
        " from embedding_audit order by id desc limit 1",
    ) == [("text_revealed", "docs", "embedding", "web", {"texts": 1, "records": ["one"]})]


def test_what_cannot_be_searched_is_said_beside_the_form(web: Web) -> None:
    for asked, said in (
        ({"column": "nowhere.embedding"}, "is not watched"),
        ({"column": "books.embedding", "mode": "text"}, "has no language"),
        ({"mode": "magic"}, "there is no mode magic"),
    ):
        page = read(search(web, **asked))
        assert said in page
        assert "Words" in page


def test_hostile_names_stay_text(web: Web) -> None:
    page = search(web, q=f"{HOSTILE} other words", mode="vector")
    assert "<script>alert" not in page
    assert "\u202e" not in re.sub(r'value="[^"]*"', "", page)
    assert "&lt;script&gt;" in page


def test_a_reader_searches_and_sees_no_text(web: Web) -> None:
    asked = {"q": "secret recipe", "column": "docs.embedding"}
    page = web.as_reader.get("/search", params=asked).text
    assert 'id="hit-1"' in page
    assert "/search/reveal" not in page
    assert web.as_reader.post("/search/reveal", data=asked).status_code == 403
