"""Beside our functions others have put theirs, of the same names: ours are called all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import LiteralString
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from psycopg import sql

from tests.conftest import Database, Worker, rows, value
from tests.integration.jobs import SCOPE
from tests.integration.tables import completions_of, create_role, embed
from worker.database.migrations import scheduled, seed
from worker.errors import SchemaError
from worker.queue import (
    Checked,
    Chunk,
    ChunkText,
    Completion,
    DocumentCompletion,
    FileFacts,
    FoundFile,
    Place,
    Report,
    Target,
    Usage,
)
from worker.queue.functions import FUNCTIONS
from worker.queue.postgres import PostgresQueue

# Types to which a value for one of ours could be coerced, or as which it could be sent.
LIKE: dict[str, list[str]] = {
    "text": ["varchar", "name", "bpchar"],
    "smallint": ["integer", "bigint", "numeric"],
    "integer": ["smallint", "bigint", "numeric", "real"],
    "bigint": ["smallint", "integer", "numeric"],
    "real": ["double precision", "numeric", "integer"],
    "double precision": ["real", "numeric", "integer"],
    "boolean": ["text"],
    "interval": ["text", "time"],
    "timestamp with time zone": ["timestamp", "date", "text"],
    "uuid": ["text"],
    "jsonb": ["json", "text"],
    "bytea": ["text"],
    "regclass": ["oid", "text", "name"],
    "vector": ["text", "real[]", "halfvec"],
}

OURS: LiteralString = """
    select routine.proname::text,
           array(select format_type(type, null) from unnest(routine.proargtypes) as type),
           coalesce(routine.proargnames, '{}'),
           pg_get_function_result(routine.oid)
      from pg_proc as routine
     where routine.pronamespace = 'public'::regnamespace and routine.prokind = 'f'
       and routine.proname ~ '(^|_)embeddings?(_|$)'
       and not exists (select from pg_depend where objid = routine.oid and deptype = 'e')
