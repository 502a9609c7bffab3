"""The Python API: the example of its documentation, and what a command imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Database


def run_python(code: str, folder: Path, database_url: str) -> str:
    """What a Python of its own prints that runs `code` on the database."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY), "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text("utf-8"), re.S)


def test_the_example_with_passages_finds_them(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    db.execute("create table manuals (id bigint primary key, title text, body text)")
    body = "# Rain\n\nIt rains in the mountains.\n\n# Refunds\n\nHow to get a refund."
    db.execute("insert into manuals values (1, 'Help', %s), (2, 'None', 'x')", [body])
    before = (
        "import os, worker\nsettings = worker.Settings.load(os.environ)\nwords = 'get a refund'\n"
    )
    said = run_python(before + examples("docs/python.md")[1], tmp_path, database_url)
    assert said.startswith("1, Rain: # Rain")


def test_the_example_of_the_documentation_does_what_it_promises(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    example, *_ = examples("docs/python.md")
    db.execute("create table docs (id bigint primary key, body text)")
    db.execute("insert into docs values (1, 'How to get a refund'), (2, 'Rain in the mountains')")
    lines = run_python(example, tmp_path, database_url).splitlines()
    assert lines[0] == "2 rows embedded"
    assert [line.partition("  ")[2] for line in lines[1:]] == [
        "How to get a refund",
        "Rain in the mountains",
    ]


@pytest.mark.parametrize("command", ["status", "list", "stats"])
def test_a_command_imports_only_what_it_needs(
    command: str, database_url: str, tmp_path: Path
) -> None:
    code = (
        "from worker.cli import app\n"
        f"app(['{command}', '--json'], standalone_mode=False)\n"
        "import sys; print(*sys.modules)"
    )
    imported = set(run_python(code, tmp_path, database_url).splitlines()[-1].split())
    assert not imported & {"openai", "supabase", "httpx", "prometheus_client", "rich.console"}
