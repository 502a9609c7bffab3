"""The names that `import worker` offers, and what is imported only when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import worker
from tests.unit.test_documentation import REPOSITORY, table

SLOW = {"numpy", "psycopg", "openai", "supabase", "rich", "httpx", "prometheus_client"}
PYTHON = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")


def imported_by(code: str, folder: Path) -> set[str]:
    """The modules that a Python of its own has imported after it ran `code`."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return set(shown.splitlines()[-1].split())


def test_the_documentation_lists_every_name() -> None:
    listed = [name.partition("(")[0] for name, _ in table(PYTHON, "name", "what it does")]
    assert sorted(listed) == sorted(worker.__all__)


@pytest.mark.parametrize("name", worker.__all__)
def test_every_name_can_be_imported_and_says_what_it_does(name: str) -> None:
    assert getattr(worker, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    name = "nonsense"
    with pytest.raises(AttributeError, match="module 'worker' has no attribute 'nonsense'"):
        getattr(worker, name)


def test_the_package_itself_imports_nothing_more(tmp_path: Path) -> None:
    imported = imported_by("import worker", tmp_path)
    assert {name for name in imported if name.startswith("worker")} == {"worker"}
    assert not imported & SLOW


def test_the_help_imports_no_command_and_none_of_the_slow_packages(tmp_path: Path) -> None:
    ask = "from worker.cli import app\napp(['--help'], standalone_mode=False)"
    imported = imported_by(ask, tmp_path)
    assert not {name for name in imported if name.startswith("worker.cli.commands")}
    assert not imported & SLOW
