"""docs/getting-started.md: each way leads word for word from nothing to a search result."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import IN_CI, REPOSITORY, Database, memory
from tests.documentation import blocks
from tests.shell import Shell
from tests.supabase_project import NO_SUPABASE, PARTS, data_api, over_tcp, supabase_is_here

if not shutil.which("bash"):
    pytest.skip("the blocks need bash", allow_module_level=True)

PAGE = "docs/getting-started.md"
POOLER = "postgresql://postgres.PROJECT:PASSWORD@aws-0-REGION.pooler.supabase.com:5432/postgres"
FOUND = "0.4894  2  Refunds Bring it back within 14 days, and you are paid back what it cost.\n"
# Installed already: tests/acceptance/test_wheel.py and scripts/test-packages are about that.
INSTALLED = "pip() { :; }\npython3() { mkdir -p worker-try/bin; touch worker-try/bin/activate; }\n"


def follow(
    section: str, shell: Shell, *values: tuple[str, str], start: int = 0, page: str = PAGE
) -> Iterator[str]:
    """Run the blocks of a section, with what a reader puts in. Yields what each prints."""
    for block in blocks(page, section)[start:]:
        text = block.text
        for placeholder, value in values:
            text = text.replace(placeholder, value)
        done = shell.run(INSTALLED + text, timeout=120)
        assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
        yield done.stdout


def test_the_result_is_what_the_page_shows() -> None:
    text = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    assert text.count(FOUND) == len(re.findall(r"^```$\n0\.", text, re.M)) == 3


@pytest.mark.only_in_full  # the commands are those of the README
def test_python_alone(tmp_path: Path) -> None:
    environment = {"WORKER_DATA_DIR": str(Path(memory() or tmp_path) / f"data-{tmp_path.name}")}
    try:
        with Shell(tmp_path, environment) as shell:
            *_, last = follow("Python alone", shell)
    finally:
        shutil.rmtree(environment["WORKER_DATA_DIR"], ignore_errors=True)
    assert last.endswith(FOUND)


def test_the_readme_on_your_database(db: Database, database_url: str, tmp_path: Path) -> None:
    db.execute("create table docs (id bigint primary key, title text, body text)")
    db.execute("insert into docs values (1, 'Refunds', 'You are paid back what it cost.')")
    with Shell(tmp_path, {}) as shell:
        url = ("postgresql://…", f"'{database_url}'")
        *_, last = follow("On your database", shell, url, page="README.md")
    assert "Refunds" in last.splitlines()[-1]


@pytest.mark.only_in_full  # the README has the same commands
def test_your_postgres(empty_database_url: str, tmp_path: Path) -> None:
    with Shell(tmp_path, {}) as shell:
        url = ("postgresql://USER:PASSWORD@HOST/DATABASE", empty_database_url)
        *_, last = follow("Your Postgres", shell, url)
    assert last.endswith(FOUND)


needs_supabase = pytest.mark.skipif(not supabase_is_here() and not IN_CI, reason=NO_SUPABASE)
QUIET = {"SUPABASE_YES": "true", "SUPABASE_TELEMETRY_DISABLED": "1"}


@pytest.fixture
def project(empty_project: str) -> str:
    """The URL of a Supabase project's database with the table of the page."""
    text = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    [sql] = re.findall(r"^```sql\n(.*?)^```$", text, re.M | re.S)
    with psycopg.connect(empty_project, autocommit=True) as db:
        db.execute(sql)
    return empty_project


@needs_supabase
@pytest.mark.only_in_full
def test_a_supabase_project(project: str, tmp_path: Path) -> None:
    with Shell(tmp_path, {}) as shell:
        assert next(follow("A Supabase project", shell, (POOLER, project))).endswith(FOUND)


@needs_supabase
@pytest.mark.only_in_full  # test_supabase_cli.py has the same way, from docs/supabase.md
def test_a_supabase_project_with_the_cli_and_then_over_the_data_api(
    project: str, tmp_path: Path
) -> None:
    (tmp_path / "supabase").mkdir()
    with over_tcp(project) as url, Shell(tmp_path, QUIET) as shell:
        shell.environment["PATH"] += f":{PARTS / '.bin'}"
        by_cli = follow("A Supabase project", shell, (POOLER, url), start=1)
        assert next(by_cli).endswith(FOUND)
    with data_api(project) as api, Shell(tmp_path, {}) as shell:
        values = [("https://PROJECT.supabase.co", api.url), ("sb_secret_…", api.secret_key)]
        *_, last = follow("A Supabase project", shell, *values, start=2)
    assert "Opening hours" in last
