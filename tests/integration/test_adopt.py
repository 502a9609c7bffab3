"""Vectors of another tool count as made by a model, if a sample shows that, and no text is embedded
for the rest. An edit always wins."""

from __future__ import annotations

from threading import Event
from typing import Any, LiteralString

import pytest

from tests.conftest import Database, rows, value
from tests.integration.runs import WIDTH, Runs
from tests.integration.tables import Connect, jobs
from tests.openai_server import OpenAIServer, vector_for, with_vectors
from worker.errors import AdoptionRefused, SettingsError
from worker.operations.adoption import SAMPLE, Adoption, adopt
from worker.operations.session import connected
from worker.operations.verify import verify
from worker.operations.watching import watch
from worker.queue import AdminQueue, WatchOptions
from worker.queue.postgres import PostgresQueue
from worker.settings import Settings
from worker.verification.comparison import CANARIES

MODEL = "openai:text-embedding-3-small"
ROWS = 40
COMPLETED = [(str(number), "completed") for number in range(1, ROWS + 1)]


@pytest.fixture
def settings(openai: OpenAIServer) -> Settings:
    return Settings(
        embedding_model="openai:text-embedding-ada-002",  # no default has a say
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
    )


@pytest.fixture
def own(queue: AdminQueue) -> PostgresQueue:
    return connected(queue)


def fill(db: Database, kind: LiteralString = "vector(8)", before: str = "") -> Database:
    """Make `docs` with the vectors of its texts, as another tool has left it."""
    db.execute(f"create table docs (id bigint primary key, body text, views int, embedding {kind})")
    for number in range(1, ROWS + 1):
        text = f"text {number}"
        write(db, number, text, vector_for(before + text, WIDTH).tolist())
    return db


def write(db: Database, number: int, text: str | None, vector: list[float] | None) -> None:
    db.execute(
        "insert into docs values (%s, %s, 0, %s::text::vector)",
        [number, text, None if vector is None else str(vector)],
    )


@pytest.fixture
def filled(db: Database) -> Database:
    return fill(db)


def adopted(queue: PostgresQueue, settings: Settings, **options: Any) -> Adoption:
    return adopt(queue, settings, "docs", "embedding", MODEL, source="body", options=options)  # type: ignore[arg-type]


def sent(openai: OpenAIServer) -> int:
    """How many texts were embedded, without the probe of a width."""
    return sum(len(request.texts) for request in openai.requests)


# -- what is adopted


@pytest.mark.parametrize("kind", ["vector(8)", "halfvec(8)"])
def test_vectors_of_the_model_are_adopted_without_a_call_for_them(
    db: Database, own: PostgresQueue, settings: Settings, runs: Runs, kind: LiteralString
) -> None:
    before = rows(fill(db, kind), "select id, embedding::text from docs order by id")
    done = adopted(own, settings)
    assert (done.adopted, done.pending, done.left_alone, done.locked) == (ROWS, 0, 0, 0)
    assert done.sample
    assert done.sample.figures["compared"] == SAMPLE
    assert jobs(db) == COMPLETED
    assert sent(runs.server) == SAMPLE + 2 * len(CANARIES)
    assert runs.drain().completed == 0
    assert rows(db, "select id, embedding::text from docs order by id") == before
    assert verify(own, settings, "docs").passed
    target = own.target("docs", "embedding")
    assert (target.model, target.document_prompt, target.model_is_default) == (MODEL, "", False)


def test_rows_without_a_vector_are_pending_and_others_keep_theirs(
    filled: Database, own: PostgresQueue, settings: Settings, runs: Runs
) -> None:
    filled.execute("update docs set embedding = null where id <= 2")
    write(filled, 100, None, [1.0] * WIDTH)
    write(filled, 101, " \u00a0", [1.0] * WIDTH)
    write(filled, 102, "zeros", [0.0] * WIDTH)
    done = adopted(own, settings)
    assert (done.adopted, done.pending, done.left_alone) == (ROWS - 2, 3, 2)
    assert rows(filled, "select record_id from embedding_queue where status = 'pending'") == [
        ("102",), ("1",), ("2",)
    ]  # fmt: skip
    assert runs.drain().completed == 3
    without_text = rows(filled, "select embedding::text from docs where id in (100, 101)")
    assert without_text == [("[1,1,1,1,1,1,1,1]",)] * 2


