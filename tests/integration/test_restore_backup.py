"""What comes back from a backup, into this database and into another, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.conftest import Database, Server, new_database, rest_in_full, rows, value
from tests.integration.documents import document, is_consistent, passages, sent, write
from tests.integration.jobs import claim, complete, insert
from tests.integration.runs import Runs
from tests.openai_server import OpenAIServer
from tests.s3_server import S3Server
from worker.errors import BackupDamaged, BackupError, Busy, SettingsError
from worker.operations import backup_run
from worker.operations.backup import BackupRequest, make_backup
from worker.operations.restore import RestoredBackup, RestoreRequest, restore
from worker.queue import AdminQueue
from worker.queue.postgres import PostgresQueue
from worker.safekeeping.inventory import folder_of
from worker.safekeeping.locations import parse_destination
from worker.settings import Settings

ROWS = 60


@dataclass
class Place:
    """Where the backups of a test are."""

    to: str
    settings: Settings

    def back_up(self, queue: AdminQueue) -> str:
        made = make_backup(queue, self.settings, BackupRequest(parse_destination(self.to)))
        assert made
        return made.name

    def restore(
        self,
        queue: AdminQueue,
        *,
        stop: Event | None = None,
        on_progress: Any = None,
        **request: Any,
    ) -> RestoredBackup:
        return restore(
            queue,
            self.settings,
            RestoreRequest(parse_destination(self.to), **request),
            stop=stop,
            on_progress=on_progress or (lambda *_: None),
            source="cli",
        )

    def outcomes(self, queue: AdminQueue, **request: Any) -> dict[str, int]:
        """How many records of the only column have each outcome."""
        [column] = self.restore(queue, **request).columns
        return {outcome: count for outcome, count in column.outcomes.items() if count}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part for every twenty rows, with two row groups."""
    monkeypatch.setattr(backup_run, "RANGE", 10)
    monkeypatch.setattr(backup_run, "MOST_OF_A_PART", 2000)


@pytest.fixture
def place(tmp_path: Path, openai: OpenAIServer) -> Place:
    settings = Settings(
        embedding_model="openai:text-embedding-3-small",
        openai_api_key=openai.api_key,
        openai_base_url=openai.base_url,
    )
    return Place(str(tmp_path / "backups"), settings)


@pytest.fixture
def backup(docs: Database, queue: AdminQueue, place: Place) -> str:
    """A backup of sixty rows of `docs`, in three parts."""
    insert(docs, ROWS)
    assert complete(queue, claim(queue, ROWS)) == []
    return place.back_up(queue)


@pytest.fixture
def elsewhere(server: Server, template: str) -> Iterator[tuple[Database, AdminQueue]]:
    """Another database with the same watched table, and its queue."""
    with (
        new_database(server.url, template) as name,
        psycopg.connect(server.direct_url_of(name), autocommit=True) as db,
        PostgresQueue(server.url_of(name), "elsewhere") as queue,
    ):
        yield db, queue


def parts(place: Place, name: str) -> list[Path]:
    return sorted(Path(place.to, folder_of(name)).rglob("*.parquet"))


def vectors(db: Database) -> list[tuple[Any, ...]]:
    return rows(db, "select id, embedding::text from docs order by id")


def nothing_was_written(db: Database) -> bool:
    return not rows(db, "select from embedding_queue where status = 'completed'") and not rows(
        db, "select from docs where embedding is not null"
    )


# -- into a database


def test_a_new_database_gets_all_vectors_bit_for_bit_and_pays_nothing(
    docs: Database,
    place: Place,
    backup: str,
    elsewhere: tuple[Database, AdminQueue],
    openai: OpenAIServer,
) -> None:
    db, queue = elsewhere
    insert(db, ROWS)
    assert place.outcomes(queue, dry_run=True) == {"restored": ROWS}
    assert nothing_was_written(db)
    restored = place.restore(queue)
    assert (restored.name, restored.is_finished) == (backup, True)
    assert dict(restored.columns[0].outcomes).get("restored") == ROWS
    send = "select id, vector_send(embedding) from docs order by id"
    assert rows(db, send) == rows(docs, send)
    assert value(db, "select coverage from embedding_status") == 100
    assert claim(queue) == []
    assert openai.requests == []
    assert place.outcomes(queue) == {"present": ROWS}


