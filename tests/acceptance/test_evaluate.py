"""`worker evaluate`: what it measures on a judged collection, and what it says of bad input."""

from __future__ import annotations

import json
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from psycopg import sql

import worker as api
from tests.acceptance.conftest import fill, refused
from tests.acceptance.test_commands import documented_fields, one_document
from tests.conftest import REPOSITORY, Database, Worker
from tests.openai_server import WIDTHS, OpenAIServer, rate_limited, vector_for
from worker.errors import StatementTimeout
from worker.queue import Match
from worker.settings import Settings

COLLECTION = REPOSITORY / "tests" / "collection"
QUERIES = COLLECTION / "queries.jsonl"


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def written(folder: Path, *lines: object) -> str:
    """A file of judged queries."""
    path = folder / "queries.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


# -- a help centre, with the local model


@pytest.fixture
def help_centre(db: Database, worker: Worker) -> Database:
    """The articles of the collection, embedded by the local model, without full text."""
    db.execute("create table articles (id text primary key, title text, body text)")
    with db.cursor() as cursor:
        cursor.executemany(
            "insert into articles values (%(id)s, %(title)s, %(body)s)",
            read_lines(COLLECTION / "articles.jsonl"),
        )
    watch = ["watch", "articles", "--source", "title", "--source", "body", "--column", "embedding"]
    assert worker(*watch, "--create-column").returncode == 0
    assert worker("backfill").returncode == 0
    assert worker("process").returncode == 0
    return db


def test_every_judgment_of_the_collection_is_of_an_article() -> None:
    articles = {article["id"] for article in read_lines(COLLECTION / "articles.jsonl")}
    queries = api.read_queries(QUERIES)
    assert all(query.grades.keys() <= articles for query in queries)
    assert all(set(query.grades.values()) <= {1, 2} for query in queries)


def test_the_searches_of_a_help_centre_are_measured(help_centre: Database, worker: Worker) -> None:
    result = worker("evaluate", "--queries", str(QUERIES), "--json")
    assert (result.stderr, result.returncode) == ("", 0)
    document = one_document(result.stdout)
    assert list(document) == documented_fields("## worker evaluate", "With `--json`")
    assert document["column"] == "articles.embedding"
    assert (document["queries"], document["unjudged"], document["missing"]) == (107, 0, 0)
    [score] = document["scores"]
    assert score["search"] == "vector"
    assert 0.5 < score["ndcg"]["low"] < score["ndcg"]["mean"] < score["ndcg"]["high"] < 1
    assert (document["has_vector_index"], document["index_recall"]) == (False, None)
    assert (document["cost"], document["tokens"] > 107) == (0, True)

    shown = worker("evaluate", "--queries", str(QUERIES))
    assert (shown.stderr, shown.returncode) == ("", 0)
    assert shown.stdout.startswith("107 queries in articles.embedding\n")
    assert f"vector    {score['ndcg']['mean']:.3f}  {score['ndcg']['low']:.3f} to" in shown.stdout
    assert "index recall: there is no vector index, all vectors are compared\n" in shown.stdout

    help_centre.execute("create index on articles using hnsw (embedding vector_cosine_ops)")
    result = worker("evaluate", "--queries", str(QUERIES), "--json")
    document = one_document(result.stdout)
    assert (document["has_vector_index"], document["index_recall"]) == (True, 1)
    shown = worker("evaluate", "--queries", str(QUERIES))
    assert "index recall: 100.0% of the nearest 10 rows\n" in shown.stdout


