"""What the documentation lists is what there is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import typer
from dotenv import dotenv_values

from worker import __version__, cli, errors
from worker.database.migrations import SCHEMA_VERSION, migrations
from worker.embedders.models import CHAT_PRICES, MODELS, ModelInfo
from worker.embedders.rerankers import PRICES
from worker.engine.events import EVENTS
from worker.errors import WorkerError
from worker.files.parsing.archives import MOST_ENTRIES, MOST_RATIO, MOST_UNPACKED, SMALL
from worker.files.parsing.detection import FORMATS
from worker.files.parsing.markdown import MOST_ROWS
from worker.files.parsing.options import MB, ParseOptions
from worker.files.parsing.results import HINTS
from worker.settings import Settings

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
CONFIGURATION = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
PROVIDERS = (REPOSITORY / "docs" / "providers.md").read_text(encoding="utf-8")
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
FILES = (REPOSITORY / "docs" / "files.md").read_text(encoding="utf-8")
SQL_API = (REPOSITORY / "docs" / "sql-api.md").read_text(encoding="utf-8")
CLI = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")

group = typer.main.get_command(cli.app)
assert isinstance(group, typer.core.TyperGroup)


def commands_in(group: typer.core.TyperGroup) -> dict[str, typer.core.TyperCommand]:
    """All commands by their names, those of groups with the name of the group in front."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            if command.invoke_without_command:
                found[name] = command
            found |= {f"{name} {of_group}": each for of_group, each in commands_in(command).items()}
        else:
            found[name] = command
    return found


COMMANDS = commands_in(group)

each_command = pytest.mark.parametrize("name", COMMANDS)


def table(text: str, *head: str) -> list[list[str]]:
    """The cells of the only table in `text` with these heads, without backquotes."""
    lines = text.splitlines()
    [start] = [number for number, line in enumerate(lines) if cells(line) == list(head)]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip("`") for cell in cells(line)])
    return rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def section(command: str) -> str:
    """What docs/cli.md says of a command."""
    [found] = re.findall(rf"^## worker {command}\n(.*?)(?=^## |\Z)", CLI, re.M | re.S)
    return str(found)


# The settings


def test_every_variable_is_in_the_example_file_once() -> None:
    listed = re.findall(r"^# ([A-Z][A-Z0-9_]+)=", EXAMPLE, re.M)
    assert sorted(listed) == sorted(Settings.variables())


def test_the_example_file_sets_nothing_as_it_is() -> None:
    assert not re.findall(r"^[^#\n]", EXAMPLE, re.M)


def test_each_variable_of_the_example_file_is_explained_in_the_line_above() -> None:
    for above, line in pairwise(EXAMPLE.splitlines()):
        if re.match(r"# [A-Z][A-Z0-9_]+=", line):
            assert re.fullmatch(r"# [A-Z].*; default: .*\.", above), line


