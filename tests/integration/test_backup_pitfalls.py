"""Backups of tables that were emptied, and of two databases in one place."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Database
from tests.integration.jobs import claim, complete, insert
from worker.errors import BackupError
from worker.operations.backup import BackupRequest, MadeBackup, make_backup
from worker.operations.backup_run import BackupRun
from worker.queue import AdminQueue
from worker.safekeeping.inventory import find_backups, prune
from worker.safekeeping.locations import Destination, open_storage, parse_destination
from worker.safekeeping.manifest import PROGRESS, to_json
from worker.settings import Settings


@pytest.fixture
def place(tmp_path: Path) -> Destination:
    return parse_destination(str(tmp_path))


def back_up(queue: AdminQueue, place: Destination) -> MadeBackup:
    made = make_backup(queue, Settings(), BackupRequest(place))
    assert made
    return made


@pytest.mark.parametrize(
    "emptied", ["truncate docs", "update embedding_queue set status = 'pending'"]
)
def test_a_backup_without_vectors_takes_the_place_of_none(
    docs: Database, queue: AdminQueue, place: Destination, emptied: Any
) -> None:
    insert(docs, 10)
    assert complete(queue, claim(queue)) == []
    good = back_up(queue, place)
    docs.execute(emptied)
    empty = back_up(queue, place)
    assert (good.rows, empty.rows) == (10, 0)
    storage = open_storage(place, Settings())
    later = datetime.now(UTC) + timedelta(days=100)
    assert good.name not in prune(storage, timedelta(days=7), later)
    assert good.name in [backup.name for backup in find_backups(storage)]


def test_two_databases_that_begin_in_one_second_do_not_delete_the_parts_of_each_other(
    docs: Database,
    queue: AdminQueue,
    place: Destination,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both look whether the other one is there before either has written anything."""
    insert(docs, 10)
    assert complete(queue, claim(queue)) == []
    finish = BackupRun._finish

    def overtaken(run: BackupRun) -> None:
        other = run.manifest
        assert other
        monkeypatch.setattr(BackupRun, "_finish", finish)
        run.storage.put_bytes(
            run._folder + PROGRESS,
            to_json(replace(other, database="another/1")),
        )
        run.storage.put_bytes(run._folder + "parts/docs.embedding-0001-abcdef.parquet", b"theirs")
        finish(run)

    monkeypatch.setattr(BackupRun, "_finish", overtaken)
    with pytest.raises(BackupError, match="another database"):
        back_up(queue, place)
    storage = open_storage(place, Settings())
    assert any("abcdef" in name for name in storage.names())
