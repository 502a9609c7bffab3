"""The schema changes between a claim and its completion.

Where the target cannot go on it is suspended with a reason, and its jobs wait; where it can, it
goes on. In neither case does a run end over it, and the other targets never notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

import numpy as np
import pytest

from tests.acceptance.conftest import Held
from tests.conftest import Database, Server, create_docs, rows, value
from tests.integration.jobs import SCOPE, claim, insert
from tests.integration.runs import Runs, hand_in, under_way
from tests.integration.tables import (
    Connect,
    completions_of,
    create_role,
    embed,
    embed_all,
    refusal,
    vector_of,
    vectors,
)
from worker.embedders.base import Vectors
from worker.queue import Job
from worker.queue.postgres import PostgresQueue

WATCH: LiteralString = "select watch_embeddings('docs', 'body', 'embedding')"
WATCH_WITH_COLUMN: LiteralString = (
    "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)"
)
# The triggers of a watched table hold on to the types of the columns that they compare.
UNHOOK: LiteralString = "drop trigger embedding_update_1 on docs"


@dataclass(frozen=True)
class Drift:
    """A change that stops the target, what its reason has to name, and what mends it."""

    change: LiteralString
    named: str
    mend: LiteralString = WATCH


STOPS = {
    "embedding column dropped": Drift(
        "alter table docs drop column embedding",
        "embedding",
        WATCH_WITH_COLUMN,
    ),
    "embedding column renamed": Drift(
        "alter table docs rename embedding to vector",
        "embedding",
        f"alter table docs rename vector to embedding; {WATCH}",
    ),
    "embedding column wider": Drift(
        "alter table docs alter embedding type vector(4)",
        "4 dimensions by now, not 3",
    ),
    "embedding column narrower": Drift(
        "alter table docs alter embedding type vector(2)",
        "2 dimensions by now, not 3",
    ),
    "embedding column a wider halfvec": Drift(
        "alter table docs alter embedding type halfvec(4)",
        "4 dimensions by now, not 3",
    ),
    "embedding column a number": Drift(
        "alter table docs alter embedding type integer using null",
        "integer",
        f"alter table docs alter embedding type vector(3) using null; {WATCH}",
    ),
    "embedding column generated": Drift(
        "alter table docs drop embedding;"
        " alter table docs add embedding vector(3) generated always as (null::vector(3)) stored",
        "column docs.embedding is not the one that was watched",
        f"alter table docs drop embedding; {WATCH_WITH_COLUMN}",
    ),
    "source column dropped": Drift(
        "alter table docs drop column body cascade",
        "body",
        f"alter table docs add body text; update docs set body = 'text again ' || id; {WATCH}",
    ),
    "source column renamed": Drift(
        "alter table docs rename body to words",
        "body",
        f"alter table docs rename words to body; {WATCH}",
    ),
    "key column renamed": Drift(
        "alter table docs rename id to key",
        "docs.id",
        f"alter table docs rename key to id; {WATCH}",
    ),
    "key column of another type": Drift(
        f"{UNHOOK}; alter table docs alter id type text", "operator does not exist: text = bigint"
    ),
    "table renamed": Drift(
        "alter table docs rename to articles",
        "public.docs",
        f"alter table articles rename to docs; {WATCH}",
    ),
    "table moved": Drift(
        "create schema app; alter table docs set schema app",
        "public.docs",
        f"alter table app.docs set schema public; {WATCH}",
    ),
    "table dropped": Drift(
        "drop table docs",
        "public.docs",
        "create table docs (id bigint primary key, body text);"
        " insert into docs select i, 'text ' || i from generate_series(1, 3) i;"
        f" {WATCH_WITH_COLUMN}",
    ),
    "table become a materialized view": Drift(
        "alter table docs rename to stored; create materialized view docs as select * from stored",
        'cannot lock relation "docs"',
        f"drop materialized view docs; alter table stored rename to docs; {WATCH}",
    ),
}

GOES_ON = {
    "embedding column without a width": "alter table docs alter embedding type vector",
    "embedding column a halfvec": "alter table docs alter embedding type halfvec(3)",
    "source column of another type": f"{UNHOOK}; alter table docs alter body type varchar(99)",
    "key column narrower": f"{UNHOOK}; alter table docs alter id type integer",
    "target disabled": "update embedding_targets set enabled = false",
    "a column more": "alter table docs add title text default 'untitled'",
    "primary key dropped": "alter table docs drop constraint docs_pkey",
    "row level security": "alter table docs enable row level security",
    "extension moved": "create schema extensions; alter extension vector set schema extensions",
}


def create_docs_and_notes(db: Database) -> None:
    create_docs(db)
    db.execute("create table notes (id bigint primary key, body text)")
    db.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into notes values (1, 'a note')")


FIRST_TABLES = {"notes": create_docs_and_notes}


@pytest.fixture
def notes(docs: Database) -> Database:
    """A second target beside `docs`: the table `notes`, with a row."""
    return docs


@pytest.fixture
def claimed(notes: Database, queue: PostgresQueue) -> dict[str, list[Job]]:
    """The jobs of both tables, three of `docs` and one of `notes`, claimed."""
    insert(notes, 3)
    claims = [claim(queue), claim(queue)]
    return {jobs[0].table_name: jobs for jobs in claims}


def problem(db: Database, table: str = "docs") -> str | None:
    found: str | None = value(
        db, "select problem from embedding_targets where table_name = %s", table
    )
    return found


def states_of_docs(db: Database) -> list[tuple[object, ...]]:
    return rows(
        db,
        "select distinct status, attempts, abandoned_claims, lease is null from embedding_queue"
        " where table_name = 'docs'",
    )


def stored(db: Database, width: int = 3) -> bool:
    """Whether every row of `docs` has the vector of its text."""
    found = vectors(db, "select body, embedding::text from docs")
    return found == {body: vector_of(body, width) for body in found} and len(found) > 0


def made_up(text: str) -> Vectors:
    return np.array(vector_of(text), dtype=np.float32)


@pytest.mark.parametrize("drift", STOPS.values(), ids=list(STOPS))
def test_a_change_that_stops_the_target_sets_it_aside_until_it_is_mended(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]], drift: Drift
) -> None:
    notes.execute(drift.change)
    stats = hand_in(queue, claimed["docs"])
    assert (stats.released, stats.taken) == (3, 3)
    assert drift.named in str(problem(notes))
    assert states_of_docs(notes) == [("pending", 0, 0, True)]
    assert rows(
        notes, "select distinct error_message from embedding_queue where table_name = 'docs'"
    ) == [("its target is suspended",)]
    assert embed(queue, claimed["notes"]) == [], "the other target goes on"
    assert not queue.claim(SCOPE, 10), "nobody works on what is suspended"

    notes.execute(drift.mend)
    assert problem(notes) is None
    assert len(embed_all(queue)) == 3
    assert states_of_docs(notes) == [("completed", 0, 0, True)]
    assert stored(notes, value(notes, "select vector_dims(embedding) from docs limit 1"))


@pytest.mark.parametrize("change", GOES_ON.values(), ids=list(GOES_ON))
def test_a_change_that_does_not_matter_is_not_noticed(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]], change: LiteralString
) -> None:
    notes.execute(change)
    assert embed(queue, claimed["docs"]) == []
    assert embed(queue, claimed["notes"]) == []
    assert problem(notes) is None
    assert states_of_docs(notes) == [("completed", 0, 0, True)]
    assert stored(notes)


def test_a_column_that_took_any_width_and_takes_one_by_now_sets_the_target_aside(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("alter table docs alter embedding type vector")
    docs.execute(WATCH)
    insert(docs, 1)
    jobs = claim(queue)
    docs.execute("alter table docs alter embedding type vector(4)")
    assert hand_in(queue, jobs).released == 1
    assert problem(docs) == "column embedding holds 4 dimensions by now, not any number"


def test_a_column_that_became_a_text_sets_the_target_aside(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]]
) -> None:
    notes.execute("alter table docs alter embedding type text")
    assert hand_in(queue, claimed["docs"]).released == 3
    assert "text" in str(problem(notes))
    assert value(notes, "select count(embedding) from docs") == 0


@pytest.mark.parametrize("kind", ["embedding column dropped", "table renamed", "table dropped"])
def test_a_run_outlives_a_change_that_is_made_while_the_model_works(
    notes: Database, runs: Runs, held: Held, kind: str
) -> None:
    drift = STOPS[kind]
    insert(notes, 3)
    # the first to be asked for, one batch at a time, and so the ones whose answer is held back
    notes.execute("update embedding_queue set priority = 1 where table_name = 'docs'")
    run = runs.new(delay=0.001)
    with under_way(run, held) as ending:
        notes.execute(drift.change)
    stats = ending.result()
    assert (stats.completed, stats.released, stats.taken) == (1, 3, 4)
    assert drift.named in str(problem(notes))
    assert problem(notes, "notes") is None
    assert states_of_docs(notes) == [("pending", 0, 0, True)]
    assert run.errors == [], "nothing is wrong with the model"

    notes.execute(drift.mend)
    assert runs.drain().completed == 3
    assert value(notes, "select count(embedding) from docs") == 3


def test_a_table_that_is_just_being_altered_gets_its_jobs_back(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]], connect: Connect
) -> None:
    other = connect()
    with other.transaction():
        other.execute("alter table docs add title text")
        assert hand_in(queue, claimed["docs"]).released == 3
        assert embed(queue, claimed["notes"]) == []
    assert problem(notes) is None
    assert states_of_docs(notes) == [("pending", 0, 0, True)]
    notes.execute("update embedding_queue set available_at = now() where status = 'pending'")
    assert len(embed_all(queue)) == 3
    assert stored(notes)


# -- unwatched, or watched in another way


def test_vectors_of_a_target_that_was_unwatched_are_thrown_away(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]]
) -> None:
    assert queue.unwatch("docs", "embedding")
    stats = hand_in(queue, claimed["docs"])
    assert (stats.stale, stats.taken) == (3, 3)
    assert value(notes, "select count(embedding) from docs") == 0
    assert embed(queue, claimed["notes"]) == []

    notes.execute(WATCH)
    assert hand_in(queue, claimed["docs"]).stale == 3, "of another target by now"
    assert queue.backfill(queue.target("docs", "embedding"), 10) == 3
    assert len(embed_all(queue)) == 3
    assert stored(notes)


@pytest.mark.parametrize("column", ["id", "body"])
def test_the_type_of_a_watched_column_is_held_by_its_trigger(
    docs: Database, column: LiteralString
) -> None:
    """Which is what Postgres does, and not what we would wish; the next test shows the way."""
    sentence, _ = refusal(docs, f"alter table docs alter {column} type varchar(99)")
    assert sentence == "cannot alter type of a column used in a trigger definition"


def test_the_type_of_a_watched_column_is_changed_between_dropping_the_trigger_and_watching_again(
    db: Database, queue: PostgresQueue
) -> None:
    db.execute("create table docs (id integer primary key, body text)")
    db.execute(WATCH_WITH_COLUMN)
    insert(db, 2)
    embed_all(queue)
    db.execute("update docs set body = 'edited' where id = 1")
    jobs = claim(queue)
    with db.transaction():
        db.execute(UNHOOK)
        db.execute("alter table docs alter id type bigint, alter body type varchar(99)")
        db.execute(WATCH)
    assert hand_in(queue, jobs).stale == 1, "the job is that of another key"
    db.execute("insert into docs values (3000000000, 'beyond an integer')")
    db.execute("update docs set body = 'edited as well' where id = 2")
    assert embed_all(queue) == ["beyond an integer", "edited", "edited as well"]
    assert stored(db)


def test_edits_made_between_a_renaming_and_watching_under_the_new_name_are_embedded(
    docs: Database, queue: PostgresQueue
) -> None:
    insert(docs, 2)
    embed_all(queue)
    docs.execute("alter table docs rename to articles")
    docs.execute("update articles set body = 'edited' where id = 1")
    docs.execute("select watch_embeddings('articles', 'body', 'embedding')")
    queue.backfill(queue.target("articles", "embedding"), 10)
    docs.execute("select unwatch_embeddings('docs', 'embedding')")
    embed_all(queue)
    found = vectors(docs, "select body, embedding::text from articles")
    assert found == {body: vector_of(body) for body in ("edited", "text 2")}


# -- the extension


def test_pgvector_may_move_to_another_schema_while_workers_are_at_work(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]], database_url: str
) -> None:
    assert embed(queue, claimed["notes"]) == [], "this connection knows the type from before"
    notes.execute("create schema extensions; alter extension vector set schema extensions")
    assert embed(queue, claimed["docs"]) == []
    notes.execute("insert into docs values (4, 'by an old connection')")
    assert embed_all(queue) == ["by an old connection"]
    with PostgresQueue(database_url, "tests") as fresh:
        notes.execute("insert into docs values (5, 'by a new connection')")
        assert embed_all(fresh) == ["by a new connection"]
        for connection in (queue, fresh):
            nearest = connection.search(
                connection.target("docs", "embedding"), made_up("by a new connection"), 1
            )
            assert [match.record_id for match in nearest] == ["5"]
    assert stored(notes)
    notes.execute("select watch_embeddings('docs', 'body', 'wide', dimensions => 2001)")
    notes.execute("update docs set body = body || ', edited'")
    assert len(embed_all(queue)) == 10


def test_what_pgvector_leaves_behind_when_it_moves_is_found_and_put_right(
    docs: Database, queue: PostgresQueue
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', match_function => true)")
    insert(docs, 2)
    jobs = claim(queue)
    completions = completions_of(jobs)
    queue.cache("test:model", completions, 1)
    assert queue.complete("test:model", completions[:1]) == []
    docs.execute("create schema other; alter extension vector set schema other")

    assert queue.complete("test:model", completions[1:]) == []
    hashes = [job.content_hash for job in jobs]
    assert len(queue.cached("test:model", 3, hashes)) == 2
    queue.cache("test:other", completions, 1)
    assert len(queue.cached("test:other", 3, hashes)) == 2

    found: LiteralString = "select check_name, hint from diagnose_embeddings()"
    assert rows(docs, found) == [
        ("match_function_broken", "Run `worker watch` for the column again.")
    ]
    docs.execute("select watch_embeddings('docs', embedding_column => 'embedding')")
    assert rows(docs, found) == []
    assert embed_all(queue) == []
    assert rows(docs, "select content from match_docs('[1,2,3]')") != []


@pytest.fixture
def hired_url(docs: Database, server: Server, database: str) -> str:
    """The database, as a login that may only work. The pooler would make it a superuser."""
    create_role(docs, "hired_hand", "login in role embedding_worker")
    return f"{server.direct_url_of(database)}&user=hired_hand"


def test_a_worker_that_is_connected_goes_on_when_pgvector_moves(
    docs: Database, hired_url: str
) -> None:
    insert(docs, 2)
    with PostgresQueue(hired_url, "tests") as hired:
        assert embed(hired, claim(hired, 1)) == []
        docs.execute("create schema extensions; alter extension vector set schema extensions")
        assert len(embed_all(hired)) == 1
    assert stored(docs)


def test_a_worker_that_connects_after_pgvector_has_moved_needs_no_right_on_its_schema(
    docs: Database, hired_url: str
) -> None:
    insert(docs, 1)
    docs.execute("create schema extensions; alter extension vector set schema extensions")
    with PostgresQueue(hired_url, "tests") as hired:
        assert len(embed_all(hired)) == 1


# -- rules of the table that came meanwhile, and that the vector of one row breaks


REFUSING: LiteralString = (
    "create function refuse() returns trigger language plpgsql as"
    " $$ begin if new.id = 2 then raise 'row 2 is archived'; end if; return new; end $$;"
    " create trigger refuse before update on docs for each row execute function refuse()"
)
RULES: dict[str, LiteralString] = {
    "constraint": "alter table docs add check (id <> 2 or embedding is null)",
    "trigger": REFUSING,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_a_row_whose_vector_breaks_a_rule_of_its_table_is_alone_with_it(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]], rule: LiteralString
) -> None:
    notes.execute(rule)
    hand_in(queue, claimed["docs"])
    assert embed(queue, claimed["notes"]) == []
    assert rows(
        notes,
        "select record_id, status = 'completed', error_message is not null from embedding_queue"
        " where table_name = 'docs' order by 1",
    ) == [("1", True, False), ("2", False, True), ("3", True, False)]


def test_a_table_that_became_a_view_that_cannot_be_written_is_set_aside(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]]
) -> None:
    notes.execute("alter table docs rename to stored")
    notes.execute("create view docs as select id, body, null::vector(3) as embedding from stored")
    assert hand_in(queue, claimed["docs"]).released == 3
    assert "public.docs is a view and not a table" in str(problem(notes))


def test_a_vector_that_a_trigger_of_the_user_drops_does_not_count_as_written(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]]
) -> None:
    notes.execute(
        "create function ignore() returns trigger language plpgsql as $$ begin return null; end $$"
    )
    notes.execute(
        "create trigger ignore before update on docs for each row execute function ignore()"
    )
    hand_in(queue, claimed["docs"])
    assert value(notes, "select count(embedding) from docs") == 0
    assert ("completed",) not in rows(
        notes, "select status from embedding_queue where table_name = 'docs'"
    )


def test_a_vector_that_must_not_be_null_does_not_stop_the_claims_of_others(
    notes: Database, queue: PostgresQueue, claimed: dict[str, list[Job]]
) -> None:
    hand_in(queue, claimed["docs"])
    notes.execute("alter table docs alter embedding set not null")
    notes.execute("update docs set body = '' where id = 2")
    queue.release(claimed["notes"])
    assert embed_all(queue) == ["a note"]


# -- the functions of a target


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_watching_another_source_changes_what_is_read(
    docs: Database, queue: PostgresQueue, role: LiteralString
) -> None:
    """Also in a session that imports data, which has turned most triggers off."""
    docs.execute("alter table docs add title text")
    docs.execute("insert into docs (id, body, title) values (1, 'body', 'title')")
    assert embed_all(queue) == ["body"]
    docs.execute("set session_replication_role = " + role)
    docs.execute("select watch_embeddings('docs', 'title', 'embedding')")
    docs.execute("reset session_replication_role")
    assert embed_all(queue) == ["title"]


@pytest.mark.parametrize(
    ("changes", "watch"),
    [
        (
            [
                "alter table docs rename to docs_old",
                "create table docs (key uuid primary key, body text)",
            ],
            "select watch_embeddings('docs_old', 'body', 'embedding')",
        ),
        (
            ["alter table docs rename id to doc_id", "alter table docs rename embedding to vec"],
            "select watch_embeddings('docs', 'body', 'vec')",
        ),
    ],
    ids=["another table has the name", "key and vector column renamed"],
)
def test_a_target_is_watched_again_after_its_names_changed(
    docs: Database, queue: PostgresQueue, changes: list[LiteralString], watch: LiteralString
) -> None:
    docs.execute("insert into docs values (1, 'one')")
    for change in changes:
        docs.execute(change)
    docs.execute(watch)
    assert embed_all(queue) == ["one"]