def test_the_example_file_holds_the_defaults_and_no_secrets(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(re.sub(r"^# (?=[A-Z][A-Z0-9_]+=)", "", EXAMPLE, flags=re.M))
    assert dotenv_values(dotenv).keys() == Settings.variables()
    assert Settings.load({}, dotenv) == Settings()


def test_the_table_of_variables_lists_each_once_with_its_default() -> None:
    rows = table(CONFIGURATION, "variable", "type", "unit", "default", "what")
    assert sorted(row[0] for row in rows) == sorted(Settings.variables())
    given = {name: default for name, _, _, default, _ in rows if default != "none"}
    assert Settings.from_mapping(given) == Settings()
    assert given.keys() == {
        name.upper()
        for name in Settings.__dataclass_fields__
        if getattr(Settings(), name) is not None
    }


def test_the_table_of_variables_says_which_are_secret() -> None:
    rows = table(CONFIGURATION, "variable", "type", "unit", "default", "what")
    documented = {name for name, kind, *_ in rows if "secret" in kind}
    marked = Settings.__dataclass_fields__.items()
    assert documented == {name.upper() for name, setting in marked if not setting.repr}


# The commands


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert sorted(re.findall(r"^## worker (.+)$", CLI, re.M)) == sorted(COMMANDS)


@each_command
def test_every_command_has_help(name: str) -> None:
    assert COMMANDS[name].help


@each_command
def test_every_argument_and_option_has_help(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), parameter.name


@each_command
def test_the_section_of_a_command_mentions_every_flag_and_no_other(name: str) -> None:
    flags = {
        flag
        for parameter in COMMANDS[name].params
        for flag in [*parameter.opts, *parameter.secondary_opts]
    }
    flags = {flag for flag in flags if flag.startswith("--")}
    text = re.sub(r"```.*?```", "", section(name), flags=re.S)
    assert set(re.findall(r"--[a-z][a-z-]*", text)) == flags


@each_command
def test_a_command_with_json_has_its_fields_in_its_section(name: str) -> None:
    if any("--json" in parameter.opts for parameter in COMMANDS[name].params):
        assert "| field | type | unit | meaning |" in section(name)


# The exit codes


def error_classes(base: type[WorkerError] = WorkerError) -> Iterator[type[WorkerError]]:
    yield base
    for subclass in base.__subclasses__():
        yield from error_classes(subclass)


def test_the_table_of_exit_codes_is_complete() -> None:
    documented = [int(row[0]) for row in table(CLI, "code", "meaning", "what to do")]
    codes = {error.exit_code for error in error_classes()}
    assert documented == sorted(codes | {0, 130})


def test_the_help_lists_the_same_exit_codes() -> None:
    listed = re.findall(r"\b\d+\b", str(cli.app.info.epilog))
    assert listed == [row[0] for row in table(CLI, "code", "meaning", "what to do")]


def test_the_tree_of_errors_gives_their_exit_codes() -> None:
    tree = re.findall(r"([A-Z]\w+) .*exit (\d)$", str(errors.__doc__), re.M)
    assert tree
    for name, code in tree:
        assert getattr(errors, name).exit_code == int(code), name


def test_every_error_is_in_the_tree() -> None:
    assert all(error.__name__ in str(errors.__doc__) for error in error_classes())


# The checks of the doctor


def test_the_table_of_the_doctors_checks_is_complete() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in (REPOSITORY / "worker/doctor").glob("*.py")
    )
    made = re.findall(r'Finding\(\s*"(\w+)",\s*"(\w+)"', source)
    documented = {
        (level, check)
        for check, levels, _ in table(CLI, "check", "level", "when")
        for level in levels.split(", ")
    }
    assert set(made) == documented


# The models, and how they fail


def others(about: ModelInfo) -> str:
    """The dimensions that a model has on request."""
    fewer = ["any fewer"] if about.shortens else []
    return ", ".join([*fewer, *(str(w) for w in about.widths if w != about.width)]) or "none"


def test_the_table_of_known_models_is_that_of_the_code() -> None:
    head = ("model", "dimensions", "others on request", "tokens a text")
    rows = table(PROVIDERS, *head, "US dollars for a million tokens")
    assert rows == [
        [
            name,
            str(about.width),
            others(about),
            str(about.tokens or "unknown"),
            "none" if about.price is None else f"{about.price:.2f}",
        ]
        for name, about in MODELS.items()
    ]


def test_the_table_of_rerankers_is_that_of_the_code() -> None:
    assert {
        name.partition(":")[2]: cost for name, cost in table(PROVIDERS, "reranker", "US dollars")
    } == {
        name: f"{price.search:.4f} for a search"
        if price.search
        else f"{price.tokens:.2f} for a million tokens"
        for name, price in PRICES.items()
    }


def test_the_table_of_prices_of_chat_models_is_that_of_the_code() -> None:
    rows = table(PROVIDERS, "chat model", "US dollars for a million tokens read", "written")
    assert rows == [
        [f"openai:{name}", f"{price.read:.2f}", f"{price.written:.2f}"]
        for name, price in CHAT_PRICES.items()
    ]


def test_the_table_of_error_classes_is_complete() -> None:
    described = re.findall(r"^    ([a-z]\w+)  +\w", str(errors.Transient.__doc__), re.M)
    described += re.findall(r"^    ([a-z]\w+)  +\w", str(errors.Rejected.__doc__), re.M)
    refused = re.findall(
        r'40[134]: "(\w+)"|ProviderRefused\([^)]*error_class="(\w+)"|error_class: str = "(\w+)"',
        "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "worker").rglob("*.py")),
    )
    classes = {
        *described,
        *(name for names in refused for name in names if name),
        "wrong_width",
        "not_configured",
    }
    assert len(described) == 11
    assert classes == {row[0] for row in table(PROVIDERS, "class", "when", "what the worker does")}


# The formats of files


