"""A re-embedding from its start to its end: use cases, a real database, a stand-in for models."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest
from psycopg import sql

from tests import conftest
from tests.conftest import Database, Server, rest_in_full, rows, value
from tests.integration.documents import document
from tests.integration.reembeddings import owner_queue as owner_queue
from tests.integration.runs import Runs, at_once
from tests.integration.test_service import serving
from tests.openai_server import (
    Answer,
    OpenAIServer,
    answers,
    out_of_quota,
    vector_for,
    with_vectors,
    wrong_width,
)
from worker.errors import SettingsError, WorkerError
from worker.operations import reembed, reembed_start
from worker.operations.batch_reembedding import BatchReembeddingSystem
from worker.operations.processing import process
from worker.operations.reembed_stages import Reembedder, StageOptions
from worker.operations.search import search
from worker.queue import Reembedding, Store
from worker.queue.postgres import PostgresQueue
from worker.reembedding.config import EmbeddingMigrationConfig
from worker.settings import Settings

OLD = "openai:text-embedding-3-small"
NEW = "openai:text-embedding-3-large"
PROMPT = "new: "
"""Is put before each text for the new vectors, by which requests for them are known."""


@dataclass
class Undertaking:
    """Re-embeds columns, and knows what was asked of the models."""

    db: Database
    queue: PostgresQueue
    openai: OpenAIServer
    settings: Settings

    def start(self, column: str = "docs", **given: Any) -> Reembedding:
        wanted: dict[str, Any] = {"model": NEW, "dimensions": 12, "document_prompt": PROMPT}
        config = EmbeddingMigrationConfig(source_collection=column, **wanted | given)
        return reembed_start.start(
            self.queue, reembed_start.plan_start(self.queue, self.settings, config)
        )

    def go_on(
        self, at: Mapping[str, Callable[[], object]] | None = None, **given: Any
    ) -> Reembedding:
        """Run the stages that are left. `at` has what to do when one begins."""

        def begins(now: Reembedding) -> None:
            if at and now.state in at:
                at[now.state]()

        stages = Reembedder(
            self.queue,
            self.settings,
            on_stage=begins,
            **given,
        )
        return stages.run(reembed.resume(self.queue, self.latest))

    @property
    def latest(self) -> Reembedding:
        return self.queue.reembeddings()[-1]

    @property
    def events(self) -> list[str]:
        return [event.event for event in self.queue.reembedding_events(self.latest)]

    @property
    def failed_checks(self) -> set[str]:
        """Those that the latest verification did not pass."""
        figures = self.queue.reembedding_events(self.latest)[-1].figures or {}
        return {name for name, status in figures["checks"].items() if status == "problem"}

    def work(self) -> None:
        """Do what running workers do."""
        process(self.queue, self.settings)

    @property
    def asked(self) -> Counter[str]:
        """How often the new model was asked for each text."""
        texts = [text for request in self.openai.requests for text in request.texts]
        return Counter(text for text in texts if text.startswith(f"{PROMPT}text "))

    def at_request(self, number: int, call: Callable[[], object]) -> None:
        """Do something while the model has that many requests to answer from now on."""

        def fault(due: Answer) -> Answer:
            call()
            return due

        self.openai.faults += [*[lambda due: due] * (number - 1), fault]


@pytest.fixture
def other(server: Server, database: str) -> Iterator[PostgresQueue]:
    """The queue as somebody else has it."""
    with PostgresQueue(server.direct_url_of(database), "others") as queue:
        yield queue


@pytest.fixture
def work(
    db: Database, queue: PostgresQueue, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> Undertaking:
    at_once(monkeypatch)
    monkeypatch.setattr("worker.operations.reembed_stages.LOOK_AGAIN", 0.05)
    settings = Settings(
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
        embedding_model=OLD,
        embedding_batch_size=10,
        embedding_lease_seconds=5,
    )
    return Undertaking(db, queue, openai, settings)


def fill(work: Undertaking, count: int = 30) -> None:
    """Rows of `docs` with vectors of the old model."""
    work.db.execute(
        "insert into docs (id, body) select i, 'text ' || i from generate_series(1, %s) as i",
        [count],
    )
    work.work()


def edit(db: Database, at: int) -> None:
    """Write a row, and edit one, delete one, empty one and change the key of one, each of which no
    other moment touches."""
    db.execute("insert into docs (id, body) values (%s, %s)", [1000 + at, f"written at {at}"])
    db.execute("update docs set body = %s where id = %s", [f"edited at {at}", 4 * at])
    db.execute("delete from docs where id = %s", [4 * at + 1])
    db.execute("update docs set body = null where id = %s", [4 * at + 2])
    db.execute("update docs set id = id + 2000 where id = %s", [4 * at + 3])


def is_of(text: str | None, vector: list[float] | None) -> bool:
    """Whether a vector is that of a text; without text there is none."""
    if text is None or vector is None:
        return text is None and vector is None
    return np.allclose(vector, vector_for(text, len(vector)), atol=1e-3)


def out_of_step(db: Database, new: str = "embedding_2", prompt: str = PROMPT) -> list[Any]:
    """The rows of `docs` one of whose vectors is not that of its text."""
    beside = value(db, "select to_regclass('docs_' || %s) is not null", new)
    vector = "(select side.embedding from {side} as side where side.id = docs.id)"
    query = sql.SQL(
        "select id, body, embedding::real[], "
        + (vector if beside else "{column}")
        + "::real[] from docs order by id"
    )
    names = {"side": sql.Identifier(f"docs_{new}"), "column": sql.Identifier(new)}
    found = db.execute(query.format(**names)).fetchall()
    assert found
    return [
        key
        for key, body, old, vector in found
        if not (is_of(body, old) and is_of(body and prompt + body, vector))
    ]


def vector_indexes(db: Database) -> list[str]:
    """What the vector indexes are, after the name of their table."""
    found = rows(db, "select indexdef from pg_indexes where indexdef ~ 'hnsw' order by indexdef")
    indexes = [definition.partition(" USING ")[2] for (definition,) in found]
    return [re.sub(r"WITH \((.*), (.*)\)", _with_sorted_options, index) for index in indexes]


def _with_sorted_options(options: re.Match[str]) -> str:
    return f"WITH ({', '.join(sorted(options.groups()))})"


# Everything that a re-embedding could leave behind.
TRACES: LiteralString = """
    select 'column', attrelid::regclass || '.' || attname || format_type(atttypid, atttypmod)
      from pg_attribute where attrelid::regclass::text ~ '^(docs|parts)' and attnum > 0
       and not attisdropped
    union all select 'relation', oid::regclass::text from pg_class
     where relnamespace = 'public'::regnamespace
    union all select 'function', oid::regprocedure::text from pg_proc
     where pronamespace in ('public'::regnamespace, 'embedding'::regnamespace)
    union all select 'trigger', tgname || tgrelid::regclass from pg_trigger
    union all select 'target', (to_jsonb(target) - 'model_is_default')::text
      from embedding_targets as target
    union all select 'job', record_id || embedding_column from embedding_queue
    union all select 're-embedding', id::text from embedding_reembeddings
    order by 1, 2
