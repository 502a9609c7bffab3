"""What a backup needs of the database, over every way to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Database, value
from tests.integration.jobs import claim, complete, insert
from worker.errors import Busy, DatabaseError, SettingsError
from worker.operations.backup import BackupRequest, make_backup
from worker.queue import AdminQueue
from worker.safekeeping.inventory import check_backup, read_manifest
from worker.safekeeping.locations import open_storage, parse_destination
from worker.settings import Settings

ROWS = 1_500  # more than a call returns


@pytest.mark.contract
def test_a_whole_backup(docs: Database, queue: AdminQueue, tmp_path: Path) -> None:
    insert(docs, ROWS)
    for _ in range(3):  # over the Data API, a claim gets a part of them
        assert not complete(queue, claim(queue, ROWS // 3))
    place = parse_destination(str(tmp_path / "backups"))
    made = make_backup(queue, Settings(), BackupRequest(place))
    assert made
    assert (made.state, made.rows) == ("complete", ROWS)
    storage = open_storage(place, Settings())
    assert check_backup(storage, made.name).problems == ()
    assert queue.record_backup_check(str(place), made.name, None)
    [known] = queue.backups()
    assert (known.state, known.rows, known.bytes) == ("complete", ROWS, made.bytes)
    manifest = read_manifest(storage, made.name)
    assert manifest.database == queue.describe(queue.target("docs", "embedding")).database_id


def test_the_key_and_the_type_of_a_column(docs: Database, queue: AdminQueue) -> None:
    docs.execute('create table other ("B" text, a uuid, body text, primary key ("B", a))')
    docs.execute("alter table other add column v halfvec(3)")
    docs.execute("select watch_embeddings('other', 'body', 'v')")
    kind = queue.describe(queue.target("other", "v"))
    assert (kind.key_columns, kind.key_types) == (["B", "a"], ["text", "uuid"])
    assert kind.vector_type == "halfvec"
    ours = queue.describe(queue.target("docs", "embedding"))
    assert (ours.key_types, ours.vector_type) == (["bigint"], "vector")
    assert ours.database_id == kind.database_id
    assert ours.database_id.endswith(
        "/" + str(value(docs, "select oid from pg_database where datname = current_database()"))
    )


@pytest.mark.contract
def test_a_column_of_a_side_table_or_in_chunks(db: Database, queue: AdminQueue) -> None:
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("select watch_embeddings('docs', 'body', 'a', dimensions => 3, store => 'table')")
    db.execute("select watch_embeddings('docs', 'body', 'b', dimensions => 3, chunks => true)")
    for column in ("a", "b"):
        kind = queue.describe(queue.target("docs", column))
        assert (kind.key_types, kind.vector_type) == (["bigint"], "vector")


@pytest.mark.contract
def test_a_table_that_is_locked_or_gone_is_said(docs: Database, queue: AdminQueue) -> None:
    target = queue.target("docs", "embedding")
    with docs.transaction():
        docs.execute("lock table docs")
        with pytest.raises(Busy, match="docs is locked"):
            queue.describe(target)
    docs.execute("drop table docs")
    with pytest.raises((DatabaseError, SettingsError)):
        queue.describe(target)
