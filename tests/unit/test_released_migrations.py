"""Released migrations stay as they are, in this repository and in repositories made for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.lib.release import RELEASED, changes, release, released

REPOSITORY = Path(__file__).parents[2]
FIRST = "migrations/20260101000001_first.sql"
SECOND = "migrations/20260101000002_second.sql"


def test_the_released_migrations_of_this_repository_are_as_they_were_released() -> None:
    assert list(changes(REPOSITORY)) == []


def git(repository: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=True
    ).stdout


def write(repository: Path, name: str, content: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def commit(repository: Path) -> None:
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "Some work")


def prepare(repository: Path, version: str) -> None:
    """Write what a release needs, and commit it."""
    write(repository, "worker/__init__.py", f'__version__ = "{version}"\n')
    write(repository, "CHANGELOG.md", f"# Changelog\n\n## {version} - 2026-01-31\n\nNew.\n")
    commit(repository)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two migrations, which is ready for its release 0.1.0."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "Somebody")
    git(tmp_path, "config", "user.email", "somebody@example.com")
    write(tmp_path, f"supabase/{FIRST}", "select 1;\n")
    write(tmp_path, f"supabase/{SECOND}", "select 2;\n")
    prepare(tmp_path, "0.1.0")
    return tmp_path


@pytest.fixture
def with_release(repository: Path) -> Path:
    release(repository, "0.1.0")
    return repository


def test_a_release_records_the_migrations_in_a_commit_with_a_tag(with_release: Path) -> None:
    assert {version: list(files) for version, files in released(with_release).items()} == {
        "0.1.0": [FIRST, SECOND]
    }
    assert git(with_release, "log", "-1", "--format=%s %D").startswith("Release 0.1.0 HEAD -> ")
    assert git(with_release, "describe").strip() == "v0.1.0"
    assert git(with_release, "status", "--porcelain") == ""
    assert list(changes(with_release)) == []


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="there is no sha256sum")
def test_the_list_can_be_checked_without_this_script(with_release: Path) -> None:
    check = ["sha256sum", "--check", "--strict", "--quiet", RELEASED.name]
    subprocess.run(check, cwd=with_release / RELEASED.parent, check=True)


def test_the_next_release_adds_its_migrations_and_keeps_those_before(with_release: Path) -> None:
    write(with_release, "supabase/migrations/20260201000001_third.sql", "select 4;\n")
    assert list(changes(with_release)) == []
    prepare(with_release, "0.2.0")
    before = (with_release / RELEASED).read_text()
    release(with_release, "0.2.0")
    assert (with_release / RELEASED).read_text().startswith(before)
    assert list(released(with_release)["0.2.0"]) == ["migrations/20260201000001_third.sql"]
    assert list(changes(with_release)) == []


def test_a_changed_migration_is_found(with_release: Path) -> None:
    write(with_release, f"supabase/{FIRST}", "select 1 ;\n")
    assert list(changes(with_release)) == [f"{FIRST} was released, and has changed"]


def test_a_deleted_migration_is_found(with_release: Path) -> None:
    (with_release / "supabase" / SECOND).unlink()
    assert list(changes(with_release)) == [f"{SECOND} was released, and is gone"]


def test_a_renamed_migration_is_found(with_release: Path) -> None:
    folder = with_release / "supabase/migrations"
    (with_release / "supabase" / SECOND).rename(folder / "20260101000003_second.sql")
    assert list(changes(with_release)) == [f"{SECOND} was released, and is gone"]


def test_a_migration_that_would_be_applied_before_a_released_one_is_found(
    with_release: Path,
) -> None:
    between = "migrations/20260101000001_g.sql"
    write(with_release, f"supabase/{between}", "select 4;\n")
    assert list(changes(with_release)) == [
        f"{between} is new, and would be applied before {SECOND}, which was released"
    ]


def test_a_list_that_was_edited_with_its_migration_differs_from_the_tag(
    with_release: Path,
) -> None:
    write(with_release, f"supabase/{FIRST}", "select 9;\n")
    (with_release / RELEASED).unlink()
    git(with_release, "tag", "--delete", "v0.1.0")
    commit(with_release)
    release(with_release, "0.1.0")
    assert list(changes(with_release)) == []
    git(with_release, "tag", "--force", "v0.1.0", "HEAD~2")
    assert list(changes(with_release)) == [f"{RELEASED} is not what it was at the tag v0.1.0"]


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("worker/__init__.py", '__version__ = "0.2.0"\n', "worker/__init__.py has another version"),
        ("CHANGELOG.md", "## Unreleased\n", "CHANGELOG.md has no section `## 0.1.0"),
    ],
)
def test_a_release_that_is_not_prepared_is_refused(
    repository: Path, file: str, content: str, problem: str
) -> None:
    write(repository, file, content)
    commit(repository)
    assert problem in refusal(repository, "0.1.0")


def test_a_release_with_changes_that_are_not_committed_is_refused(repository: Path) -> None:
    write(repository, "notes.txt", "to do")
    assert "not committed" in refusal(repository, "0.1.0")


def test_a_release_that_changes_an_earlier_one_is_refused(with_release: Path) -> None:
    write(with_release, f"supabase/{FIRST}", "select 9;\n")
    prepare(with_release, "0.2.0")
    assert refusal(with_release, "0.2.0") == f"error: {FIRST} was released, and has changed"


def test_a_version_is_released_once(with_release: Path) -> None:
    assert refusal(with_release, "0.1.0") == "error: 0.1.0 was released already"


def test_what_is_no_version_is_refused(repository: Path) -> None:
    assert "v0.1 is not a version like 0.1.0" in refusal(repository, "v0.1")


def refusal(repository: Path, version: str) -> str:
    """What a release says that is refused, and changes nothing."""
    before = git(repository, "log", "--all"), git(repository, "tag")
    with pytest.raises(SystemExit) as caught:
        release(repository, version)
    assert (git(repository, "log", "--all"), git(repository, "tag")) == before
    return str(caught.value)
