"""What the SQL files look like: their names, and the comment with which each opens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from worker.database.migrations import migrations

REPOSITORY = Path(__file__).parents[2]
SUPABASE = REPOSITORY / "supabase"
FILES = sorted((SUPABASE / "migrations").iterdir())
ALL = [*FILES, REPOSITORY / "deploy/pg_cron.sql"]


def headings(path: Path) -> list[str]:
    """The words with a colon that begin a paragraph of the comment on top of the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    found = [re.match(r"-- ([A-Z][a-z]+): +\S", line) for line in lines[:end]]
    return [match[1] for match in found if match]


def test_a_migration_says_why_what_it_locks_and_how_to_undo_it() -> None:
    for path in ALL:
        assert headings(path) == ["Why", "Locks", "Undo"], path.name


def test_the_sample_data_says_so_as_well() -> None:
    assert headings(SUPABASE / "seed.sql") == ["Why", "Creates", "Locks", "Undo"]


def test_a_migration_is_named_as_the_supabase_cli_names_it() -> None:
    for path in FILES:
        assert re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", path.name), path.name


MOST_LINES = 80


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The name of each function that the file creates, and how many lines it has."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(
        r"^create (?:or replace )?function ([\w.]+).*?\$\$;$", text, re.M | re.S
    ):
        yield match[1], match[0].count("\n") + 1


def test_functions_are_short() -> None:
    for path in FILES:
        long = {name: lines for name, lines in functions(path) if lines > MOST_LINES}
        assert long == {}, path.name


def protected(path: Path) -> set[str]:
    """The functions, tables, views and sequences that the file names where it gives rights."""
    calls = re.findall(
        r"^select embedding\.(?:protect_\w+|let_workers_\w+)\((.*?)\);",
        path.read_text(encoding="utf-8"),
        re.M | re.S,
    )
    return {name for call in calls for name in re.findall(r"'([\w.]+)'", call)}


def test_a_file_says_who_may_use_what_it_defines() -> None:
    definition = r"^create (?:or replace |unlogged )?(?:function|table|view|sequence) ([\w.]+)"
    for path in FILES:
        defined = re.findall(definition, path.read_text(encoding="utf-8"), re.M)
        assert protected(path) == set(defined), path.name


def test_a_migration_is_ascii() -> None:
    for path in FILES:
        assert path.read_bytes().isascii(), path.name


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