@pytest.mark.only_in_full
def test_hybrid_search_of_a_help_centre_is_better_than_each_of_its_parts(
    help_centre: Database, worker: Worker
) -> None:
    assert worker("watch", "articles", "--column", "embedding", "--hybrid").returncode == 0
    document = one_document(worker("evaluate", "--queries", str(QUERIES), "--json").stdout)
    ndcg = {score["search"]: score["ndcg"]["mean"] for score in document["scores"]}
    assert list(ndcg) == ["vector", "text", "hybrid"]
    assert ndcg["hybrid"] > max(ndcg["vector"], ndcg["text"])
    compared = [(each["search"], each["other"]) for each in document["differences"]]
    assert compared == [("text", "vector"), ("hybrid", "vector"), ("hybrid", "text")]
    [query] = [query for query in document["by_query"] if query["query"] == "WL-1042"]
    assert query["ndcg"]["text"] == 1


@pytest.mark.only_in_full
def test_without_weight_words_change_nothing(help_centre: Database, worker: Worker) -> None:
    assert worker("watch", "articles", "--column", "embedding", "--hybrid").returncode == 0
    weight = ["--full-text-weight", "0"]
    result = worker("evaluate", "--queries", str(QUERIES), *weight, "--json")
    ndcg = {
        score["search"]: score["ndcg"]["mean"] for score in one_document(result.stdout)["scores"]
    }
    assert ndcg["hybrid"] == pytest.approx(ndcg["vector"])


@pytest.mark.only_in_full
def test_the_two_files_of_trec_give_the_same_result(
    help_centre: Database, worker: Worker, tmp_path: Path
) -> None:
    queries = api.read_queries(QUERIES)
    topics, qrels = tmp_path / "topics.tsv", tmp_path / "qrels.txt"
    topics.write_text("".join(f"{query.id}\t{query.text}\n" for query in queries))
    qrels.write_text(
        "".join(
            f"{query.id} 0 {record} {grade}\n"
            for query in queries
            for record, grade in query.grades.items()
        )
        + f"{queries[0].id} 0 start-account 0\n{queries[0].id} 0 start-checklist -1\n"
    )
    files = ["--queries", str(topics), "--qrels", str(qrels)]
    assert (
        worker("evaluate", *files, "--json").stdout
        == worker("evaluate", "--queries", str(QUERIES), "--json").stdout
    )


# -- known vectors, with a stand-in for a paid model


@pytest.fixture
def known(
    notes: Database, worker: Worker, with_openai: dict[str, str], openai: OpenAIServer
) -> Database:
    """Three embedded notes; each is the nearest to its own text as a query."""
    fill(notes, 3)
    assert worker("process", **with_openai).returncode == 0
    openai.requests.clear()
    return notes