def test_a_vector_of_another_width_is_not_one_of_the_model(
    db: Database, own: PostgresQueue, settings: Settings
) -> None:
    db.execute("create table docs (id bigint primary key, body text, views int, embedding vector)")
    for number in range(1, ROWS + 1):
        write(db, number, f"text {number}", vector_for(f"text {number}", 1536).tolist())
    write(db, 100, "short", vector_for("short", 1535).tolist())
    value(db, "select watch_embeddings('docs', 'body', 'embedding', %s)::text", MODEL)
    own.adopt(own.target("docs", "embedding"), MODEL, 1536, None)
    assert jobs(db) == [*COMPLETED, ("100", "pending")]


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("tenant int, lang text, primary key (tenant, lang)", "i, 'd\"e' || i"),
        ("name text primary key", "repeat('x', case when i = 7 then 2100 else i end)"),
    ],
)
def test_every_key_is_walked_in_its_order(
    db: Database, own: PostgresQueue, key: LiteralString, keys: LiteralString
) -> None:
    db.execute(f"create table docs ({key}, body text, embedding vector(3))")
    db.execute(
        f"insert into docs select {keys}, 'text ' || i, '[1,2,3]' from generate_series(1, 9) i"
    )
    value(db, "select watch_embeddings('docs', 'body', 'embedding', 'ollama:m')::text")
    target = own.target("docs", "embedding")
    after, adopted, calls = None, 0, 0
    while calls == 0 or after is not None:
        found = own.adopt(target, "ollama:m", 3, after, 4)
        adopted, after, calls = adopted + found.adopted, found.looked_to, calls + 1
    too_long = value(db, "select count(*) from embedding_queue where error_class = 'key_too_long'")
    assert (adopted + too_long, calls) == (9, 3)
    assert value(db, "select count(*) from embedding_queue") == 9


def test_rows_outside_the_filter_and_rows_that_raise_are_told_apart(
    filled: Database, own: PostgresQueue, settings: Settings
) -> None:
    filled.execute("update docs set views = id - 7")
    options = WatchOptions(filter="12 / views is not null and id <> 9")
    done = adopt(own, settings, "docs", "embedding", MODEL, source="body", options=options)
    assert (done.adopted, done.pending, done.left_alone) == (ROWS - 2, 1, 1)
    assert rows(filled, "select record_id from embedding_queue where status = 'pending'") == [
        ("7",)
    ]


# -- what is refused, before anything is changed


def refused(db: Database, own: PostgresQueue, settings: Settings, **options: Any) -> str:
    with pytest.raises(AdoptionRefused) as refusal:
        adopted(own, settings, **options)
    assert value(db, "select count(*) from embedding_targets") == 0
    assert value(db, "select count(*) from pg_trigger where tgrelid = 'docs'::regclass") == 0
    return f"{refusal.value.cause} {refusal.value.hint}"


def test_vectors_of_another_model_are_refused(
    db: Database, own: PostgresQueue, settings: Settings, openai: OpenAIServer
) -> None:
    fill(db, before="passage: ")
    assert "20 of 20 sampled vectors are not those" in refused(db, own, settings)
    assert sent(openai) == SAMPLE + 2 * len(CANARIES)
    assert adopted(own, settings, document_prompt="passage: ").adopted == ROWS
    assert own.target("docs", "embedding").document_prompt == "passage: "


def test_some_stale_vectors_are_refused_with_their_records(
    filled: Database, own: PostgresQueue, settings: Settings
) -> None:
    filled.execute("delete from docs where id > 20")
    filled.execute("update docs set body = 'edited' where id in (3, 5)")
    said = refused(filled, own, settings)
    assert "2 of 20 sampled vectors" in said
    assert "changed after they were embedded" in said
    filled.execute("update docs set embedding = null where id in (3, 5)")
    assert (adopted(own, settings).adopted, len(jobs(filled))) == (18, 20)


def test_vectors_of_other_lengths_are_refused(
    filled: Database, own: PostgresQueue, settings: Settings
) -> None:
    filled.execute("update docs set embedding = embedding * array_fill(3, array[8])::vector")
    assert "but 3 to 3 times its length" in refused(filled, own, settings)
    filled.execute("update docs set embedding = l2_normalize(embedding)")
    assert adopted(own, settings).adopted == ROWS


