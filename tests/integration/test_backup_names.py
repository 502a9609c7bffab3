"""Backups of columns whose names are much alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import sql

from tests.conftest import Database
from tests.integration.jobs import claim, complete
from worker.errors import SettingsError
from worker.operations.backup import BackupRequest, make_backup
from worker.operations.restore import RestoreRequest, restore
from worker.queue import AdminQueue
from worker.safekeeping.inventory import check_backup
from worker.safekeeping.locations import open_storage, parse_destination
from worker.settings import Settings

LONG = "文書" * 9  # 54 bytes


@pytest.mark.parametrize(
    "names",
    [(f"{LONG}甲", f"{LONG}乙"), ("Docs", "docs"), ("a/b", "a%2Fb"), ("q\"u'o\nte", "50% off")],
)
def test_each_column_has_parts_of_its_own(
    db: Database, queue: AdminQueue, tmp_path: Path, names: tuple[str, str]
) -> None:
    for first, name in enumerate(names):
        table = sql.Identifier(name)
        db.execute(sql.SQL("create table {} (id bigint primary key, body text)").format(table))
        db.execute(
            "select watch_embeddings(%s, 'body', 'embedding', dimensions => 3)",
            [table.as_string()],
        )
        db.execute(
            sql.SQL("insert into {} select i, 'text ' || i from generate_series({}, {}) i").format(
                table, sql.Literal(100 * first), sql.Literal(100 * first + 9)
            )
        )
    while jobs := claim(queue):  # of one table at a time
        assert complete(queue, jobs) == []
    settings = Settings()
    place = parse_destination(str(tmp_path))
    made = make_backup(queue, settings, BackupRequest(place))
    assert made
    assert made.rows == 20
    checked = check_backup(open_storage(place, settings), made.name)
    assert checked.problems == ()
    files = [file.name.lower() for file in tmp_path.rglob("*.parquet")]
    assert len(set(files)) == 2
    for name in names:
        db.execute(sql.SQL("update {} set embedding = null").format(sql.Identifier(name)))
    done = restore(queue, settings, RestoreRequest(place))
    assert [column.outcomes for column in done.columns] == [{"restored": 10}] * 2


def test_names_with_a_dot_are_told_apart(db: Database, queue: AdminQueue, tmp_path: Path) -> None:
    """Table `a.b` with a column `c`, and table `a` with a column `b.c`."""
    db.execute("create schema a")
    for number, (table, column) in enumerate([("a.b", "c"), ("public.a", "b.c")]):
        db.execute(f"create table {table} (id bigint primary key, body text)")
        db.execute("select watch_embeddings(%s, 'body', %s, dimensions => 3)", [table, column])
        db.execute(f"insert into {table} select i, 'text' from generate_series(1, {number + 1}) i")
    while jobs := claim(queue):
        assert complete(queue, jobs) == []
    place = parse_destination(str(tmp_path))
    made = make_backup(queue, Settings(), BackupRequest(place))
    assert made
    assert made.rows == 3
    assert check_backup(open_storage(place, Settings()), made.name).problems == ()


@pytest.mark.parametrize("place", ["https://key:s3cr3t@host/bucket", "s3://key:s3cr/3t@bucket/x"])
def test_a_place_with_a_password_is_refused_without_it(place: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_destination(place)
    assert "s3cr" not in str(refused.value) + refused.value.cause