def test_the_table_of_formats_is_that_of_the_code() -> None:
    rows = table(FILES, "format", "recognised by", "what is kept", "page")
    assert [name for name, *_ in rows] == list(FORMATS)
    for name, recognised_by, *_ in rows:
        if name != "code":
            ends = re.findall(r"(?:^|`)(\w+)(?=`|$)", recognised_by.removeprefix("content"))
            assert tuple(ends) == FORMATS[name].suffixes, name


def test_the_table_of_the_error_classes_of_files_is_that_of_the_code() -> None:
    rows = table(FILES, "class", "when", "what to do")
    assert {name: hint for name, _, hint in rows} == HINTS


def test_the_table_of_limits_of_files_has_those_of_the_code() -> None:
    options = ParseOptions()
    limits = {limit: default for limit, default, _ in table(FILES, "limit", "default", "on")}
    assert limits == {
        "time for one file": f"{options.seconds:g} s",
        "memory of a parser": f"{options.memory_mb} MB of address space",
        "size of a file": f"{options.most_bytes // MB} MB",
        "length of its text": f"{options.most_characters:,} characters",
        "rows of its tables": f"{MOST_ROWS:,}",
        "unpacked size of DOCX, PPTX, XLSX, EPUB": (
            f"{MOST_UNPACKED // MB} MB, and above {SMALL // MB} MB at most {MOST_RATIO} times the"
            " packed size"
        ),
        "entries of their archives": f"{MOST_ENTRIES:,}",
    }


# The checks of the database


def test_the_table_of_checks_is_complete() -> None:
    folder = REPOSITORY / "supabase" / "migrations"
    checks = [
        check
        for path in (*folder.glob("*_diagnose_*.sql"), *folder.glob("*_sample.sql"))
        for check in re.findall(
            r"'(?:problem|warning|note)'(?: end)?,\s+'(\w+)',", path.read_text(encoding="utf-8")
        )
    ]
    assert sorted(row[0] for row in table(SQL_API, "check", "level", "when")) == sorted(set(checks))


# The files


def test_the_architecture_names_files_that_exist() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"\b([a-z_]+\.py)\b", text):
        assert any(list((REPOSITORY / part).rglob(name)) for part in ("worker", "tests")), name
    for folder in re.findall(r"`(worker/\w+)/", text):
        assert (REPOSITORY / folder).is_dir(), folder


def test_the_docs_list_the_migrations_to_the_last_one() -> None:
    docs = "".join((REPOSITORY / "docs" / name).read_text() for name in ("cli.md", "supabase.md"))
    last = migrations()[-1]
    copied = (
        f"{len(migrations()):04}_{last.copy_name}.sql\n.env\n{len(migrations())} migrations copied"
    )
    assert docs.count(copied) == docs.count(" migrations copied") == 2
    settings = re.findall(r"^# [A-Z0-9_]+=", (REPOSITORY / ".env.example").read_text(), re.M)
    assert docs.count(f"\n{len(settings)} settings added to .env") == 2
    assert f"…\n{last.version}  {last.name} " in docs


def test_the_table_of_versions_has_one_schema_for_each_minor_release() -> None:
    upgrade = (REPOSITORY / "docs" / "upgrade.md").read_text(encoding="utf-8")
    rows = table(upgrade, "worker", "schema")
    minors = [minor for minor, _ in rows]
    assert __version__.rpartition(".")[0] in minors[-2:], "the last one may be the next release"
    assert [int(schema) for _, schema in rows] == list(range(1, SCHEMA_VERSION + 1))


# The events


def emitted() -> Iterator[tuple[str, set[str]]]:
    """The events that the code tells of by name, with the fields it names."""
    for path in (REPOSITORY / "worker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="event"), args=[ast.Constant(value=str(name))]
                ):
                    yield name, {keyword.arg for keyword in node.keywords if keyword.arg}


def test_the_table_of_events_is_complete() -> None:
    rows = table(OPERATIONS, "event", "level", "fields", "when")
    assert [(name, level) for name, level, _, _ in sorted(rows)] == sorted(
        (name, level) for name, (level, _) in EVENTS.items()
    )


def test_the_table_of_events_has_every_field() -> None:
    documented = {
        name: set(fields.split(", "))
        for name, _, fields, _ in table(OPERATIONS, "event", "level", "fields", "when")
    }
    for name, (_, sentence) in EVENTS.items():
        assert {field for _, field, _, _ in Formatter().parse(sentence) if field} <= (
            documented[name]
        ), name
    for name, fields in emitted():
        assert fields <= documented[name], name