"""


def like(type_: str) -> list[str]:
    bare = type_.removesuffix("[]")
    return [other + type_[len(bare) :] for other in LIKE[bare] if not other.endswith("[]")] + [
        "anyarray" if type_.endswith("[]") else "anyelement"
    ]


def others(types: list[str]) -> Iterator[list[str]]:
    """The arguments of functions that are like one of these arguments."""
    for place, type_ in enumerate(types):
        for other in like(type_):
            yield [*types[:place], other, *types[place + 1 :]]
    for place in range(3):
        yield [like(type_)[min(place, len(like(type_)) - 1)] for type_ in types]
    for length in range(len(types)):
        yield types[:length]
        yield [*types[:length], "variadic anyarray"]
        yield [*types[:length], "variadic text[]"]
        yield [*types[:length], *(f"{like(type_)[0]} default null" for type_ in types[length:])]
    if types:
        yield [f"{type_} default null" for type_ in types[:-1] + like(types[-1])[:1]]


@pytest.fixture
def squatted(db: Database) -> Database:
    """A database in which mallory made all of these, and the calls of functions are counted."""
    create_role(db, "mallory", "login")
    for name, types, names, result in rows(db, OURS):
        for arguments in others(types):
            named = [
                argument.replace("variadic ", f"variadic {called} ")
                if argument.startswith("variadic")
                else f"{called} {argument}"
                for called, argument in zip(names, arguments, strict=False)
            ]
            signature = f"public.{name}({', '.join(named)})"
            try:
                db.execute(
                    f"create function {signature} returns {result} language plpgsql as"
                    " 'begin raise exception ''this is of mallory''; end'"
                )
            except (psycopg.errors.DuplicateFunction, psycopg.errors.InvalidFunctionDefinition):
                continue  # two ways to the same
    [count] = rows(
        db,
        "with theirs as materialized (select oid, prokind from pg_proc where prosrc ~ 'of mallory')"
        " select count(*) from theirs",
    )
    assert count[0] > 300
    for (routine,) in rows(
        db, "select oid::regprocedure::text from pg_proc where prosrc ~ 'of mallory'"
    ):
        db.execute(f"alter function {routine} owner to mallory")
    database = sql.Identifier(db.info.dbname)
    db.execute(sql.SQL("alter database {} set track_functions = 'all'").format(database))
    return db


def called(db: Database, mine: bool) -> set[str]:
    """The functions in `public` that somebody called, of mallory or not."""
    db.execute("select pg_stat_clear_snapshot()")
    return {
        name
        for (name,) in rows(
            db,
            "select called.funcname::text from pg_stat_user_functions as called"
            "  join pg_proc on pg_proc.oid = called.funcid"
            " where pronamespace = 'public'::regnamespace"
            "   and (proowner <> 'mallory'::regrole) = %s",
            mine,
        )
    }


def use_chunks(queue: PostgresQueue) -> None:
    """Embed a text in one chunk, by each method of the queue for that, and search for it."""
    target = queue.watch("long", "body", "embedding", dimensions=3, chunks=True)
    assert queue.backfill(target, 1) == 1
    [job] = queue.claim(replace(SCOPE, table="long"), 1).jobs
    place = Place(job.content_hash, 0, 3, None, None)
    chunk = Chunk.of(job, place, ChunkText(None, "one"))
    vector = np.array([1, 2, 3], dtype=np.float32)
    assert queue.stage(job.model, [Completion(chunk, vector, None)]) == []
    assert queue.complete_documents(job.model, [DocumentCompletion(job, [place], 1, 1, None)]) == []
    assert [match.content for match in queue.search(target, vector, 1)] == ["one"]
    assert queue.verify(target, None, of_chunks=True)[0].found == 1
    assert queue.placed_chunks(target, ["1"]) == {"1": {place.hash}}
    assert [stored.content for stored in queue.sample_vectors(target, 1)] == ["one"]
    assert [passage.hash for passage in queue.passages(target, "1")] == [place.hash]
    assert queue.reveal_passage(target, "1", 0) == "one"
    queue.unwatch("long", "embedding")


def use_dashboard(queue: PostgresQueue, target: Target) -> None:
    """Call each function about the state of the queue and its jobs."""
    [found] = queue.page_jobs(table=target.table_name, record="1").jobs
    job = queue.job(found.id)
    assert job
    assert job.status == found.status == "completed"
    assert queue.reveal_text(found.id) == "one"
    queue.set_goal(target, 95)
    assert queue.overview().columns[0].coverage_goal == 95


def use_reembeddings(queue: PostgresQueue) -> None:
    """Take each step of a re-embedding, and read about it."""
    name = ("docs", "embedding")
    begun = queue.start_reembedding(*name, "test:other", 3)
    queue.pause_reembedding(*name)
    queue.resume_reembedding(*name)
    queue.advance_reembedding(begun, "indexing")
    queue.swap_reembedding(*name, figures={"verified": False})
    assert {used.texts for used in queue.reembedding_usage(begun)} == {0}
    queue.rollback_reembedding(*name)
    assert queue.reembedding_progress(begun).rows == 3
    ended = queue.cancel_reembedding(*name)
    assert [ended] == queue.reembeddings()
    assert len(queue.reembedding_events(ended)) == 7
    begun = queue.start_reembedding(*name, "test:other", 3)
    queue.advance_reembedding(begun, "indexing")
    queue.swap_reembedding(*name, figures={"verified": False})
    queue.finish_reembedding(*name)
    assert queue.relabel_reembedded(*name) is None
    queue.rename_reembedded(*name)
    begun = queue.convert(*name, "halfvec")
    assert queue.cast(begun, 0, 1) is None
    queue.cancel_reembedding(*name)


def use_files(queue: PostgresQueue) -> None:
    """Call each function about folders and files."""
    folder = queue.add_folder("handbook", "directory", "/srv/handbook", [], [], "here")
    lease = queue.start_scan(folder, SCOPE.lease)
    assert lease
    queue.record_files(folder, lease, SCOPE.lease, [FoundFile(None, "a.md", 1, None, "1", None)])
    [file] = queue.known_files(folder)
    assert queue.file_ids("a", 10) == [file.id]
    assert [found.path for found in queue.files("a")] == ["a.md"]
    assert [found.path for found in queue.page_files(None, None, None, 10).files] == ["a.md"]
    queue.finish_scan(
        folder,
        lease,
        files=1,
        missing=[],
        grace=timedelta(days=1),
        skipped={},
        seconds=0.1,
        problem=None,
    )
    [job] = queue.claim_files("tests", [folder], 10, SCOPE.lease).jobs
    assert queue.complete_file(job, "a text", b"x", FileFacts("text/markdown")) is None
    assert queue.remove_folder("handbook") == 1


def use_safekeeping(queue: PostgresQueue, target: Target) -> None:
    """Call each function about the audit, backups and checks."""
    queue.record_audit("restored", "docs", "embedding", figures={"rows": 1})
    assert queue.audit("docs", 1)[0].event == "restored"
    backup = queue.begin_backup("backups", "tests", SCOPE.lease)
    assert backup
    assert queue.extend_backup(backup, SCOPE.lease, 1, 10)
    assert queue.end_backup(backup, 2, 20)
    assert queue.record_backup_check("backups", backup.name, None)
    assert queue.backups()[0].state == "complete"
    check = queue.begin_check(
        "tests", timedelta(days=1), SCOPE.lease, target.table_name, "embedding"
    )
    assert check
    assert queue.continue_check(check, SCOPE.lease, "1", {"rows": 1})
    assert queue.end_check(check, "sound", Checked(vectors=1))
    assert queue.checks()[0].state == "sound"


def use_batches(queue: PostgresQueue, target: Target) -> None:
    """Call each function about batches."""
    assert queue.has_batches()
    assert queue.requeue(status=None).requeued > 0
    queue.run_script("update public.embedding_queue set priority = -10")
    while queue.plan_batches(target):
        pass
    assert queue.batch_backfills()[0].waiting > 1
    batch = queue.begin_batch("tests", SCOPE.lease, SCOPE.default_model)
    assert batch
    [job] = queue.claim_batch_jobs(batch.id, "tests", 1, SCOPE.default_model).jobs
    assert queue.extend_batch(batch.id, "tests", SCOPE.lease)
    assert queue.record_batch_file(
        batch.id, "tests", "file-1", texts=1, bytes=1, tokens=1, cost=1.0
    )
    assert queue.submit_batch(batch.id, "tests", "batch-1", None, SCOPE.lease)
    assert queue.cancel_batch(batch.id)
    assert queue.next_batch("tests", SCOPE.lease)
    assert [asked for asked, _ in queue.batch_jobs(batch.id, [job.id])] == [job.id]
    assert queue.release_batch_jobs(batch.id, "tests", to_wait=True) == 1
    assert queue.report_batch(batch.id, "tests", "cancelled", SCOPE.lease)
    assert queue.end_batch(batch.id, "tests", "cancelled")
    assert queue.cancel_waiting(target) > 0


def use_keys(queue: PostgresQueue) -> None:
    """Call each function about keys."""
    queue.create_api_key("app", bytes(32), ["embed"], expires_in=timedelta(days=1))
    assert queue.find_api_key(bytes(32))
    assert queue.api_keys()[0].last_used_at
    assert queue.revoke_api_key("app")


def use_everything(queue: PostgresQueue) -> None:
    """Call each function of the SQL API, by each method of the queue."""
    queue.check_schema()
    target = queue.watch("docs", "body", "embedding", dimensions=3)
    assert queue.backfill(target, 1) == 1
    assert queue.backfill(target, 10) == 2
    queue.count_due(SCOPE)
    [job, second, third] = queue.claim(SCOPE, 10).jobs
    assert queue.extend(SCOPE, [job, second, third]) == set()
    assert embed(queue, [job]) == []
    queue.cache("a:b", completions_of([job]), 1)
    queue.cached("a:b", 3, [job.content_hash])
    queue.cache_enhancements({b"x": "words"}, 1)
    assert queue.cached_enhancements([b"x"]) == {b"x": "words"}
    assert queue.fail([second], "rejected", "why") == 1
    queue.release([third])
    assert queue.requeue(status="failed").requeued == 1
    queue.list_jobs(["pending"], None, None, 5)
    queue.reprocess("*", None, None, 0, dry_run=True)
    queue.recheck(None, None, 0, 100, dry_run=True)
    assert queue.verify(target, None)[0].found == 3
    assert queue.describe(target).key_columns == ["id"]
    assert len(queue.sample_vectors(target, 10)) == 1
    [stored] = queue.export(target, None).rows
    assert [each.outcome for each in queue.restore(target, [stored])] == ["present"]
    assert queue.damaged(target, None).rows == []
    assert queue.requeue_damaged(target, []) == 0
    assert queue.requeue_damaged(target, [job.record_id]) == 1
    assert queue.repair_cost() == 0
    assert len(queue.claim_records(target, [job.record_id], SCOPE).jobs) == 1
    assert [each.outcome for each in queue.restore(target, [stored])] == ["restored"]
    queue.preview_watch("docs", None, "embedding", "a:b")
    assert queue.sample_adoptable("docs", None, "embedding", 1) == []
    assert queue.adopt(target, SCOPE.default_model, 3, None).adopted == 0
    queue.estimate("a:b", None, None, True)
    queue.stats(timedelta(hours=1))
    queue.rate("a:b")
    queue.search(target, np.array([1, 2, 3], dtype=np.float32), 1)
    target = queue.watch("docs", None, "embedding", language="english")
    for statement in queue.full_text_statements(target):
        queue.run_script(statement)
    queue.search(target, None, 1, text="two")
    queue.missing(target, ["1"])
    queue.has_vector_index(target)
    assert queue.match_function(target) is None
    use_keys(queue)
    use_chunks(queue)
    queue.diagnose()
    usage = Usage(model="a:b", completed=1, failed=0, requests=1, tokens=1, seconds=1.0, cost=None)
    queue.heartbeat(SCOPE, Report("working", completed=1, usage=[usage]))
    queue.control("pause", SCOPE.worker)
    assert queue.command(SCOPE).desired_state == "pause"
    assert queue.poll(SCOPE)[0].desired_state == "pause"
    queue.control("work")
    queue.load()
    queue.report_provider("openai", "no key", "get one")
    queue.announce("queue_drained", "", uuid4())
    assert queue.status()[0].completed == 1
    queue.progress()
    use_dashboard(queue, target)
    use_batches(queue, queue.target("docs", "embedding"))
    use_reembeddings(queue)
    use_files(queue)
    use_safekeeping(queue, queue.target("docs", "embedding"))
    queue.deregister(SCOPE)
    assert queue.table_name("squatted") == "squatted"
    assert queue.unwatch("docs", "embedding")


def test_the_queue_calls_our_functions(squatted: Database, database_url: str) -> None:
    squatted.execute("create table docs (id bigint primary key, body text)")
    squatted.execute("create table squatted (id bigint primary key)")
    squatted.execute("create table long (id bigint primary key, body text)")
    squatted.execute("insert into long values (1, 'one')")
    squatted.execute("insert into docs values (1, 'one'), (2, 'two'), (3, 'three')")
    with PostgresQueue(database_url, "tests") as queue:
        use_everything(queue)
        queue.run_script(seed())
        queue.run_script(scheduled().sql)
    assert called(squatted, mine=False) == set()
    assert called(squatted, mine=True) >= FUNCTIONS.keys()


@pytest.mark.only_in_full
def test_the_commands_call_our_functions(
    squatted: Database, worker: Worker, database_url: str
) -> None:
    squatted.execute("create table docs (id bigint primary key, body text)")
    squatted.execute("insert into docs select i, 'text ' || i from generate_series(1, 9) i")
    watch = "watch docs --source body --column embedding --create-column"
    printed = worker(*watch.split(), "--sql")
    squatted.execute(printed.stdout)
    for command in (
        "watch docs --source body --column embedding --match-function --hybrid",
        "backfill",
        "process --batch-size 4",
        "status",
        "targets",
        "list",
        "stats",
        "doctor",
        "requeue --table docs --all --yes",
        "reprocess *text* --yes",
        "process --dry-run",
        "process",
        "verify docs",
        "search text --table docs",
        "pause",
        "resume",
        "unwatch docs --column embedding",
    ):
        result = worker(*command.split())
        assert result.returncode in (0, 1), (command, result.stderr)
        assert "mallory" not in result.stderr.replace("function_overloaded", "")
    assert called(squatted, mine=False) == set()


def test_a_function_that_takes_more_is_named(db: Database, database_url: str) -> None:
    """Postgres itself cannot choose between ours and one with a further argument."""
    create_role(db, "mallory", "login")
    db.execute(
        "create function public.embedding_command(text, integer default 1) returns integer"
        " language sql as 'select 1'"
    )
    db.execute("alter function embedding_command(text, integer) owner to mallory")
    with PostgresQueue(database_url, "tests") as queue:
        with pytest.raises(SchemaError, match="two functions have the same name") as problem:
            queue.command(SCOPE)
        assert "drop it" in str(problem.value.hint)
        [found] = [one for one in queue.diagnose() if one.check == "function_overloaded"]
        assert found.subject == "public.embedding_command(text,integer)"
        assert (
            found.hint
            == "Run `drop function public.embedding_command(text,integer)`, or rename it."
        )


def test_the_worker_knows_the_functions_as_they_are(db: Database) -> None:
    assert {
        name: dict(zip(names, types, strict=True))
        for name, names, types in rows(
            db,
            "select proname::text, coalesce(proargnames[:pronargs], '{}'),"
            "       array(select regexp_replace(format_type(type, null), '^.*\\.', '')"
            "               from unnest(proargtypes) as type)"
            "  from pg_proc where pronamespace = 'public'::regnamespace and proname = any (%s)",
            list(FUNCTIONS),
        )
    } == FUNCTIONS
    assert value(db, "select count(*) from pg_proc where proname = any (%s)", list(FUNCTIONS)) == (
        len(FUNCTIONS)
    )
