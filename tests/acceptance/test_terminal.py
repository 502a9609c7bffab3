"""Nothing from a database, a server or a command line steers the terminal that shows it.

And whatever stdout and stderr are, there is no traceback.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Completed, Start, fill, refused
from tests.command_line import run_for_bytes
from tests.conftest import REPOSITORY, Database, Worker, eventually, rest_in_full, run_worker, value
from tests.openai_server import OpenAIServer
from worker.terminal import STEERING

# The title of the window, two ways to clear it, line breaks, right-to-left, two invisible signs.
EVIL = "x\x1b]0;OWNED\x07\x1b[2J\x9b2J\nerror: forged\r\u202e\u2066\u061c\u2028\ufeff\U000e0041y"
NAME = '"%s"' % EVIL  # noqa: UP031
JSON_COMMANDS = ("status", "list", "targets", "stats", "audit", "doctor", "process", "backfill")

Terminal = Callable[..., str]
Shell = Callable[[str], Completed]


def is_clean(text: str) -> bool:
    """Whether all that steers a terminal in it is line breaks."""
    return not STEERING.search(text.replace("\n", "")) and "Traceback" not in text


def texts_in(value: object) -> Iterator[str]:
    """All texts of a JSON document."""
    match value:
        case str():
            yield value
        case list():
            yield from (text for each in value for text in texts_in(each))
        case dict():
            yield from texts_in(list(value.values()))


@pytest.fixture
def evil(
    db: Database, worker: Worker, openai: OpenAIServer, with_openai: dict[str, str]
) -> Database:
    """Hostile names and texts in every column that a command shows, after a run."""
    db.execute(f"create table {NAME} (id text primary key, {NAME} text)")
    db.execute(
        "select watch_embeddings(%s::regclass, %s, %s, dimensions => 8)", [NAME, NAME, EVIL + "2"]
    )
    db.execute(
        f"insert into {NAME} select %s || n, %s || n from generate_series(1, 4) as n",
        [EVIL, EVIL],
    )
    openai.reject = lambda text: text.endswith("2")
    assert worker("process", **with_openai).returncode == 1
    db.execute("update embedding_queue set error_message = %s where status = 'failed'", [EVIL])
    db.execute(f"update {NAME} set {NAME} = {NAME} || '!' where id like '%3'")
    db.execute(
        "insert into embedding_workers (worker, host, pid, state, throttle_level, cause, completed,"
        " failed, started_at, seen_at)"
        " values (%s, %s, 1, 'working', 'slow', %s, 1, 1, now(), now())",
        [EVIL, EVIL, EVIL],
    )
    db.execute("select embedding_provider_report(%s, %s, %s)", [EVIL, EVIL, EVIL])
    db.execute("insert into embedding_control values (%s, 'pause')", [EVIL])
    return db


HOSTILE_COMMANDS = [
    *([name] for name in JSON_COMMANDS),
    ["process", "--dry-run"],
    ["backfill", "--dry-run"],
    ["status", "--fail-if", "failed > 0"],
    ["search", EVIL],
    ["reprocess", "*"],
    ["requeue", "--failed"],
    ["watch", NAME, "--source", NAME, "--column", EVIL + "2"],
    ["index", NAME, "--column", EVIL + "2", "--sql"],
    ["index", NAME, "--column", EVIL + "2", "--like", EVIL],
    ["index", NAME, "--column", EVIL + "2"],
    ["unwatch", NAME, "--column", EVIL + "2"],
    ["unwatch", NAME, "--column", EVIL],
    ["process", "--table", EVIL],
    ["pause", "--worker", EVIL],
    ["resume", "--worker", EVIL + "?"],
    ["status", "--fail-if", EVIL],
    ["stats", "--since", EVIL],
    ["process", "--until", EVIL],
    ["list", "--limit", EVIL],
    ["audit", "--table", NAME],
    ["audit", "--table", EVIL],
    ["list", EVIL],
    ["list", f"--{EVIL}"],
    [EVIL],
    ["init", EVIL],
    ["migrate", "--copy-to", EVIL],
]


def test_every_command_shows_hostile_names_and_texts_harmlessly(
    evil: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    for arguments in HOSTILE_COMMANDS:
        result = worker(*arguments, **with_openai)
        assert is_clean(result.stdout), (arguments, result.stdout)
        assert is_clean(result.stderr), (arguments, result.stderr)
        assert not re.search("^error: forged", result.stdout + result.stderr, re.M)


def test_json_escapes_what_a_text_shows_as_a_replacement(
    evil: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    for command in JSON_COMMANDS:
        result = worker(command, "--json", **with_openai)
        assert is_clean(result.stdout), (command, result.stdout)
        document = json.loads(result.stdout)
        if command in ("status", "list", "targets", "audit"):
            assert any(EVIL in text for text in texts_in(document)), command


@pytest.mark.parametrize("format", rest_in_full(["console", "json"]))
def test_the_log_of_a_run_is_harmless(
    evil: Database, start: Start, with_openai: dict[str, str], format: str
) -> None:
    process = start("run", WORKER_LOG_FORMAT=format, WORKER_LOG_LEVEL="debug", **with_openai)
    assert process.stderr
    eventually(
        lambda: (
            "completed 3"
            in value(
                evil,
                "select string_agg(status || ' ' || count, ',') from"
                " (select status, count(*) from embedding_queue group by status) as found",
            )
        ),
        within=60,
    )
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert is_clean(log), log
    assert "batch_done" in log
    if format == "json":
        assert [json.loads(line)["event"] for line in log.splitlines()]


def test_what_is_asked_is_harmless(evil: Database, terminal: Terminal) -> None:
    shown = terminal("n\n", "reprocess", "*")
    assert "Embed these again? [y/N]" in shown
    assert is_clean(shown.replace("\r", ""))


@pytest.mark.parametrize(
    "arguments", rest_in_full([["status"], ["monitor", "--interval", "0.1"], ["process"]], 2)
)
def test_a_screen_has_no_escapes_but_its_own(
    evil: Database, terminal: Terminal, with_openai: dict[str, str], arguments: list[str]
) -> None:
    shown = terminal("q", *arguments, TERM="xterm-256color", **with_openai)
    ours = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.replace("\r", ""))
    assert is_clean(ours), ours
    assert "\x1b[2J\ufffd" not in shown
    assert "OWNED" in shown or arguments == ["process"]


def test_a_migration_is_valid_sql_whatever_is_in_it(
    evil: Database, worker: Worker, with_openai: dict[str, str]
) -> None:
    literal = "'" + EVIL + "\\'"
    arguments = [NAME, "--source", NAME, "--column", EVIL + "2", "--filter", f"id <> {literal}"]
    result = worker("watch", *arguments, "--sql", **with_openai)
    assert is_clean(result.stdout)
    assert result.returncode == 0, result.stderr
    evil.execute(result.stdout.encode())
    found = value(evil, "select filter from embedding_targets")
    assert literal in found


def test_a_migration_of_ordinary_names_is_as_it_was(worker: Worker, notes: Database) -> None:
    result = worker("watch", "notes", "--source", r"body || '\'", "--column", "embedding", "--sql")
    assert "'body || ''\\'''::" in result.stdout


def test_bytes_that_are_no_text_are_refused(notes: Database, worker: Worker) -> None:
    cause, _ = refused(
        worker("watch", "notes", "--source", "b\udcff", "--column", "embedding", "--sql"), 2
    )
    assert "not UTF-8" in cause


# The encodings


@pytest.mark.parametrize("encoding", rest_in_full(["cp1252", "utf-16", "ascii"], 2))
def test_every_encoding_is_served(
    local_notes: Database, database_url: str, tmp_path: Path, encoding: str
) -> None:
    local_notes.execute("insert into notes values (1, 'é 文 … 🙂'), (2, '█')")
    environment = {"DATABASE_URL": database_url, "PYTHONIOENCODING": encoding}
    for arguments in (
        ["process"],
        ["status"],
        ["status", "--json"],
        ["search", "é 文"],
        ["search", "é 文", "--json"],
        ["list"],
        ["watch", "notes", "--source", "body || '文'", "--column", "embedding", "--sql"],
        ["process", "--table", "文"],
        ["--help"],
    ):
        result = run_raw(*arguments, cwd=tmp_path, environment=environment)
        assert b"Error" not in result.stderr, result.stderr
        assert result.returncode == (2 if "--table" in arguments else 0), result.stderr
        shown = result.stdout.decode(encoding)
        if "--json" in arguments:
            assert json.loads(shown)
        if arguments == ["status"]:
            assert (
                "██████ 100.0%" if encoding in ("utf-8", "utf-16", "cp437") else "###### 100.0%"
            ) in shown
        if arguments == ["search", "é 文"]:
            assert ("文" in shown) is encoding.startswith("utf")
            assert "é" in shown or encoding == "ascii"


def test_the_c_locale_is_served(local_notes: Database, database_url: str, tmp_path: Path) -> None:
    fill(local_notes, 2)
    environment = {
        "DATABASE_URL": database_url,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
    }
    environment["PYTHONPATH"] = str(REPOSITORY)  # a Python of its own, which chooses the encoding
    assert run_worker("process", cwd=tmp_path, environment=environment).returncode == 0
    result = run_worker("status", cwd=tmp_path, environment=environment)
    assert "###### 100.0%" in result.stdout


def test_the_bar_of_a_run_is_plain_where_it_has_to_be(
    local_notes: Database, terminal: Terminal
) -> None:
    fill(local_notes, 2)
    shown = terminal("", "process", TERM="xterm", PYTHONIOENCODING="ascii")
    assert "#" * 30 in shown
    assert "100%" in shown


# Streams that are closed


CLOSED = [
    *(("status", way) for way in (">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true")),
    *(("monitor --interval 0.1", way) for way in ("| head -c 1", "--json | head -1")),
    *(("process", way) for way in ("<&- >&- 2>&-", "2>&1 | true")),
    ("targets --json", "| true"),
    ("migrate", "| true"),
    ("--help", "| true"),
    ("nonsense", "2>&1 | true"),
]


def test_a_stream_that_nobody_reads_ends_without_a_traceback(
    local_notes: Database, shell: Shell, full: bool
) -> None:
    fill(local_notes, 3)
    for command, way in CLOSED if full else CLOSED[:6]:
        result = shell(f"'{sys.executable}' -m worker {command} {way}")
        assert not re.search("Traceback|Exception ignored|Error", result.stderr), (command, way)


def test_jobs_are_embedded_though_nobody_reads_the_summary(
    local_notes: Database, shell: Shell
) -> None:
    fill(local_notes, 3)
    result = shell(f"'{sys.executable}' -m worker process | true; exit ${{PIPESTATUS[0]}}")
    assert (result.returncode, result.stderr) == (0, "")
    assert value(local_notes, "select count(*) from notes where embedding is not null") == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_below_stdout_is_an_error(local_notes: Database, shell: Shell) -> None:
    result = shell(f"'{sys.executable}' -m worker targets --json > /dev/full")
    assert refused(result, 1) == (
        "the output cannot be written: No space left on device",
        "Free some space, or write to another place.",
    )


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Shell:
    """Runs a line of bash on the database of this test."""

    def shell(line: str) -> Completed:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(REPOSITORY),
                "DATABASE_URL": database_url,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return shell


def run_raw(
    *arguments: str, cwd: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """`worker ARGUMENTS`, with the bytes that it writes."""
    return run_for_bytes(arguments, cwd, {"PATH": os.environ["PATH"], **environment}, 60)


@pytest.fixture
def terminal(database_url: str, tmp_path: Path) -> Terminal:
    """Runs the command line on a terminal of 100 by 40, types something, returns all it shows."""

    def terminal(typed: str, *arguments: str, **environment: str) -> str:
        controller, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", *arguments],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(REPOSITORY),
                "DATABASE_URL": database_url,
                "COLUMNS": "100",
                "LINES": "40",
                **environment,
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(controller, 65536)
            except OSError:  # nobody has it open any more
                break
            if not shown and typed:
                os.write(controller, typed.encode())
            shown += piece
        process.wait(timeout=60)
        os.close(controller)
        return shown.decode(errors="replace")

    return terminal
