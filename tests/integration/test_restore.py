"""Vectors that were exported come back to the rows whose texts they were made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import LiteralString

import numpy as np
import pytest

from tests.conftest import Database, rows, value
from tests.integration.jobs import (
    SCOPE,
    SQLSTATES,
    claim,
    claim_one,
    complete,
    insert,
    poison_trigger,
)
from tests.integration.tables import embed_all, refusal, vector_of
from worker.errors import Busy, SettingsError
from worker.queue import AdminQueue, Completion, Scope, StoredRow, Target

COLUMNS = (
    "select table_name, record_id, embedding_column, user_id, content, status, attempts,"
    " abandoned_claims, unwritten, passed_over, error_message, error_class, priority, lease,"
    " lease_expires_at, worker, content_hash, vector_hash, model, tokens, cost, truncated_to,"
    " unenhanced from embedding_queue order by record_id"
)


def exported(
    queue: AdminQueue, target: Target, batch: int = 1000, *, of_chunks: bool = False
) -> list[StoredRow]:
    """Everything that an export finds, range by range."""
    found: list[StoredRow] = []
    after = None
    while True:
        part = queue.export(target, after, batch=batch, of_chunks=of_chunks)
        found += part.rows
        if part.looked_to is None:
            return found
        assert after is None or part.looked_to != after
        after = part.looked_to


def outcomes(queue: AdminQueue, backup: Sequence[StoredRow], **options: bool) -> dict[str, str]:
    """What becomes of each row."""
    found = queue.restore(queue.target("docs", "embedding"), backup, **options)
    assert [one.record_id for one in found] == [row.record_id for row in backup]
    return {one.record_id: one.outcome for one in found}


def vectors(db: Database) -> dict[int, str | None]:
    return dict(rows(db, "select id, embedding::text from docs order by id"))


@pytest.fixture
def backup(docs: Database, queue: AdminQueue) -> list[StoredRow]:
    """The exported vectors of five embedded rows of `docs`."""
    insert(docs, 5)
    assert complete(queue, claim(queue)) == []
    return exported(queue, queue.target("docs", "embedding"))


def lose(db: Database) -> None:
    """What a new database is after the texts were copied: no vector, and new jobs."""
    db.execute("truncate embedding_queue")
    db.execute("update docs set embedding = null")
    db.execute("update embedding_targets set model = null, document_prompt = null")
    db.execute("select backfill_embeddings('docs', 'embedding')")


# -- export


def test_an_export_returns_each_vector_with_what_it_was_made_from(
    docs: Database, queue: AdminQueue
) -> None:
    insert(docs, 2)
    vector = np.array([1 / 3, -3e-30, 7e-40], dtype=np.float32)
    jobs = sorted(claim(queue), key=lambda job: job.record_id)
    queue.complete(
        "test:model",
        [Completion(jobs[0], vector, 7, 3, 1.25e-7), Completion(jobs[1], vector, None)],
    )
    first, second = exported(queue, queue.target("docs", "embedding"))
    assert first.vector.dtype == np.float32
    assert first.vector.tobytes() == vector.tobytes()
    assert (first.record_id, first.content_hash, first.model) == (
        "1",
        value(docs, "select sha256('text 1')"),
        "test:model",
    )
    assert (first.tokens, first.truncated_to, first.unenhanced) == (7, 3, None)
    assert first.cost == pytest.approx(1.25e-7)
    assert first.completed_at == value(
        docs, "select completed_at from embedding_queue where record_id = '1'"
    )
    assert (second.record_id, second.tokens, second.cost) == ("2", None, None)


@pytest.mark.contract
@pytest.mark.parametrize("batch", [1, 2, 3, 6, 7, 1000])
def test_every_vector_is_exported_once_and_in_order_whatever_the_batch(
    docs: Database, queue: AdminQueue, batch: int
) -> None:
    insert(docs, 6)
    docs.execute("delete from docs where id in (2, 4)")
    complete(queue, claim(queue))
    docs.execute("insert into docs values (7, 'without a vector'), (8, 'too'), (9, 'and this')")
    target = queue.target("docs", "embedding")
    assert [row.record_id for row in exported(queue, target, batch)] == ["1", "3", "5", "6"]


def test_an_export_leaves_out_what_is_not_in_step(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 5)
    complete(queue, claim(queue))
    docs.execute("update docs set body = 'new' where id = 1")
    docs.execute("update docs set embedding = null where id = 2")
    docs.execute("update embedding_queue set model = 'test:other' where record_id = '3'")
    target = queue.target("docs", "embedding")
    assert [row.record_id for row in exported(queue, target)] == ["4", "5"]


def test_an_export_of_an_empty_table_is_empty(docs: Database, queue: AdminQueue) -> None:
    part = queue.export(queue.target("docs", "embedding"), None)
    assert (part.rows, part.looked_to) == ([], None)


def test_a_range_is_bounded_by_bytes(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 4000)")
    insert(db, 1100)
    db.execute("update docs set embedding = array_fill(id::real, array[4000])::halfvec")
    db.execute("update embedding_targets set model = 'test:model', document_prompt = ''")
    db.execute(
        "update embedding_queue set status = 'completed', model = 'test:model',"
        " content_hash = sha256(convert_to('text ' || record_id, 'UTF8'))"
    )
    # by SQL: the Data API would send a hundred megabytes
    ranges = rows(
        db,
        "select count(*), max(looked_to) from export_embeddings('docs', 'embedding', batch => 5000)"
        " union all select count(*), max(looked_to)"
        " from export_embeddings('docs', 'embedding', after_record => '900', batch => 5000)",
    )
    assert 1000 < ranges[0][0] < 1100
    assert ranges == [(ranges[0][0], str(ranges[0][0])), (200, None)]


@pytest.mark.contract
def test_a_locked_table_is_not_waited_for(
    docs: Database, queue: AdminQueue, connect: Callable[[], Database], backup: list[StoredRow]
) -> None:
    target = queue.target("docs", "embedding")
    other = connect()
    with other.transaction():
        other.execute("lock table docs")
        with pytest.raises(Busy):
            queue.export(target, None)
        with pytest.raises(Busy):
            queue.restore(target, backup)
    assert exported(queue, target) != []


# -- outcomes


def test_a_restored_row_cannot_be_told_from_an_embedded_one(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    before, jobs = vectors(docs), rows(docs, COLUMNS)
    lose(docs)
    assert set(outcomes(queue, backup, dry_run=True).values()) == {"restored"}
    assert set(vectors(docs).values()) == {None}
    assert queue.target("docs", "embedding").model is None
    assert set(outcomes(queue, backup).values()) == {"restored"}
    assert vectors(docs) == before
    restored = rows(docs, COLUMNS)
    priority = 12
    assert [(*job[:priority], *job[priority + 1 :]) for job in restored] == [
        (*job[:priority], *job[priority + 1 :]) for job in jobs
    ]
    assert queue.target("docs", "embedding").model == "test:model"
    assert claim(queue) == []
    assert exported(queue, queue.target("docs", "embedding"))[0].vector.tolist() == [1, 1, 0]


def test_a_row_without_a_job_gets_one(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    before = vectors(docs)
    docs.execute("truncate embedding_queue")
    docs.execute("update docs set embedding = null")
    assert set(outcomes(queue, backup).values()) == {"restored"}
    assert vectors(docs) == before
    assert Counter(rows(docs, "select status, lease from embedding_queue")) == {
        ("completed", None): 5
    }
    assert value(docs, "select completed from embedding_status") == 5


def test_rows_that_are_there_are_left_alone(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    versions = "select ctid, xmin from docs union all select ctid, xmin from embedding_queue"
    before = rows(docs, versions)
    for dry_run, overwrite in [(False, False), (True, False), (False, True)]:
        found = outcomes(queue, backup, dry_run=dry_run, overwrite=overwrite)
        assert set(found.values()) == {"present"}
    assert rows(docs, versions) == before


def test_what_happened_since_the_backup_decides(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update docs set body = 'new' where id = 1")
    docs.execute("delete from docs where id = 2")
    docs.execute("update docs set body = ' ' where id = 3")
    docs.execute("update docs set embedding = null where id in (4, 5)")
    expected = {"1": "stale", "2": "gone", "3": "gone", "4": "restored", "5": "restored"}
    assert outcomes(queue, backup, dry_run=True) == expected
    assert outcomes(queue, backup) == expected
    assert vectors(docs) == {1: "[1,1,0]", 3: "[3,1,0]", 4: "[4,1,0]", 5: "[5,1,0]"}
    assert [job.record_id for job in claim(queue)] == ["1"]


def test_an_edit_that_is_taken_back_needs_no_model(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update docs set body = 'new'")
    docs.execute("update docs set body = 'text ' || id, embedding = null")
    assert set(outcomes(queue, backup).values()) == {"restored"}
    assert claim(queue) == []


@pytest.mark.contract
def test_a_text_that_changed_without_its_trigger_is_stale(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set body = 'new', embedding = null where id = 1")
    assert outcomes(queue, backup)["1"] == "stale"
    assert vectors(docs)[1] is None


def test_a_row_outside_the_filter_is_gone(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', filter => 'id > 1')")
    docs.execute("update docs set embedding = null")
    assert outcomes(queue, backup)["1"] == "gone"
    assert vectors(docs)[1] is None


def test_a_row_that_moved_to_another_key_is_gone(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update docs set id = 10 where id = 1")
    docs.execute("update docs set id = 1 where id = 2")
    assert {key: outcomes(queue, backup)[key] for key in "12"} == {"1": "stale", "2": "gone"}
    assert vectors(docs)[1] == "[2,1,0]"


def test_another_vector_of_the_text_is_kept_unless_it_is_to_be_overwritten(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    other = [replace(row, vector=row.vector + 1) for row in backup]
    docs.execute("update docs set embedding = null where id = 5")
    expected = {"1": "other_vector", "2": "other_vector", "3": "other_vector", "4": "other_vector"}
    assert outcomes(queue, other, dry_run=True) == {**expected, "5": "restored"}
    assert outcomes(queue, other) == {**expected, "5": "restored"}
    assert vectors(docs) == {
        **{key: f"[{key},1,0]" for key in range(1, 5)},
        5: "[6,2,1]",
    }
    assert Counter(outcomes(queue, other, overwrite=True).values()) == {
        "restored": 4,
        "present": 1,
    }
    assert vectors(docs) == {key: f"[{key + 1},2,1]" for key in range(1, 6)}
    assert set(outcomes(queue, other).values()) == {"present"}


def test_an_overwritten_vector_is_not_exported_and_is_replaced(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update docs set embedding = '[7,7,7]' where id = 1")
    target = queue.target("docs", "embedding")
    assert [row.record_id for row in exported(queue, target)] == ["2", "3", "4", "5"]
    assert outcomes(queue, backup) == {"1": "restored"} | dict.fromkeys("2345", "present")
    assert vectors(docs)[1] == "[1,1,0]"
    assert len(exported(queue, target)) == 5
    damaged = "select found from verify_embeddings('docs', 'embedding') where finding ~ %s"
    assert rows(docs, damaged, "overwritten|lost") == [(0,), (0,)]


def test_a_vector_that_somebody_put_back_by_hand_counts_as_written_again(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update embedding_queue set vector_hash = 1")
    assert set(outcomes(queue, backup).values()) == {"restored"}
    assert len(exported(queue, queue.target("docs", "embedding"))) == 5


def test_vectors_that_a_trigger_changes_are_present_once_they_are_restored(
    docs: Database, queue: AdminQueue
) -> None:
    docs.execute(
        "create function to_length_one() returns trigger language plpgsql"
        " set search_path = public, extensions as"
        " $$ begin new.embedding := l2_normalize(new.embedding); return new; end $$"
    )
    docs.execute(
        "create trigger to_length_one before update on docs"
        " for each row execute function to_length_one()"
    )
    insert(docs, 5)
    complete(queue, claim(queue))
    backup = exported(queue, queue.target("docs", "embedding"))
    assert np.linalg.norm(backup[4].vector) == pytest.approx(1)
    assert set(outcomes(queue, backup).values()) == {"present"}
    docs.execute("alter table docs disable trigger to_length_one")
    docs.execute("update docs set embedding = null")
    docs.execute("alter table docs enable trigger to_length_one")
    assert set(outcomes(queue, backup).values()) == {"restored"}
    assert len(exported(queue, queue.target("docs", "embedding"))) == 5


def test_a_text_given_by_hand_is_the_text_of_its_row(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute(
        "update embedding_queue set status = 'pending', content = 'by hand' where record_id = '1'"
    )
    assert outcomes(queue, backup)["1"] == "stale"
    assert [job.content for job in claim(queue)] == ["by hand"]


@pytest.mark.parametrize("status", ["pending", "failed", "skipped"])
def test_the_status_of_a_job_does_not_matter(
    docs: Database, queue: AdminQueue, backup: list[StoredRow], status: str
) -> None:
    docs.execute("update docs set embedding = null")
    docs.execute("update embedding_queue set status = %s, error_message = 'x'", [status])
    assert set(outcomes(queue, backup).values()) == {"restored"}
    assert Counter(rows(docs, "select status, error_message from embedding_queue")) == {
        ("completed", None): 5
    }


def test_a_worker_that_holds_a_lease_loses_it(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update docs set embedding = null")
    docs.execute("select requeue_embeddings(null)")
    jobs = claim(queue)
    assert len(jobs) == 5
    assert set(outcomes(queue, backup).values()) == {"restored"}
    other = np.array([9, 9, 9], dtype=np.float32)
    assert {refused.reason for refused in complete(queue, jobs, other)} <= {"lost"}
    assert vectors(docs)[1] == "[1,1,0]"


def test_rows_that_somebody_holds_are_locked_and_the_others_are_restored(
    docs: Database, queue: AdminQueue, connect: Callable[[], Database], backup: list[StoredRow]
) -> None:
    docs.execute("update docs set embedding = null")
    docs.execute("delete from embedding_queue where record_id = '5'")
    writer = connect()
    with writer.transaction():
        writer.execute("update docs set body = 'new' where id = 1")
        writer.execute("select from docs where id = 5 for update")
        writer.execute("select from embedding_queue where record_id = '2' for update")
        assert outcomes(queue, backup) == {
            **{"1": "locked", "2": "locked", "5": "locked"},
            **{"3": "restored", "4": "restored"},
        }
        assert rows(docs, "select record_id, status, lease from embedding_queue order by 1") == [
            (str(key), "completed", None) for key in range(1, 5)
        ]
    assert outcomes(queue, backup) == {
        **{"1": "stale", "2": "restored", "5": "restored"},
        **{"3": "present", "4": "present"},
    }


# -- what is refused


@pytest.mark.parametrize("sqlstate", SQLSTATES[:3])
def test_a_row_whose_trigger_raises_is_refused_alone(
    docs: Database, queue: AdminQueue, backup: list[StoredRow], sqlstate: str
) -> None:
    docs.execute("alter table docs disable trigger user")
    docs.execute("update docs set embedding = null, body = 'poison' where id = 3")
    docs.execute("update docs set embedding = null")
    docs.execute("alter table docs enable trigger user")
    poison_trigger(docs, sqlstate)
    poisoned = [
        replace(row, content_hash=value(docs, "select sha256('poison')"))
        if row.record_id == "3"
        else row
        for row in backup
    ]
    jobs = rows(docs, "select * from embedding_queue where record_id = '3'")
    found = queue.restore(queue.target("docs", "embedding"), poisoned)
    assert [one.outcome for one in found] == ["restored", "restored", "refused"] + 2 * ["restored"]
    assert found[2].cause
    assert found[0].cause is None
    assert vectors(docs)[3] is None
    assert rows(docs, "select * from embedding_queue where record_id = '3'") == jobs


def test_a_trigger_that_drops_the_vector_refuses_it(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update docs set embedding = null")
    docs.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin return case when new.id <> 1 then new end; end $$"
    )
    docs.execute(
        "create trigger refuse before update on docs for each row execute function refuse()"
    )
    assert outcomes(queue, backup) == {"1": "refused"} | dict.fromkeys("2345", "restored")


def test_a_model_that_the_column_does_not_have_is_refused(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    target = queue.target("docs", "embedding")
    for model in ("test:other", "test:model#passage:"):
        other = [replace(row, model=model) for row in backup]
        with pytest.raises(SettingsError, match=f"holds vectors of test:model, not of {model}"):
            queue.restore(target, other)
    docs.execute("alter table embedding_targets disable trigger embedding_targets_change_model")
    docs.execute("update embedding_targets set model = null, document_prompt = null")
    docs.execute("update docs set embedding = null where id = 1")  # its jobs have the model
    other = [replace(row, model="test:other") for row in backup]
    with pytest.raises(SettingsError, match="holds vectors of test:model, not of test:other"):
        queue.restore(target, other)


def test_a_prompt_is_part_of_the_model(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text, views integer)")
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 3,"
        " document_prompt => 'passage: ')"
    )
    insert(db, 1)
    row = StoredRow(
        record_id="1",
        content_hash=value(db, "select sha256('text 1')"),
        model="test:model#passage: ",
        tokens=None,
        cost=None,
        truncated_to=None,
        unenhanced=None,
        completed_at=None,
        vector=np.ones(3, dtype=np.float32),
    )
    with pytest.raises(SettingsError, match="holds vectors of test:model#passage: , not of"):
        outcomes(queue, [replace(row, model="test:model")])
    assert outcomes(queue, [row]) == {"1": "restored"}
    assert queue.target("docs", "embedding").model == "test:model"


def test_vectors_of_another_width_change_nothing(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("update docs set embedding = null")
    wide = [replace(row, vector=np.ones(4, dtype=np.float32)) for row in backup]
    with pytest.raises(SettingsError, match="holds vectors of 3 dimensions, not 4"):
        queue.restore(queue.target("docs", "embedding"), wide)
    assert set(vectors(docs).values()) == {None}


def test_arguments_that_do_not_belong_together_are_refused(docs: Database) -> None:
    message, _ = refusal(
        docs, "select restore_embeddings('docs', 'embedding', '{1,2}', '{x}', '{}', 'test:model')"
    )
    assert "of one length" in message
    message, hint = refusal(docs, "select export_embeddings('docs', 'embedding', true)")
    assert message == "column embedding of table docs is embedded as a whole"
    assert hint == "Give of_chunks => f."
    message, _ = refusal(docs, "select export_embeddings('nothing', 'embedding')")
    assert "nothing is not watched" in message


# -- tables of every kind


KINDS: dict[str, tuple[LiteralString, LiteralString]] = {
    "uuid": (
        "create table docs (id uuid primary key, body text, embedding vector(3))",
        "insert into docs select gen_random_uuid(), 'text ' || i from generate_series(1, 7) i",
    ),
    "text": (
        'create table docs (id text collate "C" primary key, body text, embedding vector(3))',
        "insert into docs select chr(90 - i) || ' \"''\\%{},é' || i, 'text ' || i"
        " from generate_series(1, 7) i",
    ),
    "composite": (
        "create table docs (tenant integer, id text, at timestamptz, body text,"
        " embedding vector(3), primary key (tenant, id, at))",
        "insert into docs select i % 2, 'k' || i, now(), 'text ' || i from generate_series(1, 7) i",
    ),
    "partitioned": (
        "create table docs (id integer, body text, embedding vector(3), primary key (id))"
        " partition by hash (id);"
        " create table docs_0 partition of docs for values with (modulus 2, remainder 0);"
        " create table docs_1 partition of docs for values with (modulus 2, remainder 1)",
        "insert into docs select i, 'text ' || i from generate_series(1, 7) i",
    ),
    "halfvec": (
        "create table docs (id integer primary key, body text, embedding halfvec(3))",
        "insert into docs select i, 'text ' || i from generate_series(1, 7) i",
    ),
    "without a width": (
        "create table docs (id integer primary key, body text, embedding vector)",
        "insert into docs select i, 'text ' || i from generate_series(1, 7) i",
    ),
    "side table": (
        "create table docs (id integer primary key, body text)",
        "insert into docs select i, 'text ' || i from generate_series(1, 7) i",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_is_exported_and_restored(
    db: Database, queue: AdminQueue, kind: str
) -> None:
    create, fill = KINDS[kind]
    for statement in create.split("; "):
        db.execute(statement.encode())
    options = ", dimensions => 3, store => 'table'" if kind == "side table" else ""
    db.execute(f"select watch_embeddings('docs', 'body', 'embedding'{options})".encode())
    db.execute(fill)
    embed_all(queue)
    target = queue.target("docs", "embedding")
    backup = exported(queue, target, batch=2)
    assert len(backup) == len({row.record_id for row in backup}) == 7
    texts = {value(db, "select sha256(%s)", f"text {i}".encode()): i for i in range(1, 8)}
    assert all(
        row.vector.tolist() == vector_of(f"text {texts[row.content_hash]}") for row in backup
    )
    stored = "docs_embedding" if kind == "side table" else "docs"
    everything = f"select * from {stored} order by embedding::text".encode()
    before = db.execute(everything).fetchall()
    db.execute("truncate embedding_queue")
    db.execute(
        b"truncate docs_embedding" if kind == "side table" else b"update docs set embedding = null"
    )
    assert set(outcomes(queue, backup).values()) == {"restored"}
    assert set(outcomes(queue, backup).values()) == {"present"}
    assert db.execute(everything).fetchall() == before
    assert [row.vector.tobytes() for row in exported(queue, target)] == [
        row.vector.tobytes() for row in backup
    ]


def test_a_vector_is_restored_into_a_halfvec_as_it_fits(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("alter table docs alter embedding type halfvec(3)")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding')")
    third = [replace(row, vector=row.vector / np.float32(3)) for row in backup]
    third[4].vector[0] = 1e6
    assert outcomes(queue, third, overwrite=True) == dict.fromkeys("1234", "restored") | {
        "5": "refused"
    }
    assert set(outcomes(queue, third[:4]).values()) == {"present"}


@pytest.mark.contract
def test_what_is_special_about_a_vector_is_kept(docs: Database, queue: AdminQueue) -> None:
    insert(docs, 2)
    jobs = sorted(claim(queue), key=lambda job: job.record_id)
    vector = np.array([1, 2, 3], dtype=np.float32)
    queue.complete("test:model", [Completion(jobs[0], vector, 5, 4, 0.25)])
    queue.complete("test:model", [Completion(jobs[1], vector, 5, None, 0.25)])
    docs.execute("update embedding_queue set unenhanced = 'no_answer' where record_id = '2'")
    backup = exported(queue, queue.target("docs", "embedding"))
    lose(docs)
    assert set(outcomes(queue, backup).values()) == {"restored"}
    about = "select status, tokens, truncated_to, cost, unenhanced from embedding_queue order by id"
    assert rows(docs, about) == [
        ("completed", 5, 4, 0.25, None),
        ("completed", 5, None, 0.25, "no_answer"),
    ]


def test_the_owner_of_a_row_owns_its_new_job(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id integer primary key, body text, user_id uuid)")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    db.execute("insert into docs values (1, 'text', gen_random_uuid())")
    embed_all(queue)
    backup = exported(queue, queue.target("docs", "embedding"))
    db.execute("truncate embedding_queue")
    assert outcomes(queue, backup) == {"1": "restored"}
    assert value(db, "select queue.user_id = docs.user_id from embedding_queue as queue, docs")


def test_row_level_security_hides_nothing_from_a_restore(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("alter table docs enable row level security")
    assert exported(queue, queue.target("docs", "embedding")) != []
    docs.execute("update docs set embedding = null")
    assert set(outcomes(queue, backup).values()) == {"restored"}


# -- claims of given records


def claimed(queue: AdminQueue, *records: str, scope: Scope = SCOPE, **options: bool) -> list[str]:
    target = queue.target("docs", "embedding")
    return [job.record_id for job in queue.claim_records(target, records, scope, **options).jobs]


@pytest.mark.parametrize("status", ["pending", "failed", "skipped", "completed"])
def test_records_are_claimed_whatever_the_status_of_their_jobs(
    docs: Database, queue: AdminQueue, backup: list[StoredRow], status: str
) -> None:
    docs.execute(
        "update embedding_queue set status = %s, error_message = 'x', abandoned_claims = 7",
        [status],
    )
    before = rows(docs, "select * from embedding_queue order by id")
    assert claimed(queue, "2", "4", dry_run=True) == ["2", "4"]
    assert rows(docs, "select * from embedding_queue order by id") == before
    found = queue.claim_records(queue.target("docs", "embedding"), ["2", "4"], SCOPE)
    assert [job.content for job in found.jobs] == ["text 2", "text 4"]
    assert complete(queue, found.jobs) == []
    assert vectors(docs)[2] == "[2,1,0]"


def test_a_claimed_record_whose_worker_dies_is_embedded(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    assert claimed(queue, "2") == ["2"]
    docs.execute("update embedding_queue set lease_expires_at = now() where record_id = '2'")
    assert [job.record_id for job in queue.claim(SCOPE, 100).jobs] == ["2"]


@pytest.mark.contract
def test_a_lease_of_somebody_else_is_left_alone(
    docs: Database, queue: AdminQueue, connect: Callable[[], Database]
) -> None:
    insert(docs, 4)
    job = claim_one(queue)
    other = connect()
    with other.transaction():
        other.execute("select from embedding_queue where record_id = '4' for update")
        assert claimed(queue, "1", "2", "3", "4") == sorted({"1", "2", "3"} - {job.record_id})
    assert complete(queue, [job]) == []


def test_a_record_without_a_job_is_claimed_and_one_without_a_row_is_not(
    docs: Database, queue: AdminQueue, backup: list[StoredRow]
) -> None:
    docs.execute("delete from embedding_queue where record_id in ('1', '2')")
    docs.execute("delete from docs where id in (2, 3)")
    assert claimed(queue, "1", "2", "3", "4") == ["1", "4"]
    scope = Scope(worker="other", lease=timedelta(minutes=5), default_model="test:model")
    assert claimed(queue, "1", "4", scope=scope) == []