def test_a_model_that_gives_other_vectors_each_time_is_refused(
    filled: Database, own: PostgresQueue, settings: Settings, openai: OpenAIServer
) -> None:
    openai.faults += [with_vectors(lambda vector: vector[::-1])]
    assert "not compared: the model gives very different vectors" in refused(filled, own, settings)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (WatchOptions(chunks=True), "--adopt contradicts --chunks"),
        (WatchOptions(store="table"), "--adopt contradicts --store table"),
        (WatchOptions(enhance="openai:gpt-4o-mini"), "--adopt contradicts --enhance"),
        (WatchOptions(model="ollama:bge-m3"), "contradicts --model ollama:bge-m3"),
    ],
)
def test_what_has_no_vectors_to_adopt_is_refused_without_a_call(
    filled: Database,
    own: PostgresQueue,
    settings: Settings,
    openai: OpenAIServer,
    options: WatchOptions,
    said: str,
) -> None:
    with pytest.raises(SettingsError, match=said):
        adopted(own, settings, **options)
    filled.execute("update docs set embedding = null")
    with pytest.raises(SettingsError, match="has no vector of a text to adopt"):
        adopted(own, settings)
    assert openai.requests == []


# -- a column that is watched already


def test_a_watched_column_adopts_only_what_has_no_job(
    filled: Database, own: PostgresQueue, settings: Settings, runs: Runs
) -> None:
    watch(own, settings, "docs", "embedding", source="body", options=WatchOptions(model=MODEL))
    filled.execute("update docs set body = 'edited' where id <= 5")
    done = adopted(own, settings)
    assert (done.adopted, done.pending) == (ROWS - 5, 0)
    assert runs.drain().completed == 5
    runs.server.requests.clear()
    again = adopted(own, settings)
    assert (again.sample, again.adopted, again.pending) == (None, 0, 0)
    assert runs.server.requests == []


def test_a_column_with_vectors_of_another_model_keeps_them(
    filled: Database, own: PostgresQueue, settings: Settings
) -> None:
    watch(
        own, settings, "docs", "embedding", source="body",
        options=WatchOptions(model="openai:text-embedding-3-large"),
    )  # fmt: skip
    with pytest.raises(SettingsError, match="holds vectors of openai:text-embedding-3-large"):
        adopted(own, settings)


def test_it_goes_on_where_it_was_killed(
    filled: Database, own: PostgresQueue, settings: Settings, openai: OpenAIServer
) -> None:
    stop = Event()
    stop.set()
    adopt(own, settings, "docs", "embedding", MODEL, source="body", stop=stop)
    own.adopt(own.target("docs", "embedding"), MODEL, WIDTH, None, 15)
    assert len(jobs(filled)) == 15
    filled.execute("update docs set body = 'edited' where id = 40")
    assert adopted(own, settings).adopted == ROWS - 16
    assert sorted(jobs(filled)) == sorted([*COMPLETED[:-1], ("40", "pending")])


# -- edits meanwhile


def test_a_row_that_is_edited_meanwhile_is_embedded(
    filled: Database, own: PostgresQueue, settings: Settings, connect: Connect, runs: Runs
) -> None:
    watch(own, settings, "docs", "embedding", source="body", options=WatchOptions(model=MODEL))
    target = own.target("docs", "embedding")
    editor = connect()
    with editor.transaction():
        editor.execute("update docs set body = 'edited' where id = 3")
        editor.execute("update docs set views = 9 where id = 4")
        found = own.adopt(target, MODEL, WIDTH, None)
        assert (found.adopted, found.locked) == (ROWS - 2, 2)
    found = own.adopt(target, MODEL, WIDTH, None)
    assert (found.adopted, found.locked) == (1, 0)
    assert ("3", "pending") in jobs(filled)
    assert runs.drain().completed == 1
    assert verify(own, settings, "docs").passed


def test_an_edit_after_the_adoption_is_embedded_and_taking_it_back_is_free(
    filled: Database, own: PostgresQueue, settings: Settings, runs: Runs
) -> None:
    adopted(own, settings)
    filled.execute("update docs set body = 'edited' where id = 3")
    filled.execute("update docs set body = 'text 3' where id = 3")
    filled.execute("update docs set body = 'edited' where id = 4")
    assert runs.drain().completed == 1


# -- the audit


def test_it_is_audited_with_what_the_sample_showed(
    filled: Database, own: PostgresQueue, settings: Settings
) -> None:
    adopted(own, settings)
    entries = own.audit("docs")
    assert [entry.event for entry in entries] == ["adopted", "watched"]
    figures = entries[0].figures or {}
    assert (figures["model"], figures["adopted"], figures["compared"]) == (MODEL, ROWS, SAMPLE)
