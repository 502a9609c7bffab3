"""What the SQL files look like: their names, and the comment with which each opens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worker.database.migrations import migrations

SUPABASE = Path(__file__).parents[2] / "supabase"
FILES = sorted((SUPABASE / "migrations").iterdir())
ALL = [*FILES, *(SUPABASE / "optional").iterdir()]


def headings(path: Path) -> list[str]:
    """The words with a colon that begin a paragraph of the comment on top of the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    found = [re.match(r"-- ([A-Z][a-z]+): +\S", line) for line in lines[:end]]
    return [match[1] for match in found if match]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_migration_says_why_what_it_locks_and_how_to_undo_it(path: Path) -> None:
    assert headings(path) == ["Why", "Locks", "Undo"]


def test_the_sample_data_says_so_as_well() -> None:
    assert headings(SUPABASE / "seed.sql") == ["Why", "Creates", "Locks", "Undo"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_migration_is_named_as_the_supabase_cli_names_it(path: Path) -> None:
    assert re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", path.name)


def test_the_role_of_workers_is_the_only_one_that_is_made() -> None:
    made = [re.findall(r"create (?:role|user) (\w+)", path.read_text(), re.I) for path in ALL]
    assert [role for roles in made for role in roles] == ["embedding_worker"]


def test_versions_ascend_and_are_unique() -> None:
    versions = [migration.version for migration in migrations()]
    assert versions == sorted(set(versions))


def test_every_file_is_a_migration() -> None:
    found = [f"{migration.version}_{migration.name}.sql" for migration in migrations()]
    assert found == [path.name for path in FILES]
    assert all(
        migration.sql == path.read_text()
        for migration, path in zip(migrations(), FILES, strict=True)
    )
