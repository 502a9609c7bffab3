"""`worker monitor`, and the conditions of `worker status`, on a terminal and elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import Start, fill, refused
from tests.acceptance.test_commands import documented_fields
from tests.conftest import REPOSITORY, Database, Server, Worker, rest_in_full

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m")
INTO_THE_OTHER_SCREEN, OUT_OF_IT = "\x1b[?1049h", "\x1b[?1049l"
HOSTILE = "'\\x1b]0;title\\x07[red]refused[/red]'"


class Terminal:
    """A terminal of 80 by 24 with a command on it."""

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.controller, self._terminal = pty.openpty()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = self.modes()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker", *arguments],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
            | {"TERM": "xterm-256color"}
            | environment,
            stdin=self._terminal,
            stdout=self._terminal,
            stderr=self._terminal,
        )
        self.written = ""

    def modes(self) -> list[object]:
        return termios.tcgetattr(self._terminal)

    def read_until(self, pattern: str) -> None:
        """Read on until something like that is newly written."""
        start, deadline = len(self.written), time.monotonic() + 60
        while not re.search(pattern, self.written[start:]):
            assert time.monotonic() < deadline, self.written[start:]
            self._read(1)

    def end(self) -> int:
        """Wait until the command ends, for its exit code."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.written
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self.controller], [], [], seconds)[0]:
            return False
        self.written += os.read(self.controller, 65_536).decode(errors="replace")
        return True

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)
        os.close(self.controller)