def test_what_is_measured_is_what_the_definitions_say(
    known: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    texts = [f"note number {number}" for number in (1, 2, 3)]
    similarity = [float(vector_for(texts[0], 8) @ vector_for(text, 8)) for text in texts]
    order = [str(place + 1) for place in sorted(range(3), key=lambda place: -similarity[place])]
    assert order[0] == "1"
    queries = written(
        tmp_path,
        {"id": "best", "query": texts[0], "relevant": {"1": 3}},
        {"id": "last", "query": texts[0], "relevant": {order[2]: 1}},
        {"id": "half", "query": texts[0], "relevant": ["1", order[2]]},
        {"id": "none", "query": texts[0], "relevant": [int(order[1]), 99]},
        {"query": "not judged", "relevant": []},
    )
    result = worker("evaluate", "--queries", queries, "--k", "2", "--json", **with_openai)
    assert result.stderr.splitlines() == [
        "warning: 1 of 4 relevant records do not exist in notes.embedding or have no vector",
        "warning: 1 query without a relevant record: not counted",
    ]
    document = one_document(result.stdout)
    best_of_two = 1 + 1 / log2(3)
    expected = {"best": 1, "last": 0, "half": 1 / best_of_two, "none": (1 / log2(3)) / best_of_two}
    measured = {query["id"]: query["ndcg"]["vector"] for query in document["by_query"]}
    assert measured == pytest.approx(expected)
    [score] = document["scores"]
    assert score["ndcg"]["mean"] == pytest.approx(sum(expected.values()) / 4)
    assert score["recall"] == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert score["mrr"] == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert (document["queries"], document["unjudged"]) == (4, 1)
    assert (document["relevant"], document["missing"]) == (4, 1)


def test_all_queries_are_embedded_at_once_as_queries_even_if_the_provider_is_busy(
    notes: Database,
    worker: Worker,
    with_openai: dict[str, str],
    openai: OpenAIServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(WIDTHS, "nomic-embed-text-v1.5", 8)
    nomic = with_openai | {"EMBEDDING_MODEL": "openai:nomic-embed-text-v1.5"}
    fill(notes, 3)
    assert worker("process", **nomic).returncode == 0
    openai.requests.clear()
    queries = [{"query": f"words {number}", "relevant": ["1"]} for number in range(150)]
    openai.faults += [rate_limited(**{"retry-after": "0.01"})] * 3
    result = worker("evaluate", "--queries", written(tmp_path, *queries), "--json", **nomic)
    assert result.returncode == 0, result.stderr
    assert not openai.faults
    sent = [text for request in openai.requests for text in request.texts if "words" in text]
    assert set(sent) == {f"search_query: words {number}" for number in range(150)}
    assert len(openai.requests) < 15


def test_the_cost_of_the_queries_is_that_of_their_tokens(
    known: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    queries = written(
        tmp_path, {"query": "some words of forty bytes, all in all ...", "relevant": [1]}
    )
    document = one_document(
        worker("evaluate", "--queries", queries, "--json", **with_openai).stdout
    )
    assert document["cost"] == pytest.approx(document["tokens"] * 0.02 / 1e6)
    shown = worker("evaluate", "--queries", queries, **with_openai).stdout
    assert f"{document['tokens']} tokens, <$0.0001" in shown


def test_an_index_that_misses_the_nearest_row_is_noticed(
    known: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    # An IVFFlat index reads the list whose centre is nearest to the query. Its centres are the two
    # rows there are when it is built; the row nearest to the query is in the list of the other one.
    query = vector_for("words", 8)
    across = np.linalg.svd(query[None])[2][1]  # at a right angle to the query
    known.execute("delete from notes where id = 3")
    for note, along, aside in [(1, 0.8, 0.6), (2, 0.6, -0.8)]:
        vector = str((along * query + aside * across).tolist())
        known.execute("update notes set embedding = %s where id = %s", [vector, note])
    known.execute(
        "create index on notes using ivfflat (embedding vector_cosine_ops) with (lists = 2)"
    )
    nearest = str((0.95 * query - 0.3 * across).tolist())
    known.execute("insert into notes values (3, 'nearest', %s)", [nearest])
    known.execute(
        sql.SQL("alter database {} set enable_seqscan = off").format(
            sql.Identifier(known.info.dbname)
        )
    )
    queries = written(tmp_path, {"query": "words", "relevant": [3]})
    result = worker("evaluate", "--queries", queries, "--k", "1", "--json", **with_openai)
    assert one_document(result.stdout)["index_recall"] == 0
    shown = worker("evaluate", "--queries", queries, "--k", "1", **with_openai).stdout
    assert "index recall: 0.0% of the nearest 1 row" in shown


def test_a_change_is_compared_with_the_baseline_query_by_query(
    known: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    asked = [{"query": f"note number {number}", "relevant": [number]} for number in (1, 2, 3)]
    command = ["evaluate", "--queries", written(tmp_path, *asked), "--k", "1"]
    before = tmp_path / "before.json"
    before.write_text(worker(*command, "--json", **with_openai).stdout)
    known.execute("alter table notes disable trigger user")
    known.execute("update notes set embedding = null where id = 1")
    result = worker(*command, "--baseline", str(before), "--json", **with_openai)
    [difference] = one_document(result.stdout)["differences"]
    assert (difference["search"], difference["other"]) == ("vector", "baseline")
    assert difference["ndcg"]["mean"] < 0
    shown = worker(*command, "--baseline", str(before), **with_openai).stdout
    assert f"vector - baseline: nDCG@1 {difference['ndcg']['mean']:+.3f} (" in shown


# -- bad input


def test_a_line_that_cannot_be_used_is_named_before_anything_is_paid(
    known: Database,
    worker: Worker,
    with_openai: dict[str, str],
    openai: OpenAIServer,
    tmp_path: Path,
) -> None:
    queries = written(tmp_path, {"query": "words", "relevant": ["1"]}, {"query": "more words"})
    cause, hint = refused(worker("evaluate", "--queries", queries, **with_openai), 2)
    assert cause == f"{queries}, line 2: it has no `relevant`, and there is no --qrels"
    assert '{"query": "refund", "relevant": ["12", "7"]}' in hint
    assert openai.requests == []


@pytest.mark.parametrize(
    ("relevant", "cause"),
    [
        ([], "no query has a relevant record"),
        ({"1": 0}, "no query has a relevant record"),
        (
            ["no-such-id"],
            "no relevant record has a vector in embedding of notes: the ids are like no-such-id",
        ),
    ],
)
def test_queries_that_nothing_can_answer_are_refused_before_anything_is_paid(
    known: Database,
    worker: Worker,
    with_openai: dict[str, str],
    openai: OpenAIServer,
    tmp_path: Path,
    relevant: object,
    cause: str,
) -> None:
    queries = written(tmp_path, {"query": "words", "relevant": relevant})
    assert refused(worker("evaluate", "--queries", queries, **with_openai), 2)[0] == cause
    assert openai.requests == []


def test_a_query_that_the_model_refuses_is_a_mistake_of_the_file(
    known: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    queries = written(tmp_path, {"query": "words " * 10_000, "relevant": ["1"]})
    cause, hint = refused(worker("evaluate", "--queries", queries, **with_openai), 2)
    assert cause.startswith("a query cannot be embedded: ")
    assert hint == "Shorten it, or leave it out."


def test_the_model_is_that_of_the_column(
    known: Database, worker: Worker, with_openai: dict[str, str], tmp_path: Path
) -> None:
    queries = written(tmp_path, {"query": "words", "relevant": ["1"]})
    local = with_openai | {"EMBEDDING_MODEL": "local:wordllama-256"}
    document = one_document(worker("evaluate", "--queries", queries, "--json", **local).stdout)
    assert document["model"] == "openai:text-embedding-3-small"


@pytest.fixture
def settings(database_url: str, openai: OpenAIServer) -> Settings:
    return Settings(
        database_url=database_url,
        embedding_model="openai:text-embedding-3-small",
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
    )


def test_the_python_api_does_the_same(known: Database, settings: Settings) -> None:
    queries = [api.JudgedQuery("a", "note number 2", {"2": 1})]
    seen: list[int] = []
    with api.open_queue(settings) as queue:
        found = api.evaluate(queue, settings, queries, k=1, on_query=seen.append)
    assert [(score.search, score.ndcg.mean) for score in found.scores] == [("vector", 1)]
    assert seen == [1]


def test_an_exact_search_that_takes_too_long_is_not_tried_again(
    known: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [api.JudgedQuery(str(number), "note number 2", {"2": 1}) for number in (1, 2)]
    known.execute("create index on notes using hnsw (embedding vector_cosine_ops)")
    tried: list[bool] = []
    with api.open_queue(settings) as queue:
        search = queue.search

        def slow_if_exact(*arguments: Any, exact: bool = False, **options: Any) -> list[Match]:
            tried.append(exact)
            if exact:
                raise StatementTimeout("the statement took too long")
            return search(*arguments, **options)

        monkeypatch.setattr(queue, "search", slow_if_exact)
        found = api.evaluate(queue, settings, queries, k=1)
    assert (found.index_recall, found.scores[0].recall) == (None, 1)
    assert tried == [False, True, False]
