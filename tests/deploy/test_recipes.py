"""Whatever the files of deploy/ name exists: commands with their options, settings, and pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.deploy.linters import DEPLOY
from tests.unit.test_documentation import COMMANDS, group
from worker import __version__
from worker.cli import UsageError
from worker.settings import Settings

HERE = {path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "secret.env"}
FILES = sorted(path for path in HERE if "grafana" not in path.name)
COMMENT = re.compile(r"^\s*(#|--|//)")
WORDS = r"worker ([a-z][\w-]*(?: [\w./:=%-]+)*)"
COMMAND = re.compile(rf"(?:^|[\s/\"'=(]){WORDS}")
IN_BACKTICKS = re.compile(rf"`{WORDS}")
ARGUMENTS = re.compile(r"\b(?:args|command): \[(.+)\]")
VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
PAGE = re.compile(r"(docs/[\w-]+\.md)(?:, \"([^\"]+)\")?")
OF_OTHERS = {
    **dict.fromkeys(["AF_INET", "AF_INET6", "AF_UNIX"], "systemd"),
    "POSTGRES_PASSWORD": "the image of Postgres",
    "UV_SYSTEM_CERTS": "uv",
    "AF_INET": "systemd",
    "AF_INET6": "systemd",
    "AF_UNIX": "systemd",
    "ALLOWED_ORIGIN": "supabase-function",
    "ON_FAILURE": "Railway",
    "PYTHON_VERSION": "Render",
    "WORKER_URL": "supabase-function",
}
"""Names in capitals that are no settings of the worker, and whose they are."""


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of `worker` in each of its calls; in a comment, only those in backticks."""
    for line in text.splitlines():
        found = IN_BACKTICKS.findall(line)
        if not COMMENT.match(line):
            found = COMMAND.findall(line)
            for arguments in ARGUMENTS.findall(line):
                yield [word.strip(" \"'") for word in arguments.split(",")]
        yield from (words.split() for words in found)


def parse(words: list[str]) -> None:
    """Parse the arguments as `worker` does. Raises UsageError."""
    line = f"{' '.join(words)} "
    path = max((name.split() for name in COMMANDS if line.startswith(f"{name} ")), default=[])
    assert path, f"there is no command `worker {line.strip()}`"
    with group.make_context("worker", list(words)) as context:
        COMMANDS[" ".join(path)].make_context(path[-1], words[len(path) :], parent=context)


def unknown(text: str) -> set[str]:
    """The variables in a text that nobody reads."""
    return set(VARIABLE.findall(text)) - Settings.variables() - OF_OTHERS.keys()


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))


@each_file
def test_the_commands_and_settings_of_a_file_are_those_of_the_worker(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for words in commands(text):
        parse(words)
    assert unknown(text) == set()


def test_the_commands_are_found() -> None:
    found = [" ".join(words) for path in FILES for words in commands(path.read_text("utf-8"))]
    assert {"run", "serve", "migrate", "backfill", "backup --keep 7d"} <= set(found)


@pytest.mark.parametrize("typo", ["ExecStart=/bin/worker run --sevre", "  args: [backup, --kepe]"])
def test_a_typo_in_a_command_is_found(typo: str) -> None:
    [words] = commands(typo)
    with pytest.raises(UsageError):
        parse(words)


def test_a_typo_in_a_setting_is_found() -> None:
    assert unknown("WORKER_METRICS_PROT=9400") == {"WORKER_METRICS_PROT"}


def test_recipes_install_this_version() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    versions = re.findall(r"embedding-worker(?:\[\w+\])?==([\d.]+)", "\n".join(texts))
    assert versions == [__version__] * 2, "those of GitHub Actions and Render"


def test_each_recipe_begins_with_where_it_is_explained() -> None:
    for entry in sorted(DEPLOY.iterdir()):
        files = [path for path in FILES if path == entry or entry in path.parents]
        begins = ["\n".join(path.read_text("utf-8").splitlines()[:3]) for path in files]
        pages = [page for begin in begins for page in PAGE.findall(begin)]
        assert pages or entry.suffix == ".json", f"{entry.name} names no page"
        for page, section in pages:
            text = (REPOSITORY / page).read_text(encoding="utf-8")
            assert f"# {section}\n" in text or not section, f"{page} has no section {section}"
