"""The commands in the blocks of the documentation can be typed.

Each `worker …` is read by the real command line, and each variable is a setting. And each block is
run by a test: by a `Reader`, which types whole pages or sections, or by one that is named here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.documentation import FENCE, NOT_RUN, PAGES, Block, Step, assert_shows, blocks, commands
from tests.unit.test_documentation import COMMANDS, group
from worker.settings import Settings

ELSEWHERE = {
    ".": "tests/acceptance/test_getting_started.py",
    ".venv/bin/worker": "tests/acceptance/test_demo.py",
    "/opt/embedding-worker/bin/pip": "tests/unit/test_systemd.py",
    "crontab": "tests/acceptance/test_scripts.py",
    "curl": "tests/acceptance/test_api.py",
    "docker": "scripts/test-image",
    "echo": "tests/acceptance/test_commands.py",
    "install": "tests/unit/test_systemd.py",
    "kubectl": "tests/deploy/test_kubernetes.py",
    "mail": "tests/acceptance/test_verify.py",
    "pip": "tests/acceptance/test_wheel.py",
    "psql": "tests/integration/test_pg_cron.py",
    "python3": "tests/acceptance/test_wheel.py",
    "scripts/bench": "tests/acceptance/test_benchmarks.py",
    "scripts/demo": "tests/acceptance/test_demo.py",
    "scripts/setup": "scripts/test",
    "supabase": "tests/acceptance/test_supabase_cli.py",
    "systemctl": "tests/unit/test_systemd.py",
    "systemd-run": "tests/unit/test_systemd.py",
    "tee": "tests/acceptance/test_monitor.py",
}
"""What a block may run besides `worker`, and what tries it."""
EVERYWHERE = {"cat", "cd", "cp", "do", "done", "for", "git", "mkdir", "nano", "tail", "unset"}
"""What a reader knows, and words of the shell."""
OF_PLATFORMS = {"fly", "gh", "railway"}
"""What needs an account: tests/deploy/test_platforms.py and test_workflows.py read its files."""
VARIABLES = Settings.variables() | {
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "PGOPTIONS",  # of libpq
    "EMBEDDING_BATCHSIZE",  # docs/configuration.md shows what becomes of a misspelled one
}


GETTING_STARTED = "tests/acceptance/test_getting_started.py"
COMING_FROM = "tests/acceptance/test_coming_from.py"
SUPABASE = "tests/acceptance/test_supabase_cli.py"
SEARCH = "tests/acceptance/test_search_docs.py"
PROVIDERS = "tests/acceptance/test_providers.py"
RUN_BY = {
    ("README.md", "Try it"): "tests/acceptance/test_demo.py",
    ("README.md", "On your database"): GETTING_STARTED,
    ("README.md", "On Supabase"): SUPABASE,
    ("docs/coming-from.md", "LangChain"): COMING_FROM,
    ("docs/coming-from.md", "Supabase's recipe"): COMING_FROM,
    ("docs/coming-from.md", "pgai"): COMING_FROM,
    ("docs/coming-from.md", "pg_vectorize"): COMING_FROM,
    ("docs/coming-from.md", "pgEdge Vectorizer"): COMING_FROM,
    ("docs/deployment.md", "Docker"): "tests/image/test_image.py",
    ("docs/deployment.md", "Compose"): "tests/image/test_compose.py",
    ("docs/files.md", "sql"): "tests/integration/test_file_scan.py",
    ("docs/getting-started.md", "Python alone"): GETTING_STARTED,
    ("docs/getting-started.md", "Your Postgres"): GETTING_STARTED,
    ("docs/getting-started.md", "A Supabase project"): GETTING_STARTED,
    ("docs/providers.md", "worker watch notes --source body --create-column"): PROVIDERS,
    ("docs/providers.md", "worker process\nerror: "): PROVIDERS,
    ("docs/reembedding.md", "What an app has to do"): "tests/integration/test_reembedding_guide.py",
    ("docs/search.md", "create table articles"): SEARCH,
    ("docs/search.md", "select id, content, similarity from match_articles"): SEARCH,
    ("docs/search.md", "select id, content from match_articles"): SEARCH,
    ("docs/search.md", "create table members"): SEARCH,
    ("docs/search.md", "create table manuals"): SEARCH,
    ("docs/search.md", "select id, content, heading_path, similarity from match_manuals"): SEARCH,
    ("docs/search.md", "select string_agg(content"): SEARCH,
    ("docs/search.md", "select table_name, record_id, unenhanced from embedding_queue"): SEARCH,
    ("docs/supabase.md", "Install into your project"): SUPABASE,
    ("docs/supabase.md", "Keep watches in git"): SUPABASE,
    ("docs/supabase.md", "pg_cron"): SUPABASE,
    ("docs/supabase.md", "Findings of the Supabase advisors"): SUPABASE,
    ("docs/supabase.md", "Over the Data API"): SUPABASE,
    ("docs/uninstall.md", "1. Stop the workers"): "tests/integration/test_pg_cron.py",
    ("docs/uninstall.md", "2. Take it out of the database"): "tests/acceptance/test_uninstall.py",
}
"""Which test runs the blocks of a section, in a language, or that begin so, if no `Reader` does."""
READER = re.compile(r"""\bReader\(\s*shell,\s*((?:"[^"]+"(?:,\s*)?)+)(db=db)?\s*\)""")


def typed(page: str) -> Iterator[tuple[str, list[str]]]:
    """Where each command of a page is, and its words."""
    for block in blocks(page):
        for step in block.steps():
            for words in commands(step.command):
                yield str(block), words
    text = FENCE.sub("", (REPOSITORY / page).read_text(encoding="utf-8"))
    for line in re.findall(r"^    (worker .*)$", text, re.M):
        yield page, shlex.split(line)


def problem(words: list[str]) -> str | None:
    """Why a command cannot be typed."""
    while words and (assigned := re.match(r"(?:export )?([A-Z_]+)=", " ".join(words))):
        if assigned[1] not in VARIABLES:
            return f"{assigned[1]} is no setting"
        words = words[2 if words[0] == "export" else 1 :]
    if not words or words[0] in ELSEWHERE.keys() | EVERYWHERE | OF_PLATFORMS:
        return None
    if words[0] != "worker":
        return f"nothing tries {words[0]}"
    try:
        read(words[1:])
    except Exception as refused:
        return repr(refused)
    return None


def read(words: list[str]) -> None:
    """Read arguments and options as the command does, up to its first step. Raises UsageError."""
    with group.make_context("worker", [*words]) as context:
        if words[0].startswith("-"):
            return
        name = max(each for each in COMMANDS if f"{' '.join(words)} ".startswith(f"{each} "))
        COMMANDS[name].make_context(name, words[len(name.split()) :], parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_each_command_of_a_page_can_be_typed(page: str) -> None:
    said = [(where, *words, why) for where, words in typed(page) if (why := problem(words))]
    assert said == []


def test_each_variable_of_a_page_is_a_setting() -> None:
    text = "".join((REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES)
    lines = "".join(re.findall(r"^```ini\n(.*?)^```$", text, re.M | re.S))
    assert set(re.findall(r"^([A-Z_]+)=", lines, re.M)) <= VARIABLES


def test_a_wrong_command_is_found() -> None:
    for wrong in (
        "worker serach words",
        "worker search --tabel docs words",
        "worker process --limit many",
        "EMBEDING_MODEL=m worker process",
        "wroker process",
    ):
        assert problem(shlex.split(wrong)), wrong
    assert problem(shlex.split("EMBEDDING_MODEL=m worker process --limit 3")) is None


def test_what_is_tried_elsewhere_is_there_and_needed() -> None:
    assert [path for path in ELSEWHERE.values() if not (REPOSITORY / path).exists()] == []
    programs = {words[0] for page in PAGES for _, words in typed(page)}
    assert programs >= ELSEWHERE.keys() | EVERYWHERE | OF_PLATFORMS


@pytest.mark.parametrize(
    ("shown", "stdout", "is_right"),
    [
        ("rows: 2000 in 9 s", "rows: 60 in 2 min 3 s", True),
        ("a  b\n…\nd", "a b\nc\nd", True),
        ("b", "a\nb", False),  # a line is not shown
        ("a\nb", "b\na", False),
        ("a\nc", "a\nb", False),
        ("said aside\nb", "b", True),
        ("[Refunds] The mon…", "[Refunds] The money goes back", True),
    ],
)
def test_what_a_page_shows_is_compared_with_what_is_printed(
    shown: str, stdout: str, is_right: bool
) -> None:
    step = Step("worker status", tuple(shown.splitlines()))
    with nullcontext() if is_right else pytest.raises(AssertionError):
        assert_shows(step, stdout, "said aside\nsaid too")


CONSOLES = ("console", "sh", "bash", "sql")


def test_each_block_is_run_by_a_test_or_says_why_not() -> None:
    found = [block for page in PAGES for block in blocks(page, None, CONSOLES)]
    assert [str(block) for block in not_run(found)] == []
    for page, what in RUN_BY.keys() | NOT_RUN.keys():
        assert any(page == block.page and block.is_about(what) for block in found), (page, what)


def test_a_block_that_nothing_runs_is_found() -> None:
    for section, command in (("worker process", "worker list"), ("worker sing", "worker process")):
        block = Block("docs/cli.md", section, 1, "console", f"$ {command}\n")
        assert not_run([block]) == [block]
    [block, *_] = blocks("docs/operations.md", None, ["sql"])
    assert not_run([block]) == []


def not_run(found: Iterable[Block]) -> list[Block]:
    """The blocks that no test runs, and for which no reason is given."""
    named = RUN_BY.keys() | NOT_RUN.keys()
    return [
        block
        for block in found
        if block not in read_by_readers()
        and not any(page == block.page and block.is_about(what) for page, what in named)
    ]


@cache
def read_by_readers() -> set[Block]:
    """The blocks that tests type by a `Reader`, which tell themselves if one is left out."""
    found: set[Block] = set()
    for path in (REPOSITORY / "tests/acceptance").glob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        readers = READER.findall(text)
        assert len(readers) == text.count(" Reader(") == text.count("assert page.ends()"), path
        for names, with_sql in readers:
            page, *sections = re.findall(r'"([^"]+)"', names)
            for section in sections or (None,):
                found |= {*blocks(page, section, CONSOLES if with_sql else ("console", "sh"))}
    return found


def test_each_test_that_runs_blocks_names_their_page() -> None:
    for (page, _), path in RUN_BY.items():
        assert Path(page).name in (REPOSITORY / path).read_text(encoding="utf-8"), path
    for reason in NOT_RUN.values():
        [path] = re.findall(r"tests/[\w/]+\.py", reason)
        assert (REPOSITORY / path).exists(), path