"""


# -- all the way


@pytest.mark.parametrize("store", rest_in_full(["column", "table"]))
def test_from_the_start_to_the_swap_and_back(
    texts: Database, work: Undertaking, store: Store
) -> None:
    texts.execute(
        "create index on docs using hnsw (embedding vector_ip_ops)"
        " with (m = 8, ef_construction = 40)"
    )
    fill(work)
    work.openai.requests.clear()
    begun = work.start(max_retries=7, store=store)
    assert (begun.state, begun.new_column, begun.dimensions) == ("filling", "embedding_2", 12)
    shadow = "select max_attempts, priority from embedding_targets where role = 'shadow'"
    assert rows(texts, shadow) == [(7, -10)]
    during: list[int] = []
    ready = work.go_on({"verifying": lambda: during.append(max(work.asked.values()))})
    assert (ready.state, ready.problem, during) == ("ready", None, [1])
    assert len(work.asked) == 30
    assert out_of_step(texts) == []
    assert vector_indexes(texts) == [
        f"hnsw ({column} vector_ip_ops) WITH (ef_construction='40', m='8')"
        for column in ("embedding_2" if store == "column" else "embedding", "embedding")
    ]
    progress = work.queue.reembedding_progress(ready)
    assert (progress.rows, progress.done, progress.pending, progress.failed) == (30, 30, 0, 0)
    assert work.events == ["started", "indexing", "verifying", "ready"]
    asked = len(work.openai.requests)
    assert work.go_on() == ready
    assert len(work.openai.requests) == asked

    for step, width, model in (
        (reembed.swap, 12, NEW),
        (reembed.roll_back, 8, OLD),
        (reembed.swap, 12, NEW),
    ):
        step(work.queue, work.latest)
        for column in (None, "embedding"):  # people name what they always named
            found = search(work.queue, work.settings, "text 7", table="docs", column=column)
            request = work.openai.requests[-1].body
            assert (request["model"], request["dimensions"]) == (model.split(":")[1], width)
            assert len(found) == 5
        edit(texts, work.latest.id + len(work.events))
        work.work()
        assert out_of_step(texts) == []
    finished = reembed.finish(work.queue, work.latest, rename=True)
    assert finished.state == "finished"
    columns = "select embedding_column, serves, role, model from embedding_targets"
    assert rows(texts, columns) == [("embedding", None, "serving", f"{NEW}")]
    texts.execute("insert into docs values (5000, 'after the end')")
    work.work()
    table = "docs" if store == "column" else "docs_embedding"
    [[stored]] = texts.execute(f"select embedding::real[] from {table} where id = 5000".encode())
    assert is_of(PROMPT + "after the end", stored)


@pytest.mark.parametrize("store", rest_in_full(["column", "table"]))
def test_edits_at_any_moment_end_in_both_stores(
    texts: Database, work: Undertaking, store: Store
) -> None:
    fill(work)
    edit(texts, 1)
    work.start(store=store)
    edit(texts, 2)
    stages = ("filling", "indexing", "verifying")
    at = {stage: partial(edit, texts, 3 + place) for place, stage in enumerate(stages)}
    ended = work.go_on(at)
    edit(texts, 6)
    work.work()
    assert out_of_step(texts) == []
    assert work.go_on().state == "ready", ended.problem
    assert work.latest.problem is None


def test_what_was_embedded_is_not_paid_for_again_whatever_stage_failed(
    texts: Database, work: Undertaking, other: PostgresQueue
) -> None:
    texts.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    count = 300  # more than are in flight at once
    fill(work, count)
    work.start()
    # filling is stopped
    stop = Event()
    work.at_request(2, stop.set)
    assert work.go_on(stop=stop).state == "filling"
    filled = work.asked
    assert 0 < len(filled) < count
    # the model is out
    work.openai.faults += [out_of_quota] * 20
    with pytest.raises(WorkerError) as out:
        work.go_on()
    assert work.latest.state == "filling"
    assert work.latest.problem == out.value.cause
    work.openai.faults.clear()
    work.openai.requests.clear()
    # the index cannot be built, then its build is stopped
    with psycopg.connect(texts.info.dsn) as builder:
        builder.execute("select embedding.lock_vector_index('docs', 'embedding_2')")
        with pytest.raises(WorkerError, match="builds an index"):
            work.go_on()
    assert (work.latest.state, "builds an index" in str(work.latest.problem)) == ("indexing", True)
    stop.clear()
    assert work.go_on({"indexing": stop.set}, stop=stop).state == "indexing"
    assert len(vector_indexes(texts)) == 1
    # nothing was asked for twice up to here
    filled += work.asked
    # the verification cannot ask the model
    work.openai.faults += [out_of_quota] * 20
    unverified = work.go_on()
    assert (unverified.state, unverified.problem) == (
        "verifying",
        "not passed: not checked: sample",
    )
    work.openai.faults.clear()
    assert work.go_on().state == "ready"
    assert out_of_step(texts) == []
    assert (len(filled), set(filled.values())) == (count, {1})
    assert work.events == [
        *("started", "problem", "indexing", "problem"),
        *("verifying", "problem", "ready"),
    ]


# -- what changes nothing


def test_a_start_that_cannot_be_leaves_no_trace(texts: Database, work: Undertaking) -> None:
    fill(work, 5)
    texts.execute("create table parts (id bigint primary key, body text) partition by range (id)")
    texts.execute("select watch_embeddings('parts', 'body', 'embedding', dimensions => 3)")
    before = rows(texts, TRACES)
    wrong_key = answers(401, {"error": {"message": "Incorrect API key"}})
    cases: list[tuple[dict[str, Any], list[Any], str]] = [
        ({"model": "openai:no-such-model"}, [], "no-such-model"),
        ({"model": "nobody:model"}, [], "nobody"),
        ({"dimensions": 4000}, [], "dimensions"),
        ({"model": "openai:text-embedding-ada-002"}, [], "dimensions"),
        ({}, [wrong_width] * 9, "11|dimensions"),
        ({}, [wrong_key] * 9, "key"),
        ({}, [out_of_quota] * 9, "quota"),
        ({"column": "docs.body"}, [], "not watched"),
        ({"column": "nothing"}, [], "not watched"),
        ({"column": "parts", "dimensions": 12, "store": "column"}, [], "partitioned"),
        ({"target_collection": "body"}, [], "column body"),
        ({"target_collection": "c" * 64}, [], "column c"),
        ({"model": OLD, "dimensions": 8, "document_prompt": None}, [], "already"),
    ]
    for given, faults, said in cases:
        work.openai.faults += faults
        with pytest.raises(WorkerError, match=said) as refused:
            pytest.fail(f"{given}: {work.start(**given)}")
        assert refused.value.hint, given
        work.openai.faults.clear()
        assert rows(texts, TRACES) == before, given


def test_a_cancelled_one_leaves_only_its_record(texts: Database, work: Undertaking) -> None:
    fill(work, 5)
    before = rows(texts, TRACES)
    work.start()
    assert work.go_on().state == "ready"
    assert reembed.cancel(work.queue, work.latest).state == "cancelled"
    assert set(rows(texts, TRACES)) - set(before) == {("re-embedding", "1")}
    assert set(before) <= set(rows(texts, TRACES))
    with pytest.raises(SettingsError, match="cancelled, not"):
        reembed.swap(work.queue, work.latest)


def test_a_configuration_goes_on_only_with_what_it_has_begun(
    texts: Database, work: Undertaking
) -> None:
    fill(work, 5)
    begun = work.start()
    same = reembed.config_of(begun)
    reembed.check_same(begun, same)
    reembed.check_same(begun, replace(same, dimensions=None, batch_size=7))
    for other in (
        replace(same, model=OLD),
        replace(same, dimensions=13),
        replace(same, document_prompt=None),
        replace(same, document_prompt="another: "),
    ):
        with pytest.raises(SettingsError, match="not as the configuration says"):
            reembed.check_same(begun, other)
        system = BatchReembeddingSystem(other, replace(work.settings, database_url=texts.info.dsn))
        with pytest.raises(SettingsError, match="not as the configuration says"):
            asyncio.run(system.run_reembedding_process())


# -- somebody else


def test_somebody_else_pauses_and_cancels_it_while_it_is_filled(
    texts: Database, work: Undertaking, other: PostgresQueue
) -> None:
    fill(work, 200)
    work.start()
    work.at_request(2, lambda: reembed.pause(other, work_of(other)))
    paused = work.go_on()
    assert (paused.state, paused.problem) == ("paused", None)
    edit(texts, 1)
    work.work()  # running workers leave it alone
    assert len(work.asked) < 200
    work.at_request(2, lambda: reembed.cancel(other, work_of(other)))
    cancelled = work.go_on()
    assert (cancelled.state, cancelled.problem) == ("cancelled", None)
    assert work.events == ["started", "paused", "resumed", "cancelled"]
    columns = "select array_agg(embedding_column) from embedding_targets"
    assert value(texts, columns) == ["embedding"]


def work_of(queue: PostgresQueue) -> Reembedding:
    return reembed.find_reembedding(queue, "docs.embedding")


def test_a_second_driver_helps_to_fill_and_both_end(
    texts: Database, work: Undertaking, other: PostgresQueue
) -> None:
    fill(work, 60)
    work.start()
    second = replace(work, queue=other)
    done: list[Future[Reembedding]] = []
    with ThreadPoolExecutor(1) as pool:
        work.at_request(2, lambda: done.append(pool.submit(second.go_on)))
        assert work.go_on().state == "ready"
        assert done[0].result().state == "ready"
    assert out_of_step(texts) == []


def test_running_workers_fill_it_and_the_stages_after_it_follow(
    texts: Database, work: Undertaking, runs: Runs, other: PostgresQueue
) -> None:
    fill(work)
    with serving(runs, other):
        begun = work.start()
        reembed.enqueue(work.queue, begun)
        texts.execute("insert into docs values (100, 'text 100')")
        conftest.eventually(lambda: len(work.asked) == 31, 20)
        filled = "select count(embedding_2) from docs"
        conftest.eventually(lambda: value(texts, filled) == 31, 20)
        assert work.go_on({"verifying": lambda: edit(texts, 1)}).state in ("ready", "verifying")
        conftest.eventually(lambda: out_of_step(texts) == [], 20)
    assert work.go_on().state == "ready"


def test_paused_workers_leave_it_with_the_reason(texts: Database, work: Undertaking) -> None:
    fill(work, 10)
    work.start()
    work.queue.control("pause")
    waiting = work.go_on()
    assert waiting.state == "filling"
    assert "paused" in str(waiting.problem)
    work.queue.control("work")
    assert work.go_on().state == "ready"


# -- texts and vectors that are wrong


def test_texts_that_only_the_new_model_refuses(texts: Database, work: Undertaking) -> None:
    fill(work)
    work.openai.reject = lambda text: text in (f"{PROMPT}text 3", f"{PROMPT}text 4")
    work.start()
    stuck = work.go_on()
    assert stuck.state == "verifying"
    assert "1 check" in str(stuck.problem), stuck.problem
    assert work.queue.reembedding_progress(stuck).failed == 2
    with pytest.raises(SettingsError, match="verifying, not ready"):
        reembed.swap(work.queue, stuck)
    assert reembed.retry_failed(work.queue, work.latest) == 2
    assert work.go_on().state == "verifying"
    work.openai.reject = lambda text: text == f"{PROMPT}text 4"
    reembed.retry_failed(work.queue, work.latest)
    assert work.go_on().state == "verifying"
    assert work.queue.reembedding_progress(stuck).failed == 1
    assert reembed.swap(work.queue, work.latest, verified=False).state == "swapped"
    work.openai.reject = None
    assert reembed.retry_failed(work.queue, work.latest) == 1
    work.work()
    assert out_of_step(texts) == []
    assert work.latest.state == "swapped"


def test_wrong_vectors_do_not_pass(texts: Database, work: Undertaking) -> None:
    fill(work)
    work.start()

    def plant() -> None:
        texts.execute("set session_replication_role = replica")
        texts.execute("update docs set embedding_2 = (select embedding_2 from docs where id = 5)")
        texts.execute("update docs set embedding_2 = null where id = 6")
        texts.execute("reset session_replication_role")

    stuck = work.go_on({"verifying": plant})
    assert (stuck.state, stuck.problem) == (
        "verifying",
        work.latest.problem,
    )
    assert str(stuck.problem).startswith("not passed: "), stuck.problem
    assert work.failed_checks == {"missing", "overwritten", "sample"}
    assert work.go_on(options=StageOptions(verifies=False)).state == "verifying"


def test_a_model_that_is_another_one_after_a_pause_does_not_pass(
    texts: Database, work: Undertaking, other: PostgresQueue
) -> None:
    fill(work, 200)
    work.start()
    work.at_request(1, lambda: reembed.pause(other, work_of(other)))
    assert work.go_on().state == "paused"
    assert 0 < len(work.asked) < 200
    work.openai.faults += [with_vectors(lambda vector: vector[::-1])] * 100
    stuck = work.go_on()
    assert stuck.state == "verifying"
    assert work.failed_checks == {"sample"}


# -- columns of all kinds


def test_texts_in_chunks_with_searches_by_passages(db: Database, work: Undertaking) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 8, chunks => true,"
        " chunk_size => 100)"
    )
    for key in range(1, 6):
        db.execute("insert into docs values (%s, %s)", [key, document(4, f"house {key}")])
    work.work()
    work.start(query_prompt=PROMPT)
    assert work.go_on().state == "ready", work.latest.problem
    assert vector_indexes(db) == []
    [(passage, place)] = rows(
        db, "select content, first_char from docs_passages where id = 3 and position = 2"
    )

    def is_found() -> bool:
        found = search(work.queue, work.settings, passage, table="docs")[0]
        return (found.record_id, found.content, found.first_char) == ("3", passage, place)

    assert is_found()
    reembed.swap(work.queue, work.latest)
    assert is_found()
    assert work.openai.requests[-1].body["dimensions"] == 12
    db.execute("update docs set body = %s where id = 2", [document(2, "a new house")])
    work.work()
    counts = "select count(*) from {} where id = 2"
    for stem in ("docs", "docs_embedding_2"):
        query = sql.SQL(counts).format(sql.Identifier(f"{stem}_passages"))
        assert db.execute(query).fetchall() == [(2,)]
    reembed.roll_back(work.queue, work.latest)
    assert is_found()
    reembed.swap(work.queue, work.latest)
    assert reembed.finish(work.queue, work.latest, rename=True).state == "finished"
    assert is_found()
    assert rows(db, "select count(*) from docs_passages where id = 2") == [(2,)]


def test_wide_vectors_are_halfvecs_with_an_index_of_theirs(
    texts: Database, work: Undertaking
) -> None:
    texts.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    fill(work, 12)
    work.start(dimensions=3000)
    assert work.go_on().state == "ready"
    assert vector_indexes(texts)[0] == "hnsw (embedding_2 halfvec_cosine_ops)"
    assert value(texts, "select pg_typeof(embedding_2)::text from docs limit 1") == "halfvec"
    assert out_of_step(texts) == []
    reembed.swap(work.queue, work.latest)
    assert len(search(work.queue, work.settings, "text 7", table="docs")) == 5


def test_any_names_and_a_key_of_two_columns(db: Database, work: Undertaking) -> None:
    db.execute('create schema "My %s"')
    db.execute(
        'create table "My %s"."T ""x.; é" ("Id 1" integer, b text, "Bo dy" text,'
        ' primary key (b, "Id 1"))'.replace("%s", "%%s"),
        (),
    )
    db.execute(
        'select watch_embeddings(\'"My %%s"."T ""x.; é"\', \'Bo dy\', \'E "v\', dimensions => 8)',
        (),
    )
    db.execute(
        'insert into "My %%s"."T ""x.; é" select i, chr(64 + i), \'text \' || i'
        " from generate_series(1, 9) as i",
        (),
    )
    work.work()
    [target] = work.queue.targets()
    begun = work.start(f'{target.table_name}.E "v', target_collection='N "ew')
    assert begun.new_column == 'N "ew'
    assert work.go_on().state == "ready", work.latest.problem
    reembed.swap(work.queue, work.latest)
    reembed.roll_back(work.queue, work.latest)
    reembed.swap(work.queue, work.latest)
    assert reembed.finish(work.queue, work.latest, rename=True).state == "finished"
    found = rows(db, 'select "Bo dy", "E ""v"::real[] from "My %s"."T ""x.; é"')
    assert len(found) == 9
    assert all(is_of(PROMPT + text, vector) for text, vector in found)


@pytest.mark.parametrize(
    "given",
    rest_in_full(
        [{"dimensions": 8}, {"document_prompt": None}, {"dimensions": 8, "model": NEW}], 2
    ),
    ids=["prompt", "width", "model"],
)
def test_the_same_model_can_get_another_width_or_prompt(
    texts: Database, work: Undertaking, given: dict[str, Any]
) -> None:
    fill(work, 12)
    work.start(**{"model": OLD} | given)
    assert work.go_on().state == "ready", work.latest.problem
    reembed.swap(work.queue, work.latest)
    edit(texts, 1)
    work.work()
    prompt = given.get("document_prompt", PROMPT) or ""
    assert out_of_step(texts, prompt=prompt) == []


def test_without_texts_or_old_vectors_it_gets_ready_as_well(
    texts: Database, work: Undertaking
) -> None:
    work.start()
    assert work.go_on().state == "ready", work.latest.problem
    reembed.cancel(work.queue, work.latest)
    texts.execute("insert into docs values (1, 'never embedded'), (2, null), (3, ' ')")
    work.start()
    texts.execute("update embedding_targets set enabled = false where role = 'serving'")
    assert work.go_on().state == "ready", work.latest.problem
    assert rows(
        texts, "select id, embedding is null, embedding_2 is null from docs order by id"
    ) == [
        (1, True, False),
        (2, True, True),
        (3, True, True),
    ]