class OnTerminal:
    """Starts commands on terminals of their own."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self.started: list[Terminal] = []

    def __call__(self, *arguments: str, **environment: str) -> Terminal:
        terminal = Terminal(
            list(arguments), self._folder, {"DATABASE_URL": self._url} | environment
        )
        self.started.append(terminal)
        return terminal


@pytest.fixture
def on_terminal(tmp_path: Path, database_url: str) -> Iterator[OnTerminal]:
    starts = OnTerminal(tmp_path, database_url)
    yield starts
    for terminal in starts.started:
        terminal.close()


# worker status


def test_status_fits_a_terminal_and_shows_nothing_raw(
    local_notes: Database, on_terminal: OnTerminal
) -> None:
    fill(local_notes, 3)
    local_notes.execute(f"update embedding_queue set status = 'failed', error_message = E{HOSTILE}")
    local_notes.execute(
        "insert into embedding_workers (worker, host, pid, seen_at)"
        " values ('a:1:x', 'a', 1, now() - interval '3 min')"
    )
    terminal = on_terminal("status")
    assert terminal.end() == 0
    assert COLOUR.search(terminal.written)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.written)
    assert "[red]refused[/red]" in plain
    assert not {"\x1b", "\x07"} & set(plain)
    assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.only_in_full
def test_status_heeds_no_color(local_notes: Database, on_terminal: OnTerminal) -> None:
    terminal = on_terminal("status", NO_COLOR="1")
    assert terminal.end() == 0
    assert "notes.embedding" in terminal.written
    assert not COLOUR.search(terminal.written)


def test_a_condition_that_holds_exits_with_1_and_names_its_figure(
    local_notes: Database, worker: Worker
) -> None:
    fill(local_notes, 3)
    local_notes.execute("update embedding_queue set available_at = now() - interval '400 s'")
    result = worker("status", "--fail-if", "oldest_due > 5m", "--fail-if", "failed > 0")
    assert result.returncode == 1
    assert result.stdout.startswith("column ")
    assert re.fullmatch(r"error: oldest_due is 6 min \d+ s: oldest_due > 5m\n", result.stderr)
    calm = worker("status", "--fail-if", "oldest_due > 1h", "--fail-if", "rows_per_second < 1")
    assert (calm.stderr, calm.returncode) == ("", 0)
    found = worker("status", "--json", "--fail-if", "pending >= 3")
    assert json.loads(found.stdout)["progress"]["pending"] == 3
    assert (found.stderr, found.returncode) == ("error: pending is 3: pending >= 3\n", 1)


def test_what_is_no_condition_exits_with_2(local_notes: Database, worker: Worker) -> None:
    cause, hint = refused(worker("status", "--fail-if", "age > 5m"), 2)
    assert cause == "--fail-if 'age > 5m': there is no figure age"
    assert "oldest_due" in hint


def test_a_silent_worker_is_marked(local_notes: Database, worker: Worker) -> None:
    local_notes.execute(
        "insert into embedding_workers (worker, host, pid, seen_at) values"
        " ('a:1:x', 'a', 1, now()), ('b:1:x', 'b', 1, now() - interval '3 min')"
    )
    lines = [line.split()[:2] for line in worker("status").stdout.splitlines()[-2:]]
    assert lines == [["a:1:x", "working"], ["b:1:x", "silent"]]
    found = json.loads(worker("status", "--json").stdout)
    assert [each["silent"] for each in found["workers"]] == [False, True]
    assert list(found["progress"]) == documented_fields("## worker status", "`progress` is")
    assert list(found["workers"][0]) == documented_fields("## worker status", "In `workers`")
    assert worker("status", "--fail-if", "silent_workers > 0").returncode == 1


# worker monitor


@pytest.mark.parametrize("end", rest_in_full(["q", "Ctrl-C", "SIGTERM"]))
def test_the_terminal_is_as_it_was_however_it_ends(
    local_notes: Database, on_terminal: OnTerminal, end: str
) -> None:
    fill(local_notes, 3)
    terminal = on_terminal("monitor", "--interval", "0.2")
    terminal.read_until(r"notes\.embedding")
    terminal.read_until(r"q quits, \d\d:\d\d:\d\d")
    assert terminal.modes() != terminal.before
    if end == "SIGTERM":
        terminal.process.send_signal(signal.SIGTERM)
    elif end == "q":
        os.write(terminal.controller, b"q")
    else:
        terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == (0 if end == "q" else 130)
    assert terminal.modes() == terminal.before
    assert terminal.written.count(INTO_THE_OTHER_SCREEN) == 1
    assert terminal.written.rindex(OUT_OF_IT) > terminal.written.rindex("q quits")
    assert "Traceback" not in terminal.written


def test_an_error_leaves_the_terminal_as_it_was_and_is_told(
    local_notes: Database, on_terminal: OnTerminal
) -> None:
    terminal = on_terminal("monitor", "--interval", "0.2")
    terminal.read_until(r"notes\.embedding")
    local_notes.execute("drop function embedding_overview")
    assert terminal.end() == 3
    assert terminal.modes() == terminal.before
    told = terminal.written[terminal.written.rindex(OUT_OF_IT) :]
    assert "error: " in told
    assert "embedding_overview" in told


def test_a_database_that_goes_away_for_a_moment_is_told_and_survived(
    local_notes: Database, on_terminal: OnTerminal, server: Server
) -> None:
    terminal = on_terminal("monitor", "--interval", "0.2")
    terminal.read_until(r"q quits, \d\d:\d\d:\d\d")
    name = local_notes.info.dbname
    with psycopg.connect(server.url, autocommit=True) as others:
        others.execute(f"alter database {name} allow_connections false")
        others.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name]
        )
        terminal.read_until(r"q quits, as of \d\d:\d\d:\d\d: the database cannot be reached")
        others.execute(f"alter database {name} allow_connections true")
    terminal.read_until(r"q quits, \d\d:\d\d:\d\d")
    os.write(terminal.controller, b"q")
    assert terminal.end() == 0


def test_elsewhere_it_prints_a_line_at_a_time(local_notes: Database, start: Start) -> None:
    fill(local_notes, 3)
    process = start("monitor", "--interval", "0.2")
    assert process.stdout is not None
    for _ in range(2):
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d pending 3, due 3, oldest for \d+ s, failed 0, rows/s 0, workers 0,"
            r" silent 0\n",
            process.stdout.readline(),
        )
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 130


def test_as_json_it_prints_a_document_at_a_time(local_notes: Database, start: Start) -> None:
    fill(local_notes, 3)
    process = start("monitor", "--json", "--interval", "0.2")
    assert process.stdout is not None
    for _ in range(2):
        found = json.loads(process.stdout.readline())
        assert list(found) == documented_fields("## worker monitor", "With `--json`")
        assert found["error"] is None
        assert found["status"]["columns"][0]["pending"] == 3
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
