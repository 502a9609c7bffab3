"""A verification finds what was planted, and nothing else. It writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import numpy as np
import pytest
from psycopg import sql

from tests.conftest import Database, rows, value
from tests.integration.documents import document, write
from tests.integration.runs import Runs, at_once
from tests.integration.tables import Connect, Table
from tests.openai_server import OpenAIServer, out_of_quota, unavailable, with_vectors
from worker.errors import Busy, DatabaseError, SettingsError, StatementTimeout
from worker.evaluation.judgments import JudgedQuery
from worker.operations.verify import verify
from worker.queue import AdminQueue
from worker.settings import Settings
from worker.verification.result import Check, Verification

ROWS = 40
EACH_ROW = (
    "insert into docs (id, body) select i, 'text ' || i from generate_series(%s::integer, %s) as i"
)
OF_VECTORS = {"length", "sample"}
"""Checks that find what is wrong with a vector that is also not the one that was written."""
SCALED: LiteralString = (
    "update docs set embedding = (select array_agg(7 * number) from unnest(embedding::real[])"
    " as number)::vector where id = 3"
)


@pytest.fixture
def settings(openai: OpenAIServer) -> Settings:
    return Settings(
        embedding_model="openai:text-embedding-3-small",
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
    )


@pytest.fixture
def embedded(texts: Database, runs: Runs) -> Database:
    """Forty rows of `docs` with the vectors of the stand-in."""
    texts.execute(EACH_ROW, [1, ROWS])
    assert runs.drain(batch_size=100).completed == ROWS
    return texts


@contextmanager
def unnoticed(db: Database) -> Iterator[Database]:
    """What is written inside, no trigger sees."""
    db.execute("set session_replication_role = replica")
    yield db
    db.execute("reset session_replication_role")


def faults(result: Verification) -> dict[str, Check]:
    """The checks that are not ok."""
    return {check.name: check for check in result.checks if check.status != "ok"}


def figures(result: Verification, name: str) -> dict[str, Any]:
    """The figures of a check that are not 0 or unknown."""
    [check] = [check for check in result.checks if check.name == name]
    return {name: value for name, value in check.figures.items() if value}


def everything(db: Database) -> list[list[tuple[Any, ...]]]:
    return [
        rows(db, "select id, body, embedding::text from docs order by id"),
        rows(db, "select * from embedding_queue order by id"),
        rows(db, "select * from embedding_targets order by id"),
    ]


# -- nothing is wrong


def test_vectors_as_a_worker_writes_them_pass(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    before = everything(embedded)
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    assert result.passed
    assert result.summary == f"passed: {len(result.checks)} checks"
    assert figures(result, "missing") == {"rows": ROWS, "texts": ROWS, "vectors": ROWS}
    sample = figures(result, "sample")
    assert (sample["compared"], sample["noise_floor"], sample["lowest"]) == (ROWS, 1, 1)
    assert result.tokens
    assert result.cost
    assert everything(embedded) == before


def test_an_empty_table_passes_without_a_call_of_the_model(
    texts: Database, queue: AdminQueue, settings: Settings, openai: OpenAIServer
) -> None:
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    assert (result.passed, result.tokens, openai.requests) == (True, 0, [])


def test_rows_without_a_text_or_outside_the_filter_are_nothing_wrong(
    db: Database, queue: AdminQueue, settings: Settings, runs: Runs
) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', '(12 / (id - 3))::text || body', 'embedding',"
        " filter => 'id <> 3', dimensions => 8)"
    )
    db.execute("insert into docs values (1, 'one'), (2, null), (3, 'three'), (4, 'four')")
    runs.drain()
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    assert figures(result, "missing") == {"rows": 4, "texts": 2, "vectors": 2}


@pytest.mark.parametrize("kind", ["vector(8)", "halfvec(8)", "vector", "halfvec"])
def test_every_type_of_column_passes(
    db: Database, queue: AdminQueue, settings: Settings, runs: Runs, kind: LiteralString
) -> None:
    db.execute(f"create table docs (id bigint primary key, body text, embedding {kind})")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute(EACH_ROW, [1, ROWS])
    runs.drain(batch_size=100)
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    assert figures(result, "sample")["compared"] == ROWS


@pytest.mark.parametrize("batch", [1, 2, 7, ROWS, 1000])
def test_every_row_is_read_once_whatever_the_batch(
    embedded: Database, queue: AdminQueue, batch: int
) -> None:
    target = queue.target("docs", "embedding")
    counted, after, calls = 0, None, 0
    while calls == 0 or after is not None:
        found = queue.verify(target, after, batch)
        counted += next(each.found for each in found if each.finding == "rows")
        after, calls = found[0].looked_to, calls + 1
    assert counted == ROWS
    assert calls == ROWS // batch + 1


def test_composite_keys_are_walked_in_their_order(
    db: Database, queue: AdminQueue, settings: Settings, runs: Runs
) -> None:
    db.execute(
        "create table docs (tenant integer, lang text, body text, primary key (tenant, lang))"
    )
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 8)")
    db.execute(
        "insert into docs select i, lang, 'text ' || i || lang"
        " from generate_series(1, 9) as i, unnest(array['en', 'd\"e', '''fr']) as lang"
    )
    runs.drain(batch_size=100)
    target = queue.target("docs", "embedding")
    found = queue.verify(target, None, 4)
    read = [found]
    while found[0].looked_to is not None:
        found = queue.verify(target, found[0].looked_to, 4)
        read.append(found)
    counts = [next(each.found for each in part if each.finding == "rows") for part in read]
    assert counts == [4] * 6 + [3]
    with unnoticed(db):
        db.execute("update docs set embedding = null where tenant = 5 and lang = 'd\"e'")
    result = verify(queue, settings, "docs")
    assert faults(result)["missing"].record_ids == ['[5, "d\\"e"]']


# -- faults of all rows


@pytest.mark.parametrize(
    ("plant", "check", "finding"),
    [
        ("update docs set body = 'edited' where id = 3", "stale", "stale"),
        ("update docs set embedding = null where id = 3", "missing", "lost"),
        ("update docs set body = ' ' where id = 3", "without_text", "without_text"),
        ("insert into docs values (0, 'new')", "missing", "unqueued"),
        ("update docs set embedding = array_fill(0, '{8}')::vector where id = 3", "length", "zero"),
        (SCALED, "length", "odd_length"),
        ("update embedding_queue set model = 'a:b' where record_id = '3'", "model", "other_model"),
        (
            "update docs set embedding = (select embedding from docs where id = 4) where id = 3",
            "sample",
            "below",
        ),
    ],
)
def test_a_fault_that_no_trigger_saw_is_found_and_nothing_else(
    embedded: Database,
    queue: AdminQueue,
    settings: Settings,
    plant: LiteralString,
    check: str,
    finding: str,
) -> None:
    with unnoticed(embedded):
        embedded.execute(plant)
    result = verify(queue, settings, "docs")
    assert list(faults(result)) == (["overwritten", check] if check in OF_VECTORS else [check])
    fault = faults(result)[check]
    assert fault.status == "problem"
    assert figures(result, check)[finding] == 1
    assert fault.record_ids == ["0" if plant.startswith("insert") else "3"]
    assert fault.cause
    assert fault.cure
    assert not result.passed
    assert result.summary.startswith(f"not passed: {len(faults(result))} check")


@pytest.mark.parametrize("status", ["pending", "failed", "skipped"])
def test_a_missing_vector_is_explained_by_its_job(
    embedded: Database, queue: AdminQueue, settings: Settings, status: str
) -> None:
    with unnoticed(embedded):
        embedded.execute("update docs set embedding = null where id in (3, 7)")
        embedded.execute(
            "update embedding_queue set status = %s, error_message = 'x' where record_id = '3'",
            [status],
        )
    fault = faults(verify(queue, settings, "docs"))["missing"]
    assert {name: count for name, count in fault.figures.items() if count} == {
        "rows": ROWS,
        "texts": ROWS,
        "vectors": ROWS - 2,
        status: 1,
        "lost": 1,
    }
    assert fault.record_ids == ["3", "7"]


def test_a_lost_vector_of_a_text_that_changed_is_no_loss(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    with unnoticed(embedded):
        embedded.execute("update docs set embedding = null where id in (3, 4, 5)")
        embedded.execute("update docs set body = 'edited' where id = 4")
        embedded.execute("update embedding_queue set model = 'a:b' where record_id = '5'")
    found = {
        check: fault.record_ids for check, fault in faults(verify(queue, settings, "docs")).items()
    }
    assert found == {"missing": ["3"], "stale": ["4"], "model": ["5"]}
    damaged = queue.damaged(queue.target("docs", "embedding"), None).rows
    assert [row.record_id for row in damaged] == found["missing"]


@pytest.mark.parametrize(
    ("status", "finding"), [("pending", "outdated_pending"), ("failed", "outdated_failed")]
)
def test_a_vector_that_waits_to_be_replaced_is_not_called_stale(
    embedded: Database, queue: AdminQueue, settings: Settings, status: str, finding: str
) -> None:
    embedded.execute("update docs set body = 'edited' where id = 3")
    embedded.execute(
        "update embedding_queue set status = %s, error_message = 'x' where record_id = '3'",
        [status],
    )
    result = verify(queue, settings, "docs")
    assert list(faults(result)) == ["stale"]
    assert figures(result, "stale") == {finding: 1}


def test_a_few_pending_edits_are_a_note(
    embedded: Database, queue: AdminQueue, settings: Settings, runs: Runs
) -> None:
    embedded.execute(EACH_ROW, [ROWS + 1, 200])
    runs.drain(batch_size=100)
    embedded.execute("update docs set body = 'edited' where id = 3")
    embedded.execute("insert into docs values (201, 'new')")
    result = verify(queue, settings, "docs")
    assert {name: fault.status for name, fault in faults(result).items()} == {
        "missing": "note",
        "stale": "note",
    }
    assert result.passed


def test_a_vector_without_a_job_is_a_note(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    embedded.execute("delete from embedding_queue where record_id = '3'")
    result = verify(queue, settings, "docs")
    assert [(name, fault.status) for name, fault in faults(result).items()] == [
        ("recorded", "note")
    ]
    assert result.passed


def test_another_width_is_found_in_a_column_without_one(
    db: Database, queue: AdminQueue, settings: Settings, runs: Runs
) -> None:
    db.execute("create table docs (id bigint primary key, body text, embedding vector)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    db.execute(EACH_ROW, [1, ROWS])
    runs.drain(batch_size=100)
    with unnoticed(db):
        db.execute("update docs set embedding = '[1,0,0]' where id = 3")
    result = verify(queue, settings, "docs")
    assert [(name, fault.record_ids) for name, fault in faults(result).items()] == [
        ("overwritten", ["3"]),
        ("width", ["3"]),
    ]


def test_rows_that_cannot_be_read_are_found_among_the_others(
    db: Database, queue: AdminQueue, settings: Settings, runs: Runs
) -> None:
    db.execute("create table docs (id bigint primary key, body text, views integer default 1)")
    db.execute(
        "select watch_embeddings('docs', '(12 / views)::text || body', 'embedding',"
        " dimensions => 8)"
    )
    db.execute(EACH_ROW, [1, ROWS])
    runs.drain(batch_size=100)
    with unnoticed(db):
        db.execute("update docs set views = 0 where id in (1, 17, 40)")
        db.execute("update docs set views = 2 where id = 18")
    result = verify(queue, settings, "docs")
    assert {name: fault.record_ids for name, fault in faults(result).items()} == {
        "readable": ["1", "17", "40"],
        "stale": ["18"],
    }
    assert figures(result, "missing")["rows"] == ROWS
    assert figures(result, "sample")["excluded"] == 1


def test_of_many_faults_ten_records_are_named(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    with unnoticed(embedded):
        embedded.execute("update docs set embedding = null where id > 5")
    fault = faults(verify(queue, settings, "docs"))["missing"]
    assert (fault.figures["lost"], len(fault.record_ids)) == (ROWS - 5, 10)


@pytest.mark.parametrize("workers", [0, 2])
def test_several_processes_find_the_same_in_the_order_of_the_key(
    texts: Database, runs: Runs, workers: int
) -> None:
    many = 2000
    texts.execute(EACH_ROW, [1, many])
    assert runs.drain(batch_size=500).completed == many
    with unnoticed(texts):
        texts.execute("update docs set embedding = null where id > 1")
    texts.execute("analyze docs")
    texts.execute(sql.SQL("alter table docs set (parallel_workers = {})").format(workers))
    before = workers_launched(texts)
    found = rows(
        texts,
        "select finding, found, record_ids from verify_embeddings('docs', 'embedding')"
        " where found > 0",
    )
    ids = [str(key) for key in range(2, 12)]
    assert found == [
        ("rows", many, []),
        ("texts", many, []),
        ("vectors", 1, []),
        ("lost", many - 1, ids),
    ]
    if texts.info.server_version >= 180000:
        assert (workers_launched(texts) > before) == (workers > 0)


def workers_launched(db: Database) -> int:
    """How many parallel workers queries of this database have had; 0 before Postgres 18."""
    db.execute("select pg_stat_force_next_flush()")
    known: int = value(
        db,
        "select coalesce((to_jsonb(pg_stat_database) ->> 'parallel_workers_launched')::int, 0)"
        " from pg_stat_database where datname = current_database()",
    )
    return known


def test_weird_names_and_record_ids(
    db: Database, queue: AdminQueue, settings: Settings, runs: Runs
) -> None:
    table = Table(db, 'My "Schema"', "We%ird 'Table'", "k\"e'y", "Te xt", 'Vec"tor')
    table.create("text")
    name = table.watch(8)
    ids = ["<b>bold</b>", "'quoted' \"id\"", "\x1b[31mred", "a|b", "100%", "{1}", "x" * 2100]
    for key in ids:
        table.insert(key, f"text of {key[:50]}")
    runs.drain(batch_size=100)
    with unnoticed(db):
        for key in ids[:-1]:
            table.write(key, None)
    result = verify(queue, settings, name, 'Vec"tor')
    fault = faults(result)["missing"]
    assert set(fault.record_ids) == set(ids)
    assert figures(result, "missing")["lost"] == len(ids) - 1


def test_a_table_that_cannot_be_read_is_refused(
    embedded: Database, queue: AdminQueue, settings: Settings, connect: Connect
) -> None:
    other = connect()
    with other.transaction():
        other.execute("lock table docs")
        with pytest.raises(Busy, match="table docs is locked"):
            verify(queue, settings, "docs")
    embedded.execute("alter table docs rename body to other")
    with pytest.raises((SettingsError, DatabaseError), match="was renamed or dropped"):
        verify(queue, settings, "docs")
    with pytest.raises(SettingsError, match="no table nope"):
        verify(queue, settings, "nope")


def test_row_level_security_hides_nothing(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    embedded.execute("alter table docs enable row level security")
    result = verify(queue, settings, "docs")
    assert figures(result, "missing")["rows"] == ROWS
    assert result.passed


def test_a_column_that_nobody_works_on_is_reported(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    embedded.execute("update embedding_targets set enabled = false")
    result = verify(queue, settings, "docs")
    assert [(name, check.status) for name, check in faults(result).items()] == [("watched", "note")]
    embedded.execute("update embedding_targets set enabled = true, problem = 'it is broken'")
    result = verify(queue, settings, "docs")
    assert faults(result)["watched"].cause == "suspended: it is broken"
    assert not result.passed


def test_all_partitions_are_read(
    db: Database, queue: AdminQueue, settings: Settings, runs: Runs
) -> None:
    db.execute("create table docs (id bigint primary key, body text) partition by hash (id)")
    for part in (0, 1):
        db.execute(
            f"create table docs_{part} partition of docs"
            f" for values with (modulus 2, remainder {part})"
        )
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 8)")
    db.execute(EACH_ROW, [1, ROWS])
    runs.drain(batch_size=100)
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    assert figures(result, "missing")["rows"] == ROWS
    assert figures(result, "sample")["compared"] == ROWS


def test_what_takes_too_long_is_not_made_and_loses_no_other_check(
    two_columns: Database,
    queue: AdminQueue,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: Any, **__: Any) -> Any:
        raise StatementTimeout("the statement took too long")

    two_columns.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    monkeypatch.setattr(queue, "search", slow)
    result = verify(queue, settings, "docs", against="other")
    assert {name: check.conclusive for name, check in faults(result).items()} == {
        "index": False,
        "overlap": False,
    }
    assert not result.passed


# -- the sample


def test_a_model_that_differs_from_itself_raises_the_tolerance(
    embedded: Database, queue: AdminQueue, settings: Settings, openai: OpenAIServer
) -> None:
    noise = np.random.default_rng(1)

    def shaken(vector: Any) -> Any:
        return vector + noise.normal(0, 0.01, len(vector))

    openai.faults += [with_vectors(shaken)] * 10
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    sample = figures(result, "sample")
    assert sample["gate"] < sample["noise_floor"] < 1
    assert sample["lowest"] < 1


def test_texts_that_were_truncated_are_not_compared(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    embedded.execute("update embedding_queue set truncated_to = 3 where record_id <> '5'")
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    sample = figures(result, "sample")
    assert (sample["compared"], sample["excluded"]) == (1, ROWS - 1)
    embedded.execute("update embedding_queue set truncated_to = 3")
    result = verify(queue, settings, "docs")
    assert faults(result)["sample"].cause == (
        f"no text can be compared; embedded only in part: {ROWS}"
    )
    assert result.passed


def test_enhanced_texts_are_not_compared(
    embedded: Database, queue: AdminQueue, settings: Settings, openai: OpenAIServer
) -> None:
    embedded.execute(
        "update embedding_targets set enhance_model = 'ollama:qwen3', enhance_prompt = 'Describe.',"
        " enhance_on_failure = 'wait'"
    )
    openai.requests.clear()
    result = verify(queue, settings, "docs")
    assert "chat model" in (faults(result)["sample"].cause or "")
    assert openai.requests == []
    assert result.passed


@pytest.mark.parametrize("fault", [out_of_quota, unavailable])
def test_without_the_model_the_rest_is_checked_and_it_does_not_pass(
    embedded: Database,
    queue: AdminQueue,
    settings: Settings,
    openai: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
) -> None:
    at_once(monkeypatch, tries_for=0.1)
    openai.faults += [fault] * 100
    result = verify(queue, settings, "docs")
    assert [(name, check.status) for name, check in faults(result).items()] == [("sample", "note")]
    [check] = faults(result).values()
    assert not check.conclusive
    assert (check.cause or "").startswith("not checked: ")
    assert not result.passed
    assert result.summary == "not passed: not checked: sample"
    assert figures(result, "missing")["vectors"] == ROWS


def test_a_model_without_its_key_is_a_note(embedded: Database, queue: AdminQueue) -> None:
    result = verify(queue, Settings(), "docs")
    assert list(faults(result)) == ["sample"]
    assert not result.passed


# -- searches


def test_the_recall_of_the_index_is_measured(
    embedded: Database, queue: AdminQueue, settings: Settings
) -> None:
    assert figures(verify(queue, settings, "docs"), "index") == {"k": 10}
    embedded.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    result = verify(queue, settings, "docs", k=3)
    assert figures(result, "index") == {"recall": 1, "queries": ROWS, "k": 3}


@pytest.fixture
def two_columns(embedded: Database, runs: Runs) -> Database:
    """The same texts in a second column, `other`, with the same model."""
    embedded.execute("select watch_embeddings('docs', 'body', 'other', dimensions => 8)")
    embedded.execute("select backfill_embeddings('docs', 'other')")
    runs.drain(batch_size=100)
    return embedded


def test_the_neighbours_of_both_columns_are_compared(
    two_columns: Database, queue: AdminQueue, settings: Settings
) -> None:
    result = verify(queue, settings, "docs", "other", against="embedding", k=5)
    assert faults(result) == {}
    assert figures(result, "overlap") == {"overlap": 1, "queries": ROWS, "k": 5}
    assert (result.column, result.against) == ("docs.other", "docs.embedding")
    with unnoticed(two_columns):
        two_columns.execute("update docs set other = null where id <= 10")
    result = verify(queue, settings, "docs", "other", against="embedding", k=5)
    assert figures(result, "overlap")["overlap"] < 1
    assert figures(result, "overlap")["queries"] == ROWS - 10


def test_judged_queries_that_find_less_are_a_problem(
    two_columns: Database, queue: AdminQueue, settings: Settings
) -> None:
    queries = [JudgedQuery(str(key), f"text {key}", {str(key): 1}) for key in range(1, 11)]
    options: dict[str, Any] = {"against": "embedding", "queries": queries, "k": 3}
    result = verify(queue, settings, "docs", "other", **options)
    assert faults(result) == {}
    assert figures(result, "queries") == {"queries": 10, "k": 3}
    with unnoticed(two_columns):
        two_columns.execute("update docs set other = null where id <= 9")
    result = verify(queue, settings, "docs", "other", **options)
    assert faults(result)["queries"].status == "problem"
    assert faults(result)["queries"].figures["ndcg_difference"] == -0.9


def test_queries_without_judgments_compare_what_is_found(
    two_columns: Database, queue: AdminQueue, settings: Settings
) -> None:
    queries = [JudgedQuery(str(key), f"text {key}") for key in range(1, 6)]
    result = verify(queue, settings, "docs", "other", against="embedding", queries=queries, k=4)
    assert figures(result, "queries") == {"overlap": 1, "queries": 5, "k": 4}


def test_what_cannot_be_compared_is_refused(
    two_columns: Database, queue: AdminQueue, settings: Settings
) -> None:
    with pytest.raises(SettingsError, match="with itself"):
        verify(queue, settings, "docs", against="embedding")
    with pytest.raises(SettingsError, match="column nope"):
        verify(queue, settings, "docs", against="nope")
    with pytest.raises(SettingsError, match="two columns"):
        verify(queue, settings, "docs", queries=[JudgedQuery("1", "text")])


# -- texts in chunks


@pytest.fixture
def chunked(db: Database, runs: Runs) -> Database:
    """Twenty documents of three chunks."""
    db.execute("create table docs (id bigint primary key, title text, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', dimensions => 8, chunks => true,"
        " context => 'title', chunk_size => 100)"
    )
    for key in range(1, 21):
        write(db, key, document(3, about=f"number {key}"))
    db.execute("update docs set title = 'Title ' || id")
    runs.drain(batch_size=100)
    return db


def test_chunks_as_a_worker_writes_them_pass(
    chunked: Database, queue: AdminQueue, settings: Settings
) -> None:
    result = verify(queue, settings, "docs")
    assert faults(result) == {}
    assert figures(result, "missing") == {"rows": 20, "texts": 20, "vectors": 20, "chunks": 60}
    assert figures(result, "sample")["compared"] == 20


@pytest.mark.parametrize(
    ("plant", "check", "finding"),
    [
        ("update docs set body = 'edited' where id = 3", "stale", "stale"),
        ("update docs set title = 'Other' where id = 3", "stale", "stale"),
        ("delete from docs_chunks where id = 3 and content ~ '^Paragraph 2'", "missing", "lost"),
        ("delete from docs_chunk_places where id = 3", "missing", "lost"),
        ("update docs_chunks set embedding = array_fill(0, '{8}')::vector where id = 3"
         " and content ~ '^Paragraph 2'", "length", "zero"),
        ("update docs_chunks set embedding = (select embedding from docs_chunks limit 1)"
         " where id = 3", "sample", "below"),
    ],
)  # fmt: skip
def test_faults_of_chunks_are_found(
    chunked: Database,
    queue: AdminQueue,
    settings: Settings,
    plant: LiteralString,
    check: str,
    finding: str,
) -> None:
    with unnoticed(chunked):
        chunked.execute(plant)
    result = verify(queue, settings, "docs")
    assert list(faults(result)) == (["overwritten", check] if check in OF_VECTORS else [check])
    assert figures(result, check)[finding] == 1
    [record] = faults(result)[check].record_ids
    assert record.strip("[").split(",")[0] == "3"
