"""Migrations are copied into the folder of a Supabase project."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from worker.database.migrations import migrations
from worker.database.project import MIGRATIONS, VERSION, copy_into


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / MIGRATIONS).mkdir(parents=True)
    return tmp_path


def copied(project: Path) -> list[str]:
    """The versions of the copies, in the order of the migrations."""
    return [path.name.partition("_")[0] for path in copy_into(project, migrations(), False)]


def test_the_next_migration_of_the_project_comes_after_all_copies(project: Path) -> None:
    versions = copied(project)
    assert versions == sorted(set(versions))
    assert len(versions) == len(migrations())
    assert versions[-1] < datetime.now(UTC).strftime(VERSION)


def test_all_copies_come_after_the_migrations_of_the_project(project: Path) -> None:
    theirs = (datetime.now(UTC) - timedelta(seconds=1)).strftime(VERSION)
    (project / MIGRATIONS / f"{theirs}_theirs.sql").write_text("select 1;")
    versions = copied(project)
    assert theirs < versions[0]
    assert versions == sorted(set(versions))