def test_half_of_the_texts_changed_since(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    docs.execute("update docs set body = 'new' where id % 2 = 0")
    docs.execute("delete from docs where id in (1, 3)")
    docs.execute("update docs set embedding = null where id > 30")
    expected = {"stale": 30, "gone": 2, "restored": 15, "present": 13}
    assert place.outcomes(queue, dry_run=True) == expected
    assert place.outcomes(queue) == expected
    assert value(docs, "select count(*) from docs where embedding is null and id % 2 = 1") == 0
    assert value(docs, "select count(*) from embedding_queue where status = 'pending'") == 30


@pytest.mark.over_a_connection
def test_a_restore_is_in_the_audit_once_and_one_that_writes_nothing_is_not(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    place.restore(queue)
    docs.execute("update docs set embedding = null where id < 6")
    place.restore(queue, dry_run=True)
    place.restore(queue)
    [(source, table, figures)] = rows(
        docs,
        "select source, table_name, figures from embedding_audit where event = 'restored'",
    )
    assert (source, table) == ("cli", "docs")
    assert figures == {"backup": backup, "from": place.to, "restored": 5, "present": 55}


@pytest.mark.over_a_connection
def test_other_vectors_are_kept_unless_they_are_to_be_overwritten(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    before = vectors(docs)
    docs.execute("select requeue_embeddings(null)")
    complete(queue, claim(queue, ROWS), np.ones(3, dtype=np.float32))
    assert place.outcomes(queue) == {"other_vector": ROWS}
    assert vectors(docs) != before
    assert place.outcomes(queue, overwrite=True) == {"restored": ROWS}
    assert vectors(docs) == before


def test_one_record_is_restored_from_the_part_that_has_it(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    docs.execute("update docs set embedding = null")
    for other in parts(place, backup)[::2]:
        other.write_bytes(b"")
    assert place.outcomes(queue, table="docs", records=["30"]) == {"restored": 1}
    assert value(docs, "select array_agg(id) from docs where embedding is not null") == [30]
    assert place.outcomes(queue, table="docs", records=["600", "-1"]) == {}
    with pytest.raises(SettingsError, match="a record was given without its table"):
        place.restore(queue, records=["30"])


@pytest.mark.over_a_connection
def test_only_one_table_is_restored(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    docs.execute("create table notes (id integer primary key, body text)")
    docs.execute("select watch_embeddings('notes', 'body', 'embedding', dimensions => 3)")
    docs.execute("insert into notes values (1, 'note')")
    complete(queue, claim(queue))
    both = place.back_up(queue)
    docs.execute("update docs set embedding = null")
    docs.execute("update notes set embedding = null")
    [column] = place.restore(queue, name=both, table="public.notes").columns
    assert (column.table, column.outcomes["restored"]) == ("notes", 1)
    assert value(docs, "select count(embedding) from docs") == 0
    with pytest.raises(SettingsError, match=f"{backup} has no vectors of table notes"):
        place.restore(queue, name=backup, table="notes")


@pytest.mark.over_a_connection
def test_an_index_that_is_missing_is_named(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    assert place.restore(queue).columns[0].is_indexed is False
    docs.execute("create index on docs using hnsw (embedding vector_cosine_ops)")
    assert place.restore(queue).columns[0].is_indexed is True


@pytest.mark.over_a_connection
def test_backups_in_a_bucket_are_restored(docs: Database, queue: AdminQueue, s3: S3Server) -> None:
    insert(docs, ROWS)
    complete(queue, claim(queue, ROWS))
    place = Place("s3://shelf/backups", s3.settings)
    place.back_up(queue)
    docs.execute("update docs set embedding = null")
    assert place.outcomes(queue) == {"restored": ROWS}


# -- what is in the way


@pytest.mark.over_a_connection
def test_a_stopped_restore_is_not_finished_and_the_next_one_continues(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    docs.execute("update docs set embedding = null")
    stop = Event()
    stopped = place.restore(queue, stop=stop, on_progress=lambda *_: stop.set())
    assert stopped.is_finished is False
    assert dict(stopped.columns[0].outcomes)["restored"] == 10
    assert place.outcomes(queue) == {"present": 10, "restored": ROWS - 10}


def test_locked_rows_are_tried_again_and_then_reported(
    docs: Database,
    queue: AdminQueue,
    connect: Callable[[], Database],
    place: Place,
    backup: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.operations.restore_run.PAUSES", (0.0,))
    docs.execute("update docs set embedding = null")
    other = connect()
    with other.transaction():
        other.execute("select from docs where id in (5, 59) for update")
        locked = place.restore(queue)
        assert locked.is_finished is False
        assert {key: count for key, count in locked.columns[0].outcomes.items() if count} == {
            "restored": ROWS - 2,
            "locked": 2,
        }
    assert place.outcomes(queue) == {"restored": 2, "present": ROWS - 2}


def test_a_table_that_is_locked_ends_the_restore(
    docs: Database,
    queue: AdminQueue,
    connect: Callable[[], Database],
    place: Place,
    backup: str,
) -> None:
    other = connect()
    with other.transaction():
        other.execute("lock table docs")
        with pytest.raises(Busy):
            place.restore(queue)


@pytest.mark.over_a_connection
def test_a_row_that_is_refused_is_named_with_its_reason(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    docs.execute("update docs set embedding = null")
    docs.execute("alter table docs add constraint small check (id <> 7 or embedding is null)")
    restored = place.restore(queue)
    assert restored.is_finished is False
    assert restored.columns[0].outcomes["refused"] == 1
    assert "small" in restored.columns[0].refused["7"]


@pytest.mark.over_a_connection
def test_two_restores_at_once_are_harmless(
    docs: Database, queue: AdminQueue, place: Place, backup: str, server: Server, database_url: str
) -> None:
    before = vectors(docs)
    docs.execute("update docs set embedding = null")
    with PostgresQueue(database_url, "second") as second:
        seen = []
        place.restore(queue, on_progress=lambda *_: seen.append(place.restore(second).is_finished))
    assert all(seen)
    assert vectors(docs) == before
    assert place.outcomes(queue) == {"present": ROWS}


# -- what is refused before the first write


@pytest.mark.over_a_connection
@pytest.mark.parametrize("number", rest_in_full(range(3)))
@pytest.mark.parametrize("damage", ["flipped", "missing", "longer", "other"])
def test_a_damaged_part_is_named_before_anything_is_written(
    docs: Database, queue: AdminQueue, place: Place, backup: str, number: int, damage: str
) -> None:
    docs.execute("update docs set embedding = null")
    part = parts(place, backup)[number]
    content = part.read_bytes()
    if damage == "flipped":
        at = len(content) * (number + 1) // 4
        part.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif damage == "missing":
        part.unlink()
    elif damage == "longer":
        part.write_bytes(content + b"x")
    else:
        part.write_bytes(parts(place, backup)[number - 1].read_bytes())
    for dry_run in (True, False):
        with pytest.raises(BackupError, match=part.name) as refused:
            place.restore(queue, name=backup, dry_run=dry_run)
        assert refused.value.hint
    assert value(docs, "select count(embedding) from docs") == 0


@pytest.mark.over_a_connection
def test_all_problems_are_in_one_report(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    first, _, last = parts(place, backup)
    first.write_bytes(b"x")
    last.unlink()
    docs.execute("alter table docs alter embedding type vector(4) using null")
    docs.execute("select watch_embeddings('docs', 'body', 'embedding', model => 'test:other')")
    with pytest.raises(BackupError) as refused:
        place.restore(queue, name=backup)
    for problem in (
        f"{first.name} is not what was written",
        f"{last.name} is missing",
        "docs.embedding: it has 4 dimensions, in the backup 3",
        "docs.embedding: it has vectors of test:other, in the backup of test:model",
    ):
        assert problem in refused.value.cause


@pytest.mark.over_a_connection
def test_a_manifest_of_another_version_is_refused(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    docs.execute("update docs set embedding = null")
    manifest = Path(place.to, folder_of(backup), "manifest.json")
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(BackupDamaged, match="has format 2, and this release reads 1"):
        place.restore(queue, name=backup)
    manifest.write_text("{")
    with pytest.raises(BackupDamaged, match="is not readable JSON"):
        place.restore(queue, name=backup)
    manifest.unlink()
    with pytest.raises(BackupDamaged, match="is not finished"):
        place.restore(queue, name=backup)
    assert value(docs, "select count(embedding) from docs") == 0


@pytest.mark.over_a_connection
def test_latest_is_the_newest_complete_backup(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    unfinished = Path(place.to, "daily", "2099-01-01T00-00-00Z")
    shutil.copytree(Path(place.to, folder_of(backup)), unfinished)
    (unfinished / "manifest.json").unlink()
    assert place.restore(queue).name == backup
    with pytest.raises(BackupError, match="there is no backup 2098-01-01T00-00-00Z"):
        place.restore(queue, name="2098-01-01T00-00-00Z")
    with pytest.raises(SettingsError, match="yesterday is not the name of a backup"):
        place.restore(queue, name="yesterday")


@pytest.mark.over_a_connection
def test_a_table_with_another_key_or_that_is_not_watched_is_refused(
    docs: Database, place: Place, backup: str, elsewhere: tuple[Database, AdminQueue]
) -> None:
    db, queue = elsewhere
    db.execute("select unwatch_embeddings('docs', 'embedding')")
    with pytest.raises(BackupError, match=r"docs.embedding: column embedding of .* not watched"):
        place.restore(queue)
    db.execute("drop table docs")
    db.execute("create table docs (tenant text, id integer, body text, primary key (tenant, id))")
    db.execute("select watch_embeddings('docs', 'body', 'embedding', dimensions => 3)")
    with pytest.raises(BackupError, match="its key is tenant text, id integer, in the backup id"):
        place.restore(queue)


@pytest.mark.over_a_connection
def test_a_column_that_is_enhanced_otherwise_is_refused(
    docs: Database, queue: AdminQueue, place: Place, backup: str
) -> None:
    watch = "select watch_embeddings('docs', 'body', 'embedding', enhance => 'openai:gpt-4o-mini'"
    docs.execute(watch + ", enhance_prompt => 'Describe this.')")
    complete(queue, claim(queue, ROWS))
    with pytest.raises(BackupError, match="a chat model enhances its texts otherwise"):
        place.restore(queue)
    place.back_up(queue)
    docs.execute("update docs set embedding = null")
    assert place.outcomes(queue) == {"restored": ROWS}
    docs.execute(watch + ", enhance_prompt => 'Describe it briefly.')")
    complete(queue, claim(queue, ROWS))
    with pytest.raises(BackupError, match="a chat model enhances its texts otherwise"):
        place.restore(queue)


# -- texts in chunks


LONG = 12  # paragraphs


@pytest.fixture
def manual(db: Database, runs: Runs) -> Database:
    """Thirty texts in chunks, embedded."""
    db.execute("create table docs (id bigint primary key, title text, body text)")
    watch(db)
    for key in range(1, 31):
        write(db, key, document(key % LONG + 1, f"subject {key}"))
    runs.drain(batch_size=100)
    assert is_consistent(db)
    return db


def watch(db: Database, options: str = "") -> None:
    db.execute(
        "select watch_embeddings('docs', 'body', 'embedding', dimensions => 8, chunks => true,"
        f" chunk_size => 100, context => 'title'{options})".encode()
    )


def test_texts_in_chunks_come_back_without_a_call_of_the_model(
    manual: Database, queue: AdminQueue, place: Place, openai: OpenAIServer, runs: Runs
) -> None:
    place.back_up(queue)
    before = passages(manual)
    assert place.outcomes(queue) == {"present": 30}
    manual.execute("truncate docs_chunks, docs_chunk_places, embedding_queue")
    manual.execute("select backfill_embeddings('docs', 'embedding')")
    asked = len(sent(openai))
    assert place.outcomes(queue, dry_run=True) == {"restored": 30}
    assert value(manual, "select count(*) from docs_chunks") == 0
    assert place.outcomes(queue) == {"restored": 30}
    assert passages(manual) == before
    assert is_consistent(manual)
    assert place.outcomes(queue) == {"present": 30}
    assert runs.drain().completed == 0
    assert len(sent(openai)) == asked


def test_damaged_chunks_are_mended_and_edited_texts_pay_only_for_what_is_new(
    manual: Database, queue: AdminQueue, place: Place, openai: OpenAIServer, runs: Runs
) -> None:
    place.back_up(queue)
    manual.execute("delete from docs_chunks where id = 5")
    manual.execute(
        "update docs_chunks set embedding = array_fill(9, array[8])::vector where id = 6"
    )
    manual.execute("delete from docs where id = 7")
    manual.execute("truncate docs_chunk_places")
    write(manual, 8, document(20, "subject 8"))
    asked = len(sent(openai))
    outcomes = place.outcomes(queue)
    assert outcomes == {"restored": 28, "gone": 1, "stale": 1}
    assert len(sent(openai)) == asked
    assert [
        record
        for (record,) in rows(
            manual, "select record_id from embedding_queue where status <> 'completed'"
        )
    ] == ["8"]
    runs.drain()
    before = 8 % LONG + 1
    assert len(sent(openai)) - asked == 20 - before + 1  # the last of before ends otherwise now
    assert is_consistent(manual)


@pytest.mark.over_a_connection
def test_texts_that_are_cut_differently_are_refused(
    manual: Database, queue: AdminQueue, place: Place
) -> None:
    place.back_up(queue)
    manual.execute("update embedding_targets set chunk_size = 200")
    with pytest.raises(BackupError, match="its texts are cut into other chunks"):
        place.restore(queue)


def test_a_text_that_a_worker_holds_is_locked(
    manual: Database, queue: AdminQueue, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.operations.restore_run.PAUSES", (0.0,))
    place.back_up(queue)
    manual.execute("truncate docs_chunks, docs_chunk_places")
    manual.execute(
        "update embedding_queue set status = 'processing', lease = gen_random_uuid(),"
        " lease_expires_at = now() + interval '1 minute' where record_id = '3'"
    )
    assert place.outcomes(queue) == {"restored": 29, "locked": 1}
