"""The end of a re-embedding: what is dropped, what stays, what gets the old name, who waits."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import sleep
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.errors import LockNotAvailable

from tests.conftest import Database, Server, rest_in_full, rows, value
from tests.integration.reembeddings import (
    NAME,
    NEW,
    OLD,
    are_in_step,
    create_searched,
    embed_all,
    fill,
    make_ready,
    make_swapped,
    nearest,
    start,
    state,
    stores,
)
from tests.integration.tables import Connect, acting_as, create_role, jobs, refusal
from tests.integration.test_identity import dumped_and_restored
from worker.errors import Busy, SettingsError
from worker.operations.reembed import find_left_behind, finish, old_status, serving_status
from worker.queue.postgres import PostgresQueue


@pytest.fixture
def searched(request: pytest.FixtureRequest, db: Database, queue: PostgresQueue) -> Database:
    """A table `docs` whose rows have their vectors of the old model."""
    create_searched(db, options=f", store => '{getattr(request, 'param', 'column')}'")
    assert len(embed_all(queue)) == 3
    return db


BOTH_STORES = pytest.mark.parametrize("searched", ["column", "table"], indirect=True)
COLUMNS: LiteralString = (
    "select attname::text from pg_attribute where attrelid = 'docs'::regclass and attnum > 0"
    " and not attisdropped order by attnum"
)
TRIGGERS: LiteralString = (
    "select count(*) from pg_trigger where tgrelid = 'docs'::regclass and not tgisinternal"
)


def columns(db: Database) -> list[str]:
    return [name for (name,) in rows(db, COLUMNS)]


def test_a_cancelled_one_leaves_what_was_there_before(
    searched: Database, queue: PostgresQueue
) -> None:
    known = rows(searched, "select * from docs order by id"), value(searched, TRIGGERS)
    source: LiteralString = "select prosrc from pg_proc where proname = 'match_docs'"
    written = value(searched, source)
    start(queue)
    fill(queue)
    assert value(searched, source) != written
    queue.cancel_reembedding(*NAME)
    assert (rows(searched, "select * from docs order by id"), value(searched, TRIGGERS)) == known
    assert value(searched, source) == written
    assert value(searched, "select count(*) from embedding_queue") == 3
    assert value(searched, "select count(*) from embedding_targets") == 1
    assert value(searched, "select sum(completed) from embedding_counts") == 3


def test_a_finished_one_leaves_the_new_store_which_people_name_as_before(
    searched: Database, queue: PostgresQueue
) -> None:
    make_swapped(queue)
    queue.finish_reembedding(*NAME)
    assert columns(searched) == ["id", "body", "tenant", "embedding_2"]
    assert nearest(searched, NEW, "text 2") == ("text 2", 1.0)
    found = "select content from search_embeddings('docs', 'embedding', '[1,2,3]', 1)"
    assert value(searched, found) == value(searched, found.replace("embedding'", "embedding_2'"))
    assert queue.target("docs", "embedding").embedding_column == "embedding_2"
    watched = queue.watch("docs", None, "embedding", on_too_long="truncate")
    assert (watched.embedding_column, watched.serves) == ("embedding_2", "embedding")
    searched.execute("update docs set body = 'new' where id = 1")
    assert embed_all(queue) == [(NEW, "new")]
    assert are_in_step(searched)


def test_the_new_column_gets_name_comment_and_grants_of_the_old_one(
    searched: Database, queue: PostgresQueue
) -> None:
    create_role(searched, "anon")
    searched.execute("grant select (id, body, embedding) on docs to anon")
    searched.execute("comment on column docs.embedding is 'what it ''means'''")
    make_swapped(queue)
    searched.execute("grant update (embedding) on docs to public")
    queue.finish_reembedding(*NAME)
    before = jobs(searched)
    queue.rename_reembedded(*NAME, source="cli")
    assert columns(searched) == ["id", "body", "tenant", "embedding"]
    assert rows(
        searched,
        "select col_description(attrelid, attnum), attacl::text from pg_attribute"
        " where attrelid = 'docs'::regclass and attname = 'embedding'",
    ) == [("what it 'means'", "{anon=r/postgres,=w/postgres}")]
    assert rows(
        searched, "select embedding_column, serves, role, problem from embedding_targets"
    ) == [("embedding", None, "serving", None)]
    assert jobs(searched) == before
    assert value(searched, "select distinct embedding_column from embedding_queue") == "embedding"
    with acting_as(searched, "anon"):
        assert nearest(searched, NEW, "text 2") == ("text 2", 1.0)
    searched.execute("update docs set body = 'new' where id = 1")
    searched.execute("delete from docs where id = 2")
    assert embed_all(queue) == [(NEW, "new")]
    assert are_in_step(searched)
    assert [event.event for event in queue.reembedding_events(queue.reembeddings()[0])][-2:] == [
        "finished",
        "renamed",
    ]
    assert (
        value(searched, "select count(*) from diagnose_embeddings() where level = 'problem'") == 0
    )


def test_jobs_get_the_name_before_the_column_while_writers_go_on(
    searched: Database, queue: PostgresQueue
) -> None:
    """A record keeps one job, whichever name it has by then."""
    searched.execute("alter table docs drop constraint docs_pkey, add primary key (id) deferrable")
    make_swapped(queue)
    queue.finish_reembedding(*NAME)
    last = queue.relabel_reembedded(*NAME, batch=2)
    assert last is not None
    assert named(searched) == {"1": "embedding", "2": "embedding", "3": "embedding_2"}
    searched.execute("update docs set body = 'new ' || id where id in (1, 3)")
    searched.execute("update docs set id = 4 - id")  # two change places
    searched.execute("delete from docs where id = 2; insert into docs values (4, 'four')")
    assert sorted(named(searched)) == ["1", "3", "4"]
    assert len(jobs(searched)) == 3
    assert embed_all(queue) == [(NEW, text) for text in ("four", "new 1", "new 3")]
    assert queue.relabel_reembedded(*NAME, last) is not None
    queue.rename_reembedded(*NAME)
    assert set(named(searched).values()) == {"embedding"}
    assert are_in_step(searched)
    searched.execute("update docs set body = 'newer ' || id")
    assert len(embed_all(queue)) == 3
    assert are_in_step(searched)


def test_a_second_job_of_a_record_is_gone_after_the_rename(
    searched: Database, queue: PostgresQueue
) -> None:
    """Someone queues it by the name that the column has, while its job has the new one."""
    make_swapped(queue)
    queue.finish_reembedding(*NAME)
    queue.relabel_reembedded(*NAME)
    searched.execute(
        "insert into embedding_queue (table_name, record_id, embedding_column)"
        " values ('docs', '1', 'embedding_2')"
    )
    queue.rename_reembedded(*NAME)
    assert named(searched) == dict.fromkeys("123", "embedding")
    assert value(searched, "select status from embedding_queue where record_id = '1'") == "pending"
    assert embed_all(queue) == []
    assert are_in_step(searched)
    assert value(searched, "select sum(completed) from embedding_status") == 3


def test_jobs_get_no_name_unless_the_column_can(searched: Database, queue: PostgresQueue) -> None:
    make_swapped(queue)
    with pytest.raises(SettingsError, match="column embedding of table docs is re-embedded"):
        queue.relabel_reembedded(*NAME)
    assert (
        value(searched, "select count(*) from embedding_queue where embedding_column = %s", NAME[1])
        == 3
    )


def named(db: Database) -> dict[str, str]:
    """The column that the job of each record names."""
    return dict(
        rows(db, "select record_id, embedding_column from embedding_queue order by record_id, id")
    )


@pytest.mark.parametrize("on_change", rest_in_full(["keep", "clear"]))
def test_after_the_rename_everything_goes_on(
    searched: Database, queue: PostgresQueue, on_change: str
) -> None:
    searched.execute(
        "select watch_embeddings('docs', embedding_column => 'embedding', on_change => %s)",
        [on_change],
    )
    for model in (NEW, "test:third"):
        begun = start(queue, model=model)
        fill(queue, "embedding_2")
        queue.advance_reembedding(begun, "indexing")
        queue.swap_reembedding(*NAME, figures={"verified": False})
        queue.finish_reembedding(*NAME)
        queue.rename_reembedded(*NAME)
        searched.execute("update docs set body = %s where id = 1", [f"edited for {model}"])
        [cleared] = rows(searched, "select embedding is null from docs where id = 1")
        assert cleared == (on_change == "clear",)
        assert embed_all(queue) == [(model, f"edited for {model}")]
        assert are_in_step(searched)
        assert nearest(searched, model, "text 3") == ("text 3", 1.0)


def test_a_second_re_embedding_can_follow_without_a_rename(
    searched: Database, queue: PostgresQueue
) -> None:
    make_swapped(queue)
    queue.finish_reembedding(*NAME)
    start(queue, model="test:third")
    fill(queue, "embedding_3")
    make_ready(queue)
    queue.swap_reembedding(*NAME)
    assert nearest(searched, "test:third", "text 1") == ("text 1", 1.0)
    queue.finish_reembedding(*NAME)
    queue.rename_reembedded(*NAME)
    assert columns(searched) == ["id", "body", "tenant", "embedding"]
    assert are_in_step(searched)


NOTHING_TO_RENAME: dict[str, tuple[Callable[[PostgresQueue], Any], LiteralString, str]] = {
    "before the end": (make_swapped, "", "column embedding of table docs is re-embedded"),
    "with its own name": (
        lambda queue: None, "", "column embedding of table docs has its name"),
    "the name is taken": (
        lambda queue: (make_swapped(queue), queue.finish_reembedding(*NAME)),
        "alter table docs add column embedding text", "table docs has a column embedding already"),
    "suspended": (
        lambda queue: (make_swapped(queue), queue.finish_reembedding(*NAME)),
        "update embedding_targets set problem = 'gone'",
        "column embedding_2 of table docs is suspended: gone"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTHING_TO_RENAME)
def test_what_cannot_be_renamed_is_refused(
    searched: Database, queue: PostgresQueue, case: str
) -> None:
    bring, before, sentence = NOTHING_TO_RENAME[case]
    bring(queue)
    if before:
        searched.execute(before)
    with pytest.raises(SettingsError) as problem:
        queue.rename_reembedded(*NAME)
    assert str(problem.value).startswith(sentence)
    assert problem.value.hint


CANNOT_SERVE: dict[str, LiteralString] = {
    "dropped": "alter table docs drop column embedding_2",
    "renamed": "alter table docs rename embedding_2 to other",
    "suspended": "update embedding_targets set problem = 'gone' where role = 'serving'",
}


@pytest.mark.parametrize("case", CANNOT_SERVE)
def test_the_old_vectors_stay_while_the_new_ones_cannot_serve(
    searched: Database, queue: PostgresQueue, case: str
) -> None:
    make_swapped(queue)
    searched.execute(CANNOT_SERVE[case])
    with pytest.raises(SettingsError, match="cannot serve searches"):
        queue.finish_reembedding(*NAME)
    assert state(searched) == "swapped"
    assert value(searched, "select count(embedding) from docs") == 3
    queue.rollback_reembedding(*NAME)
    assert nearest(searched, OLD, "text 2") == ("text 2", 1.0)


# -- what depends on the old store

DEPENDENTS: dict[str, LiteralString] = {
    "view public.seen": "create view seen as select id, embedding from docs",
    "generated column public.docs.width": "alter table docs add column width integer"
    " generated always as (vector_dims(embedding)) stored",
    "check constraint few on public.docs": "alter table docs add constraint few"
    " check (vector_dims(embedding) = 3)",
    "policy near on public.docs": "create policy near on docs using (embedding is not null)",
}


@pytest.mark.parametrize("dependent", DEPENDENTS)
def test_a_store_that_something_depends_on_stays(
    searched: Database, queue: PostgresQueue, dependent: str
) -> None:
    make_swapped(queue)
    searched.execute(DEPENDENTS[dependent])
    with pytest.raises(SettingsError, match=f"embedding of table docs is still used: {dependent}"):
        queue.finish_reembedding(*NAME)
    assert state(searched) == "swapped"
    assert "embedding" in columns(searched)


def test_a_new_store_that_something_depends_on_is_not_dropped(
    searched: Database, queue: PostgresQueue
) -> None:
    start(queue)
    searched.execute("create view seen as select id, embedding_2 from docs")
    with pytest.raises(SettingsError, match="embedding_2 of table docs is still used: view "):
        queue.cancel_reembedding(*NAME)
    assert state(searched) == "filling"
    assert value(searched, "select count(*) from embedding_targets") == 2


# -- who waits

ENDS: dict[str, tuple[Callable[[PostgresQueue], Any], Callable[[PostgresQueue], Any]]] = {
    "start": (lambda queue: None, lambda queue: (start(queue), fill(queue))),
    "cancel": (start, lambda queue: queue.cancel_reembedding(*NAME)),
    "finish": (make_swapped, lambda queue: queue.finish_reembedding(*NAME)),
    "rename": (
        lambda queue: (make_swapped(queue), queue.finish_reembedding(*NAME)),
        lambda queue: queue.rename_reembedded(*NAME),
    ),
}


@pytest.mark.parametrize(
    ("searched", "end", "holder"),
    rest_in_full(
        [
            (store, end, holder)
            for holder in (
                "select from docs",
                "update docs set tenant = 2",
                "lock table docs in access exclusive mode",
            )
            for store in ("column", "table")
            for end in ENDS
            if (store, end, holder) != ("table", "start", "select from docs")
        ],
        7,
    ),
    indirect=["searched"],
)
def test_a_lock_that_is_not_free_changes_nothing(
    searched: Database, queue: PostgresQueue, connect: Connect, end: str, holder: LiteralString
) -> None:
    bring, take = ENDS[end]
    bring(queue)
    known = state(searched), columns(searched), stores(searched), jobs(searched)
    other = connect()
    other.execute("set application_name = 'report'")
    with other.transaction():
        other.execute(holder)
        with pytest.raises(Busy) as busy:
            take(queue)
    process = other.info.backend_pid
    assert re.fullmatch(
        rf"table docs is locked by another session: process {process} \(report\),"
        r" idle in transaction since [-\d]+ [:\d]+\+\d\d",
        busy.value.cause,
    )
    assert f"pg_terminate_backend({process})" in (busy.value.hint or "")
    assert (state(searched), columns(searched), stores(searched), jobs(searched)) == known
    take(queue)
    assert are_in_step(searched)


@pytest.mark.parametrize("searched", ["table"], indirect=True)
def test_a_reader_does_not_hold_up_the_start_of_a_side_table(
    searched: Database, queue: PostgresQueue, connect: Connect
) -> None:
    reader = connect()
    with reader.transaction():
        reader.execute("select from docs")
        start(queue)
    assert state(searched) == "filling"


@pytest.mark.parametrize("step", ["swap_reembedding", "rollback_reembedding"])
def test_a_swap_names_who_changes_the_settings(
    searched: Database, queue: PostgresQueue, connect: Connect, step: str
) -> None:
    start(queue)
    fill(queue)
    make_ready(queue)
    if step == "rollback_reembedding":
        queue.swap_reembedding(*NAME)
    known = state(searched)
    other, reader = connect(), connect()
    with other.transaction(), reader.transaction():
        reader.execute("select from embedding_targets")
        other.execute("update embedding_targets set debounce = '1s'")
        with pytest.raises(Busy) as busy:
            getattr(queue, step)(*NAME)
    cause = busy.value.cause
    assert cause.startswith("table embedding_targets is locked by another session: process")
    assert str(other.info.backend_pid) in cause
    assert str(reader.info.backend_pid) not in cause
    assert state(searched) == known
    getattr(queue, step)(*NAME)


def test_a_lock_is_waited_for_with_the_reason(
    searched: Database, queue: PostgresQueue, connect: Connect
) -> None:
    make_swapped(queue)
    other = connect()
    said: list[str] = []

    def wait(reason: str) -> None:
        said.append(reason)
        other.rollback()

    other.execute("begin")
    other.execute("select from docs")
    finish(queue, queue.reembeddings()[0], on_wait=wait)
    assert state(searched) == "finished"
    assert [f"process {other.info.backend_pid} (" in reason for reason in said] == [True]


def test_the_lock_timeout_of_the_session_counts(
    searched: Database, queue: PostgresQueue, connect: Connect
) -> None:
    start(queue)
    other, patient = connect(), connect()
    patient.execute("set lock_timeout = '20s'")
    with ThreadPoolExecutor(1) as pool, other.transaction():
        other.execute("select from docs")
        call = "select cancel_reembedding('docs', 'embedding')"
        waiting = pool.submit(patient.execute, call)
        sleep(0.3)
        assert not waiting.done()
        other.execute("commit")
        waiting.result(10)
    assert state(searched) == "cancelled"


def test_a_lock_timeout_of_the_database_does_not_count(
    searched: Database, queue: PostgresQueue, connect: Connect, server: Server
) -> None:
    """All others would wait behind the step for so long."""
    name = str(searched.info.dbname)
    searched.execute(f"alter database {name} set lock_timeout = '20s'")
    start(queue)
    other = connect()
    with closing(psycopg.connect(server.direct_url_of(name), autocommit=True)) as owner:
        assert value(owner, "show lock_timeout") == "20s"
        owner.execute("set statement_timeout = '10s'")
        with other.transaction():
            other.execute("select from docs")
            with pytest.raises(LockNotAvailable):
                owner.execute("select cancel_reembedding('docs', 'embedding')")
        fill(queue)
        make_ready(queue)
        for step in ("swap_reembedding", "rollback_reembedding"):
            with other.transaction():
                other.execute("select from embedding_targets for update")
                with pytest.raises(LockNotAvailable):
                    owner.execute(f"select {step}('docs', 'embedding')")
            owner.execute(f"select {step}('docs', 'embedding')")


# -- by hand


def test_a_rename_by_hand_suspends_both_and_drops_nothing(
    searched: Database, queue: PostgresQueue
) -> None:
    make_swapped(queue)
    searched.execute("alter table docs rename column embedding to old")
    searched.execute("alter table docs rename column embedding_2 to embedding")
    searched.execute("update docs set body = 'new' where id = 1")
    assert embed_all(queue) == []
    for step in (queue.rollback_reembedding, queue.finish_reembedding):
        with pytest.raises(SettingsError, match="worker watch docs --column embedding"):
            step(*NAME)
    assert (
        "column docs.embedding"
        in refusal(searched, "select search_embeddings('docs', 'embedding', '[1,2,3]')")[0]
    )
    assert columns(searched) == ["id", "body", "tenant", "old", "embedding"]
    searched.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    searched.execute("select watch_embeddings('docs', embedding_column => 'old')")
    embed_all(queue)
    assert [(name, model) for name, model, _ in stores(searched)] == [
        ("old", OLD),
        ("embedding", NEW),
    ]
    assert are_in_step(searched)


def test_a_named_column_that_is_renamed_takes_its_re_embedding_along(
    searched: Database, queue: PostgresQueue
) -> None:
    start(queue)
    searched.execute("alter table docs rename to papers")
    searched.execute("alter table papers rename column embedding to vec")
    searched.execute("select watch_embeddings('papers', embedding_column => 'vec')")
    searched.execute("select watch_embeddings('papers', embedding_column => 'embedding_2')")
    [reembedding] = queue.reembeddings()
    assert (reembedding.table_name, reembedding.embedding_column) == ("papers", "vec")
    assert rows(searched, "select embedding_column, serves from embedding_targets order by id") == [
        ("vec", None),
        ("embedding_2", "vec"),
    ]
    queue.cancel_reembedding("papers", "vec")


@pytest.mark.parametrize("dropped", ["alter table docs drop column embedding_2", "drop table docs"])
def test_what_was_dropped_by_hand_can_be_cancelled(
    searched: Database, queue: PostgresQueue, dropped: LiteralString
) -> None:
    start(queue)
    searched.execute(dropped)
    queue.cancel_reembedding(*NAME)
    assert value(searched, "select count(*) from embedding_targets") == 1
    assert queue.unwatch(*NAME)


@BOTH_STORES
def test_a_table_that_was_dropped_by_hand_after_the_swap_is_no_dead_end(
    searched: Database, queue: PostgresQueue
) -> None:
    swapped = make_swapped(queue)
    searched.execute("drop table docs cascade")
    assert find_left_behind(queue, swapped) == []
    for found in (old_status(queue, swapped), serving_status(queue, swapped)):
        assert found is None or found.table_name == "docs"
    with pytest.raises(SettingsError, match="no longer exists"):
        queue.rollback_reembedding(*NAME)
    assert queue.finish_reembedding(*NAME).state == "finished"
    searched.execute("select unwatch_embeddings('docs', 'embedding_2')")
    assert value(searched, "select count(*) from embedding_targets") == 0


# -- what others see of it


@BOTH_STORES
@pytest.mark.parametrize("bring", [start, make_swapped])
def test_a_healthy_one_is_no_fault(
    searched: Database, queue: PostgresQueue, bring: Callable[[PostgresQueue], Any]
) -> None:
    bring(queue)
    fill(queue)
    assert rows(searched, "select * from diagnose_embeddings()") == []
    assert {(one.embedding_column, one.coverage, one.problem) for one in queue.status()} == {
        ("embedding", 100, None),
        ("embedding_2", 100, None),
    }


@BOTH_STORES
def test_it_goes_on_in_a_restored_dump(
    searched: Database,
    queue: PostgresQueue,
    server: Server,
    database: str,
    empty_database: str,
    tmp_path: Path,
) -> None:
    make_swapped(queue)
    with (
        dumped_and_restored(searched, server, database, empty_database, tmp_path) as restored,
        PostgresQueue(server.direct_url_of(empty_database), "tests") as fresh,
    ):
        assert nearest(restored, OLD, "text 2") == nearest(restored, NEW, "text 2")
        fresh.rollback_reembedding(*NAME)
        fresh.swap_reembedding(*NAME)
        restored.execute("update docs set body = 'new' where id = 1")
        assert embed_all(fresh) == [(NEW, "new"), (OLD, "new")]
        fresh.finish_reembedding(*NAME)
        fresh.rename_reembedded(*NAME)
        assert are_in_step(restored)
        assert nearest(restored, NEW, "new") == ("new", 1.0)
        statement: LiteralString = "delete from embedding_audit"
        assert refusal(restored, statement)[0] == "the audit cannot be changed"


def test_readers_are_locked_out_only_at_the_end(
    searched: Database, queue: PostgresQueue, connect: Connect
) -> None:
    """While jobs are deleted or renamed, only writers wait. A reader in the way is found before."""
    start(queue)
    modes: LiteralString = (
        "select mode from pg_locks where relation = 'docs'::regclass and pid = pg_backend_pid()"
    )
    with searched.transaction():
        searched.execute("select embedding.lock_store(id) from embedding_targets")
        assert rows(searched, modes) == [("ShareRowExclusiveLock",)]
    other = connect()
    searched.execute("set lock_timeout = 0")
    with other.transaction():
        other.execute("select from docs")
        with pytest.raises(LockNotAvailable):
            searched.execute("select embedding.lock_store(id) from embedding_targets")
