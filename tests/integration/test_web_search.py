"""The screens of searches and documents, through a real server, with a stand-in for the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from threading import Event
from urllib.parse import urlencode

import psycopg
import pytest

from tests.conftest import Database, rows
from tests.openai_server import Answer, OpenAIServer
from tests.web import HOSTILE, Web, read, served_web
from worker.operations.processing import process
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings

MODEL = "openai:text-embedding-3-small"
SECRET = "the secret recipe <script>alert(1)</script> \u202e"


@pytest.fixture(scope="module", name="openai")
def openai_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as openai:
        yield openai


@pytest.fixture(scope="module")
def served(shared_url: str, openai: OpenAIServer) -> Iterator[tuple[Web, Database]]:
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
        db.execute("create table books (id text primary key, body text)")
        db.execute(
            "select watch_embeddings('books', 'body', 'embedding', dimensions => 8,"
            " chunks => true, chunk_size => 200)"
        )
        db.execute("insert into docs values ('one', %s), (%s, 'other words')", [SECRET, HOSTILE])
        book = "\n\n".join(f"## Part {part}\n\n{'word ' * 30}" for part in range(70))
        for key in ("1", "2", HOSTILE):
            db.execute("insert into books values (%s, %s)", [key, book])
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


def test_a_slow_model_keeps_one_connection_and_leaves_the_others(
    web: Web, openai: OpenAIServer
) -> None:
    answers, began = Event(), Event()

    def fault(due: Answer) -> Answer:
        began.set()
        answers.wait(10)
        return due

    openai.faults.append(fault)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(search, web, q="slow words", mode="vector")
        assert began.wait(10)
        assert "waits for its model" in read(search(web, q="more words", mode="vector"))
        assert 'id="hit-1"' in search(web, q="secret", mode="text")
        answers.set()
        assert 'id="hit-1"' in slow.result(10)


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


# -- documents


def pages(web: Web, path: str, row: str) -> list[str]:
    """What the rows of all pages of a list are called."""
    seen: list[str] = []
    while path:
        page = web.page(path)
        seen += re.findall(rf'<tr id="{row}-([^"]+)"', page)
        links = re.findall(r'href="([^"]+)" rel="next"', page)
        path = unescape(links[0]) if links else ""
    return seen


BOOK = "/documents/passages?table=books&column=embedding&record=1"


def test_columns_in_chunks_lead_to_their_documents_and_passages(web: Web, db: Database) -> None:
    page = web.page("/documents")
    assert "books. embedding" in read(page)
    assert "docs. embedding" not in read(page)
    [link] = [link for link in re.findall(r'href="([^"]+)"', page) if "documents?target" in link]
    assert len(pages(web, unescape(link), "document")) == 3
    places = rows(db, "select position from books_chunk_places where id = '1' order by position")
    assert len(places) > 50
    assert pages(web, BOOK, "passage") == [str(place) for (place,) in places]


def test_the_words_of_a_passage_are_hidden_until_they_are_revealed(web: Web, db: Database) -> None:
    page = web.page(BOOK)
    assert "word word" not in page
    assert "Part 1" not in page
    form = {"table": "books", "column": "embedding", "record": "1", "position": "1"}
    answer = web.post("/documents/passages/reveal", form)
    assert answer.status_code == 200
    assert "word word" in answer.text
    assert rows(
        db,
        "select event, figures, split_part(source, ' ', 1) from embedding_audit"
        " order by id desc limit 1",
    ) == [("text_revealed", {"position": 1, "record_id": "1"}, "web")]


def test_a_document_is_reprocessed_and_so_are_all_that_match(web: Web, db: Database) -> None:
    pending = "select record_id from embedding_queue where status = 'pending' order by 1"
    document = {"table": "books", "column": "embedding", "record": "1"}
    assert "1 made pending again" in web.press("/documents/passages/requeue", document)
    assert rows(db, pending) == [("1",)]
    web.press("/documents/reprocess", document | {"pattern": "*Part 69*"})
    assert "3 documents are pending" in web.task_ends()
    assert len(rows(db, pending)) == 3


def test_hostile_names_of_documents_stay_text(web: Web) -> None:
    document = urlencode({"table": "books", "column": "embedding", "record": HOSTILE})
    for path in ("/documents?table=books&column=embedding", f"/documents/passages?{document}"):
        page = web.page(path)
        assert "<script>alert" not in page
        assert "\u202e" not in re.sub(r'value="[^"]*"', "", page)
        assert "&lt;script&gt;" in page
    assert len(pages(web, f"/documents/passages?{document}", "passage")) > 50


def test_a_page_whose_address_is_too_long_for_updates_has_none(web: Web) -> None:
    page = web.page(f"{BOOK}&more={'x' * 2000}")
    assert "data-live" not in page
    assert "data-live" in web.page(BOOK)


def test_what_is_no_document_is_said_with_its_cure(web: Web) -> None:
    assert "not embedded yet" in web.page(BOOK.replace("record=1", "record=none"))
    for path in ("/documents/passages", BOOK.replace("books", "nowhere")):
        assert web.get(path).status_code == 400
    whole = BOOK.replace("books", "docs")
    assert "is embedded as a whole" in read(web.get(whole).text)
    assert web.post("/documents/reprocess").status_code == 400


def test_a_reader_sees_passages_and_reveals_none(web: Web) -> None:
    page = web.as_reader.get(BOOK).text
    assert 'id="passage-1"' in page
    assert "/documents/passages/" not in page
    for action in ("reveal", "requeue"):
        assert web.as_reader.post(f"/documents/passages/{action}").status_code == 403
    assert web.as_reader.post("/documents/reprocess").status_code == 403
