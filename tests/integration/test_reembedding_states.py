"""The states of a re-embedding: each step and each forbidden one, and the record of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, LiteralString

import psycopg
import pytest

from tests.conftest import Database, rest_in_full, rows, value
from tests.integration.reembeddings import (
    NAME,
    NEW,
    OLD,
    create_embedded,
    embed_all,
    fill,
    make_ready,
    make_swapped,
    start,
    state,
    stores,
)
from tests.integration.tables import Connect, create_role, refusal
from worker.errors import SettingsError
from worker.queue.postgres import PostgresQueue

pytestmark = pytest.mark.usefixtures("searched")


FIRST_TABLES = {"searched": create_embedded}


@pytest.fixture
def searched(db: Database) -> Database:
    """A table `docs` whose rows have their vectors of the old model."""
    return db


# -- the steps

STEPS: dict[str, Callable[[PostgresQueue], Any]] = {
    "pause": lambda queue: queue.pause_reembedding(*NAME),
    "resume": lambda queue: queue.resume_reembedding(*NAME),
    "swap": lambda queue: queue.swap_reembedding(*NAME),
    "swap unverified": lambda queue: queue.swap_reembedding(*NAME, figures={"verified": False}),
    "rollback": lambda queue: queue.rollback_reembedding(*NAME),
    "cancel": lambda queue: queue.cancel_reembedding(*NAME),
    "finish": lambda queue: queue.finish_reembedding(*NAME),
}
ALLOWED = {
    "filling": {"pause": "paused", "cancel": "cancelled"},
    "paused": {"resume": "filling", "cancel": "cancelled"},
    "indexing": {"swap unverified": "swapped", "cancel": "cancelled"},
    "verifying": {"swap unverified": "swapped", "cancel": "cancelled"},
    "ready": {"swap": "swapped", "swap unverified": "swapped", "cancel": "cancelled"},
    "swapped": {"rollback": "ready", "finish": "finished"},
    "finished": {},
    "cancelled": {},
}


def bring_to(queue: PostgresQueue, wanted: str) -> None:
    reembedding = start(queue)
    if wanted == "paused":
        queue.pause_reembedding(*NAME)
    elif wanted == "cancelled":
        queue.cancel_reembedding(*NAME)
    elif wanted != "filling":
        for stage in ("indexing", "verifying", "ready"):
            reembedding = queue.advance_reembedding(reembedding, stage)
            if stage == wanted:
                return
        queue.swap_reembedding(*NAME)
        if wanted == "finished":
            queue.finish_reembedding(*NAME)


@pytest.mark.parametrize("before", ALLOWED)
def test_each_state_allows_its_steps_and_no_others(
    db: Database, queue: PostgresQueue, before: str
) -> None:
    bring_to(queue, before)
    targets = "select id, embedding_column, role, enabled, priority from embedding_targets"
    known = rows(db, targets)
    for step, take in STEPS.items():
        if step in ALLOWED[before]:
            continue
        with pytest.raises(SettingsError, match=f"embedding of table docs is {before}, not "):
            take(queue)
    assert rows(db, targets) == known


@pytest.mark.parametrize(
    ("before", "step"),
    rest_in_full([(before, step) for before, steps in ALLOWED.items() for step in steps], first=6),
)
def test_a_step_that_is_allowed_is_taken(
    db: Database, queue: PostgresQueue, before: str, step: str
) -> None:
    bring_to(queue, before)
    after = STEPS[step](queue)
    assert after.state == state(db) == ALLOWED[before][step]
    assert (after.swapped_at is not None) == (after.state in ("swapped", "finished"))
    assert (after.ended_at is not None) == (after.state in ("finished", "cancelled"))
    latest = queue.reembedding_events(after)[-1]
    assert (latest.from_state, latest.to_state, latest.source) == (before, after.state, "api")


STAGES = ["filling", "paused", "indexing", "verifying", "ready", "swapped", "finished"]
ADVANCES = {
    *(("filling", "indexing"), ("indexing", "verifying"), ("verifying", "ready")),
    *((stage, "filling") for stage in ("indexing", "verifying", "ready")),
    *((stage, stage) for stage in ("filling", "indexing", "verifying", "ready")),
    ("ready", "verifying"),
}


@pytest.mark.parametrize("before", STAGES)
def test_stages_follow_one_another(db: Database, queue: PostgresQueue, before: str) -> None:
    bring_to(queue, before)
    call = "select state from advance_reembedding('docs', 'embedding', %s, %s)"
    for after in STAGES:
        with db.transaction(force_rollback=True):
            if (before, after) in ADVANCES:
                assert value(db, call, before, after) == after
            else:
                with pytest.raises(psycopg.errors.InvalidParameterValue, match="does not go from"):
                    db.execute(call, [before, after])


def test_a_stage_that_failed_says_why_until_it_goes_on(queue: PostgresQueue) -> None:
    begun = start(queue)
    failed = queue.advance_reembedding(begun, "filling", figures={"problem": "no key"})
    assert (failed.state, failed.problem) == ("filling", "no key")
    assert queue.advance_reembedding(failed, "indexing").problem is None


def test_a_stage_that_was_overtaken_changes_nothing(queue: PostgresQueue) -> None:
    begun = start(queue)
    queue.cancel_reembedding(*NAME)
    with pytest.raises(SettingsError, match="is cancelled, not filling"):
        queue.advance_reembedding(begun, "indexing")


# -- the start


def test_the_new_target_embeds_what_the_old_one_does(db: Database, queue: PostgresQueue) -> None:
    db.execute(
        "select watch_embeddings('docs', 'upper(body)', 'embedding', filter => 'id < 3',"
        " priority => 7::smallint, on_change => 'clear', on_too_long => 'truncate',"
        " debounce => '0', language => 'english', query_prompt => 'query: ')"
    )
    db.execute("update embedding_targets set max_attempts = 9")
    embed_all(queue)
    begun = queue.start_reembedding(*NAME, NEW, 4, config={"why": "better"}, source="cli")
    compared: LiteralString = (
        "select source, filter, debounce, on_change, on_too_long, language, max_attempts"
        " from embedding_targets order by id"
    )
    old, new = rows(db, compared)
    assert old == new
    assert rows(
        db,
        "select embedding_column, serves, role, model, dimensions, priority, query_prompt"
        " from embedding_targets order by id",
    ) == [
        ("embedding", None, "serving", OLD, 3, 7, "query: "),
        ("embedding_2", "embedding", "shadow", NEW, 4, -3, None),
    ]
    assert (begun.old_model, begun.new_model, begun.dimensions) == (OLD, NEW, 4)
    assert begun.config == {"why": "better"}
    assert {text for _, text in fill(queue)} == {"TEXT 1", "TEXT 2"}


def test_chunks_and_enhancement_are_those_of_the_old_target(
    db: Database, queue: PostgresQueue
) -> None:
    """And those who may read the old passages may read the new ones."""
    create_role(db, "anon")
    db.execute("create table books (id bigint primary key, title text, body text)")
    db.execute("alter table books enable row level security")
    db.execute("grant select on books to anon")
    db.execute(
        "select watch_embeddings('books', 'body', model => 'test:old', dimensions => 3,"
        " chunks => true, context => 'title', format => 'html', chunk_size => 90,"
        " chunk_unit => 'tokens', max_chunks => 7, enhance => 'ollama:llama3',"
        " enhance_prompt => 'Say more.', enhance_on_failure => 'raw', language => 'english')"
    )
    queue.start_reembedding("books", "embedding", NEW, 4, config={"type": "halfvec"})
    old, new = rows(
        db,
        "select context, chunk_format, chunk_size, chunk_unit, max_chunks, enhance_model,"
        " enhance_prompt, enhance_on_failure, language, full_text"
        " from embedding_targets where table_name = 'books' order by id",
    )
    assert old == new
    assert rows(
        db,
        "select relname, has_table_privilege('anon', oid, 'select'), relrowsecurity"
        " from pg_class where relname ~ '^books_embedding_2' and relkind in ('r', 'v') order by 1",
    ) == [
        ("books_embedding_2_chunk_places", True, True),
        ("books_embedding_2_chunks", True, True),
        ("books_embedding_2_passages", True, False),
    ]
    type_: LiteralString = (
        "select format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'books_embedding_2_chunks'::regclass and attname = 'embedding'"
    )
    assert value(db, type_) == "halfvec(4)"
    queue.cancel_reembedding("books", "embedding")
    assert value(db, "select count(*) from pg_class where relname ~ '^books_embedding_2'") == 0


def test_a_paused_one_queues_edits_and_claims_none(db: Database, queue: PostgresQueue) -> None:
    start(queue)
    queue.pause_reembedding(*NAME)
    db.execute("update docs set body = 'new' where id = 1")
    assert embed_all(queue) == [(OLD, "new")]
    queue.resume_reembedding(*NAME)
    assert embed_all(queue) == [(NEW, "new")]


def test_the_new_column_has_type_storage_and_readers_of_the_old_one(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("alter table docs alter column embedding type halfvec(3)")
    db.execute("alter table docs alter column embedding set storage plain")
    db.execute("grant select (id, embedding) on docs to embedding_worker with grant option")
    start(queue)
    [old, new] = rows(
        db,
        "select format_type(atttypid, atttypmod), attstorage, attacl::text from pg_attribute"
        " where attrelid = 'docs'::regclass and attname ~ '^embedding' order by attnum",
    )
    assert old == new


@pytest.mark.parametrize(
    ("kind", "width", "type_"),
    [
        ("halfvec", 3, "halfvec(3)"),
        ("vector", 3, "vector(3)"),
        ("vector", 2500, "halfvec(2500)"),
    ],
)
def test_the_config_can_name_another_type(
    db: Database, queue: PostgresQueue, kind: str, width: int, type_: str
) -> None:
    queue.start_reembedding(*NAME, NEW, width, config={"type": kind})
    found = value(
        db,
        "select format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = 'docs'::regclass and attname = 'embedding_2'",
    )
    assert found == type_


START: LiteralString = "select start_reembedding('docs', 'embedding', 'test:new', 3)"
REFUSED: dict[str, tuple[LiteralString, LiteralString, str, str]] = {
    "not watched": ("", "select start_reembedding('docs', 'body', 'test:new', 3)",
        "column body of table docs is not watched", "watch_embeddings"),
    "suspended": ("update embedding_targets set problem = 'no such column'", START,
        "column embedding of table docs is suspended: no such column", "Watch it again"),
    "renamed": ("alter table docs rename column embedding to other", START,
        "column embedding of table docs is suspended: column docs.embedding was renamed", "Watch"),
    "open already": (START, "select start_reembedding('docs', 'embedding', 'test:third', 3)",
        "column embedding of table docs is re-embedded already, with test:new: it is filling",
        "cancel it"),
    "nothing to do": ("", "select start_reembedding('docs', 'embedding', 'test:old', 3)",
        "column embedding of table docs has vectors of test:old with 3 dimensions already",
        "There is nothing to do"),
    "no model": ("", "select start_reembedding('docs', 'embedding', 'new', 3)",
        "'new' is not the name of a model", "provider:model"),
    "no dimensions": ("", "select start_reembedding('docs', 'embedding', 'test:new', null)",
        "the dimensions of the new vectors are not given", "Give"),
    "too many dimensions": ("", "select start_reembedding('docs', 'embedding', 'test:new', 5000)",
        "a vector column cannot have 5000 dimensions", "from 1 to 4000"),
    "no source": ("",
        "select start_reembedding('docs', 'embedding', 'test:new', 3, source => 'browser')",
        "a call cannot come from 'browser'", "cli, sql, api, or web"),
    "another type": (
        "",
        "select start_reembedding('docs', 'embedding', 'test:new', 3,"
        " config => jsonb_build_object('type', 'bit'))",
        "the new column cannot be of type 'bit'",
        "vector or halfvec",
    ),
    "partitioned": (
        "select unwatch_embeddings('docs', 'embedding'); drop table docs;"
        "create table docs (id bigint primary key, body text) partition by range (id);"
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)", START,
        "table docs is partitioned, and Postgres builds no index", "--store table"),
    "of a type": (
        "select unwatch_embeddings('docs', 'embedding'); drop table docs;"
        "create type doc as (id bigint, body text, embedding vector(3));"
        "create table docs of doc (primary key (id));"
        "select watch_embeddings('docs', 'body', 'embedding')", START,
        "table docs has the columns of a type", "--store table"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_re_embedded_is_refused_with_a_hint(db: Database, case: str) -> None:
    before, statement, sentence, cure = REFUSED[case]
    if before:
        db.execute(before)
    columns = "select count(*) from pg_attribute where attrelid = 'docs'::regclass"
    known = value(db, columns), value(db, "select count(*) from embedding_targets")
    found = refusal(db, statement)
    assert found[0].startswith(sentence), found
    assert cure in found[1]
    assert known == (value(db, columns), value(db, "select count(*) from embedding_targets"))


def test_another_width_or_prompt_of_the_same_model_is_something_to_do(
    db: Database, queue: PostgresQueue
) -> None:
    start(queue, 4, OLD)
    queue.cancel_reembedding(*NAME)
    queue.start_reembedding(*NAME, OLD, 3, document_prompt="passage: ")
    assert {model for model, _ in fill(queue)} == {f"{OLD}#passage: "}


def test_a_third_model_waits_until_the_second_has_its_place(queue: PostgresQueue) -> None:
    make_swapped(queue)
    with pytest.raises(SettingsError, match="re-embedded already, with test:new: it is swapped"):
        start(queue, model="test:third")
    queue.finish_reembedding(*NAME)
    assert start(queue, model="test:third").old_model == NEW


def test_two_columns_of_a_table_can_be_re_embedded_at_once(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding_2', model => %s, dimensions => 3)",
        [OLD],
    )
    start(queue)
    queue.start_reembedding("docs", "embedding_2", NEW, 3)
    assert [name for name, *_ in stores(db)] == [
        "embedding",
        "embedding_2",
        "embedding_3",
        "embedding_2_2",
    ]


# -- the record


def test_every_step_is_recorded_with_who_where_and_what(queue: PostgresQueue, db: Database) -> None:
    begun = start(queue)
    make_ready(queue)
    queue.swap_reembedding(*NAME, source="cli", figures={"overlap": 0.9})
    db.execute("select rollback_reembedding('docs', 'embedding')")
    events = queue.reembedding_events(begun)
    assert [event.event for event in events] == [
        "started",
        "indexing",
        "verifying",
        "ready",
        "swapped",
        "rolled_back",
    ]
    assert {event.actor for event in events} == {value(db, "select session_user::text")}
    assert [(event.source, event.figures) for event in events[-2:]] == [
        ("cli", {"overlap": 0.9}),
        ("sql", None),
    ]
    assert [event.from_state for event in events] == [None, *(e.to_state for e in events[:-1])]


@pytest.mark.parametrize(
    "statement",
    [
        "update embedding_audit set actor = 'nobody'",
        "delete from embedding_audit",
        "truncate embedding_audit",
        "set session_replication_role = replica; delete from embedding_audit",
    ],
)
def test_the_record_cannot_be_changed(
    db: Database, queue: PostgresQueue, statement: LiteralString
) -> None:
    begun = start(queue)
    assert refusal(db, statement)[0] == "the audit cannot be changed"
    assert len(queue.reembedding_events(begun)) == 1


def test_progress_is_counted_without_reading_the_jobs(db: Database, queue: PostgresQueue) -> None:
    begun = start(queue)
    queue.backfill(queue.target("docs", "embedding_2"), 2)
    assert queue.reembedding_progress(begun).pending == 2
    fill(queue)
    progress = queue.reembedding_progress(begun)
    assert (progress.rows, progress.rows_exact, progress.done, progress.pending) == (3, True, 3, 0)
    queue.cancel_reembedding(*NAME)
    assert queue.reembedding_progress(begun).rows is None


# -- two at once


def test_of_two_operators_one_succeeds_and_the_other_learns_it(
    queue: PostgresQueue, connect: Connect
) -> None:
    start(queue)
    make_ready(queue)
    first, second = connect(), connect()
    with ThreadPoolExecutor(1) as pool, first.transaction():
        first.execute("select swap_reembedding('docs', 'embedding', 'cli')")
        waiting = pool.submit(refusal, second, "select swap_reembedding('docs', 'embedding')")
        blocked = "select cardinality(pg_blocking_pids(%s)) > 0"
        while not value(first, blocked, second.info.backend_pid):
            assert not waiting.done()
        first.execute("commit")
        sentence, hint = waiting.result(10)
    assert sentence == "the re-embedding of column embedding of table docs is swapped, not ready"
    assert hint.startswith("The last step, swapped, was taken by postgres (cli) at ")


# -- what others may do meanwhile

FROZEN: list[LiteralString] = [
    "select watch_embeddings('docs', 'upper(body)', 'embedding')",
    "select watch_embeddings('docs', 'upper(body)', 'embedding_2')",
    "select watch_embeddings('docs', embedding_column => 'embedding', filter => 'id > 1')",
    "select watch_embeddings('docs', embedding_column => 'embedding', model => 'test:third')",
    "select watch_embeddings('docs', embedding_column => 'embedding', query_prompt => 'query')",
    "select watch_embeddings('docs', embedding_column => 'embedding', language => 'english')",
    "select watch_embeddings('docs', embedding_column => 'embedding', enhance => 'ollama:llama3')",
    "update embedding_targets set model = 'test:third' where embedding_column = 'embedding_2'",
    "update embedding_targets set source = 'upper(body)'",
    "select unwatch_embeddings('docs', 'embedding')",
    "select unwatch_embeddings('docs', 'embedding_2')",
]  # fmt: skip


@pytest.mark.parametrize("statement", rest_in_full(FROZEN, first=5))
@pytest.mark.parametrize("begun", rest_in_full([start, make_swapped]))
def test_what_both_targets_embed_cannot_be_changed(
    db: Database, queue: PostgresQueue, statement: LiteralString, begun: Callable[..., Any]
) -> None:
    begun(queue)
    known = rows(db, "select * from embedding_targets order by id")
    sentence, hint = refusal(db, statement)
    assert "while column embedding is re-embedded" in sentence
    assert "re-embedding" in hint
    assert rows(db, "select * from embedding_targets order by id") == known


def test_other_settings_can_be_changed(db: Database, queue: PostgresQueue) -> None:
    start(queue)
    db.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', on_too_long =>"
        " 'truncate', priority => 3::smallint, match_function => false)"
    )
    db.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding_2', on_change => 'clear')"
    )
    assert rows(db, "select on_too_long, on_change, role from embedding_targets order by id") == [
        ("truncate", "keep", "serving"),
        ("fail", "clear", "shadow"),
    ]


def test_a_change_that_began_before_does_not_get_in_between(
    queue: PostgresQueue, connect: Connect
) -> None:
    """A session that read the target before the start waits for it, and is refused."""
    first, second = connect(), connect()
    with ThreadPoolExecutor(1) as pool, first.transaction():
        first.execute(START)
        waiting = pool.submit(
            refusal, second, "update embedding_targets set source = 'upper(body)' where id = 1"
        )
        while not value(
            first, "select cardinality(pg_blocking_pids(%s)) > 0", second.info.backend_pid
        ):
            assert not waiting.done()
        first.execute("commit")
        assert "while column embedding is re-embedded" in waiting.result(10)[0]


def test_what_was_not_verified_is_not_after_a_rollback(db: Database, queue: PostgresQueue) -> None:
    for stage in ("indexing", "verifying", "ready"):
        bring_to(queue, stage)
        queue.swap_reembedding(*NAME, figures={"verified": False})
        assert queue.rollback_reembedding(*NAME).state == stage
        queue.cancel_reembedding(*NAME)


def test_what_does_not_pass_later_is_not_ready_any_more(db: Database, queue: PostgresQueue) -> None:
    start(queue)
    ready = make_ready(queue)
    figures = {"problem": "not passed: 1 check of 13 found a problem"}
    back = queue.advance_reembedding(ready, "verifying", figures=figures)
    assert (back.state, back.problem) == ("verifying", figures["problem"])
    with pytest.raises(SettingsError, match="verifying, not ready"):
        queue.swap_reembedding(*NAME)
    assert queue.advance_reembedding(back, "ready").problem is None
    assert queue.swap_reembedding(*NAME).state == "swapped"


def test_after_it_has_ended_the_column_can_be_unwatched_and_its_record_stays(
    db: Database, queue: PostgresQueue
) -> None:
    make_swapped(queue)
    queue.finish_reembedding(*NAME)
    queue.rename_reembedded(*NAME)
    assert queue.unwatch(*NAME)
    assert [one.state for one in queue.reembeddings()] == ["finished"]
    assert value(db, "select count(*) from embedding.match_functions()") == 0
    db.execute("select watch_embeddings('docs', 'body', 'embedding')")
    assert start(queue).state == "filling"


def test_a_model_that_nobody_chose_is_recorded_meanwhile(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    queue.start_reembedding("notes", "embedding", NEW, 3)
    db.execute("insert into notes values (1, 'one')")
    assert embed_all(queue) == [("test:model", "one"), (NEW, "one")]
    assert rows(
        db,
        "select model, document_prompt from embedding_targets where table_name = 'notes'"
        " order by id",
    ) == [("test:model", ""), (NEW, "")]
